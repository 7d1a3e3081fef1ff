"""Pictures and questions the model has never seen, as files.

    python train/fixtures.py test/fixtures/demo               # the ones that travel with the repository
    python train/fixtures.py /tmp/held-out --pictures 300     # a larger set for the model card

Three sets: "fresh" scenes of the trainer's own kind; "held-out-pairs", where every question is about an object whose
shape and colour never met in a training picture; "drawn-another-way": SVG (the source lies beside the PNG that
train/draw_svg.mjs makes of it), and words in typefaces that training never saw.
"""

from __future__ import annotations

import argparse
import subprocess
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from checkpoint import write_json
from data import FONTS, font_files, pack_scene, stack_rows
from questions import KINDS, Question, ask
from render import render
from scenes import HELD_OUT_PAIRS, Scene, sample_scene
from svg import sample_svg

SEED = 20_240_320
FRESH_FONTS = FONTS.with_name("fonts-fresh")


def about_held_out(scene: Scene, question: Question) -> bool:
    """Whether the question or its answer hangs on an object of an unseen pair."""
    words = (question.question + " " + question.answer).lower()
    return any(t.shape in words or t.colour in words for t in scene.things if (t.shape, t.colour) in HELD_OUT_PAIRS)


def choose(scene: Scene, rng: np.random.Generator, number: int, held_out: bool) -> list[Question]:
    """Up to `number` questions of different kinds, in a random order of kinds."""
    chosen = []
    for i in rng.permutation(len(KINDS)):
        question = ask(scene, rng, KINDS[i])
        if question is not None and (not held_out or about_held_out(scene, question)):
            chosen.append(question)
    if scene.writing is not None:
        chosen.sort(key=lambda q: q.kind != "text")
    return chosen[:number]


def save(scene: Scene, fonts: list[str], rng: np.random.Generator, path: Path) -> str:
    """Draws a scene as a PNG, or as a JPEG where there is grain or texture; returns the file's name."""
    canvas = int(rng.choice((128, 160, 192, 240)))
    batch = {k: torch.from_numpy(v) for k, v in stack_rows([pack_scene(scene, fonts)]).items()}
    if scene.writing is None:
        batch |= {"word": torch.empty(0, 40, 256)}
    pictures, _ = render(batch, canvas, canvas, spoil=False)
    array = (pictures[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    size = round(canvas * scene.aspect**0.5), round(canvas * scene.aspect**-0.5)
    picture = Image.fromarray(array).resize(size, Image.Resampling.BICUBIC)
    if scene.roughness > 0 or rng.random() < 0.15:
        path = path.with_suffix(".jpg")
        picture.save(path, quality=int(rng.integers(55, 92)))
    else:
        path = path.with_suffix(".png")
        picture.save(path, optimize=True)
    return path.name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pictures", type=int, default=36, help="of each set")
    parser.add_argument("--questions", type=int, default=3, help="a picture, at most")
    parser.add_argument("--seed", type=int, default=SEED)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(options.seed)
    torch.manual_seed(options.seed)
    fonts, other_fonts = font_files(), font_files(FRESH_FONTS)
    entries = []
    for name in ("fresh", "held-out-pairs", "drawn-another-way"):
        held_out, another = name == "held-out-pairs", name == "drawn-another-way"
        for i in range(options.pictures):
            writing = i % 5 == 0 and not held_out
            if another and i % 10 != 5:
                scene, source = sample_svg(rng, writing=writing)
                (options.folder / f"svg-{i:03d}.svg").write_text(source)
                file = f"svg-{i:03d}.png"
            else:
                faces = other_fonts if another else fonts
                scene = sample_scene(rng, writing=writing, held_out=held_out, fonts=len(faces), fresh_words=another)
                file = save(scene, faces, rng, options.folder / f"{'font' if another else name.split('-')[0]}-{i:03d}")
            chosen = choose(scene, rng, options.questions, held_out)
            if chosen:
                entries.append({"set": name, "image": file, "questions": [q._asdict() for q in chosen]})
    write_json(options.folder / "questions.json", entries)
    subprocess.run(["node", Path(__file__).with_name("draw_svg.mjs"), options.folder], check=True)
    print(f"{len(entries)} pictures, {sum(len(e['questions']) for e in entries)} questions")


if __name__ == "__main__":
    main()
