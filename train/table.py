"""The ablation's table, mean ± standard deviation over seeds, in per cent:  python train/table.py train/results/*.json"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from questions import KINDS


def percentages(entry: dict, split: str) -> list[float]:
    """Accuracy by kind of question, then over all of them."""
    counts = [entry[split][kind] for kind in KINDS]
    return [100 * right / number for right, number in [*counts, tuple(map(sum, zip(*counts)))]]


def main() -> None:
    entries = [entry for path in sys.argv[1:] for entry in json.loads(Path(path).read_text())]
    variants = list(dict.fromkeys((e["connector"], e["scan"]) for e in entries))
    for split in ("fresh", "held-out"):
        print(f"\n{split}\n\n| connector | scan | seeds | {' | '.join(KINDS)} | all |\n|{'---|' * (len(KINDS) + 4)}")
        for connector, scan in variants:
            rows = np.array([percentages(e, split) for e in entries if (e["connector"], e["scan"]) == (connector, scan)])
            cells = [f"{m:.1f} ± {s:.1f}" for m, s in zip(rows.mean(0), rows.std(0, ddof=1))]
            print(f"| {connector} | {'–' if connector == 'mlp' else scan} | {len(rows)} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
