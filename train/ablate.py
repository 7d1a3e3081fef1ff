"""The paper's connector and scan ablations (VL-Mamba Tables 4 and 5) in miniature.

    python train/ablate.py --vision runs/vision.pt --language runs/language.pt --seed 0 --out runs/ablation-0.json

For one seed, each variant goes through stage 1 and stage 2 on the same pictures (drawn and encoded once), in the same
order, for the same number of steps; then it answers the same validation questions. The seed sets the connector's first
weights and the order of the pictures.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from pathlib import Path

import torch

from checkpoint import read_safetensors, write_json
from data import BLOCK, Block, make_block
from model import Config, ConnectorConfig, VLMamba, compile_blocks
from render import CANVASES
from train import HELD_OUT_SEED, VALIDATION_SEED, Schedule, picture_features, report, run_stage, validate

VARIANTS = (("mlp", "bsm"), ("vss-mlp", "bsm"), ("vss-mlp", "csm"), ("vss-l2", "bsm"), ("vss-l2", "csm"))
DATA_SEED = 77


def encoder_weights(path: Path) -> dict[str, torch.Tensor]:
    """The encoder's own file, or its part of a checkpoint folder (the recipe leaves it as it was)."""
    if not path.is_dir():
        return torch.load(path)
    prefix = "vision_tower.vision_model."
    tensors = read_safetensors(path / "model.safetensors")
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def build(connector: str, scan: str, seed: int, options: argparse.Namespace) -> VLMamba:
    torch.manual_seed(seed)
    model = VLMamba(Config(connector=ConnectorConfig(type=connector, scan=scan))).cuda()
    model.vision_tower.vision_model.load_state_dict(encoder_weights(options.vision))
    model.language_model.load_state_dict(torch.load(options.language))
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vision", type=Path, required=True, help="runs/vision.pt, or a checkpoint folder")
    parser.add_argument("--language", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--blocks", type=int, default=32, help="of 512 training pictures")
    parser.add_argument("--batch", type=int, default=96)
    parser.add_argument("--stage1", type=int, default=70)
    parser.add_argument("--stage2", type=int, default=230)
    parser.add_argument("--workers", type=int, default=4)
    options = parser.parse_args()
    torch.set_float32_matmul_precision("high")
    compile_blocks()
    jobs = [(DATA_SEED, n, "questions") for n in range(options.blocks)]
    jobs += [(VALIDATION_SEED, n, "questions") for n in range(3)] + [(HELD_OUT_SEED, n, "held-out") for n in range(2)]
    with multiprocessing.get_context("spawn").Pool(options.workers) as pool:
        blocks: list[Block] = pool.map(make_block, jobs, chunksize=1)
    fresh, held_out = blocks[options.blocks : options.blocks + 3], blocks[options.blocks + 3 :]

    encoder = build("mlp", "bsm", 0, options)
    torch.manual_seed(DATA_SEED)
    features, texts = [], []
    for number, block in enumerate(blocks[: options.blocks]):
        batch = {k: torch.from_numpy(v).cuda() for k, v in block.items()}
        with torch.compiler.set_stance("force_eager"):
            features.append(picture_features(encoder, batch, CANVASES[number % len(CANVASES)]).bfloat16())
        texts.append({k: v for k, v in batch.items() if k.startswith(("short", "long"))})
    every = torch.cat(features)
    words = {k: torch.cat([t[k] for t in texts]) for k in texts[0]}

    results = []
    for connector, scan in VARIANTS:
        start = time.time()
        model = build(connector, scan, options.seed, options)
        order = torch.Generator().manual_seed(options.seed)

        def draw(_: int):
            at = torch.randint(options.blocks * BLOCK, (options.batch,), generator=order).cuda()
            return every[at].float(), {k: v[at] for k, v in words.items()}, None

        for name, parts, peak, steps in (
                ("stage 1", [model.multi_modal_projector], 2e-3, options.stage1),
                ("stage 2", [model.multi_modal_projector, model.language_model], 1.5e-3, options.stage2)):
            run_stage(f"{connector} {scan} {name}", model, parts, draw,
                      lambda name, adam: Schedule(name, adam, peak, steps, 1e9), "cuda")
        entry = {"connector": connector, "scan": scan, "seed": options.seed, "stage1": options.stage1,
                 "stage2": options.stage2, "batch": options.batch, "pictures": options.blocks * BLOCK,
                 "parameters": sum(p.numel() for p in model.multi_modal_projector.parameters()),
                 "fresh": validate(model, fresh, "cuda"), "held-out": validate(model, held_out, "cuda")}
        results.append(entry)
        print(connector, scan, options.seed, f"{time.time() - start:.0f} s", report(entry["fresh"]), flush=True)
        write_json(options.out, results)


if __name__ == "__main__":
    main()
