"""Answers the questions of a folder's questions.json greedily, in float32 on the CPU, and counts the right ones.

    python train/evaluate.py test/fixtures/demo [--model models/demo] [--wrong]

Right means: equal after lower-casing and dropping punctuation.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from checkpoint import load_model
from data import prompt_of
from model import VLMamba
from questions import normalise
from render import normalised
from tokenizer import DEMO, END_ID, Tokenizer


def read_picture(path: Path, size: int) -> Tensor:
    """What the encoder reads, [1, 3, size, size]: RGB, squashed with Pillow's bicubic, (v / 255 - 0.5) / 0.5."""
    picture = Image.open(path).convert("RGB").resize((size, size), Image.Resampling.BICUBIC)
    return normalised(torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float() / 255)


class Answer(NamedTuple):
    text: str
    tokens: list[int]  # without the end
    first: Tensor      # the logits after the prompt, [vocab]
    margin: float      # the least lead of a chosen token over the next best


class Answerer:
    """One picture read once, many questions about it."""

    def __init__(self, model: VLMamba, tokenizer: Tokenizer, pixels: Tensor) -> None:
        self.tokenizer, self.language = tokenizer, model.language_model
        with torch.no_grad():
            _, self.states = self.language.read(model.multi_modal_projector(model.features(pixels)))

    def ask(self, question: str, limit: int = 96) -> Answer:
        """The greedy answer."""
        embed = self.language.backbone.embeddings
        logits, states = self.language.read(embed(torch.tensor([self.tokenizer.encode(prompt_of(question))])), self.states)
        first, tokens, margin = logits[0], [], float("inf")
        while len(tokens) < limit:
            best = logits[0].topk(2)
            margin = min(margin, float(best.values[0] - best.values[1]))
            if best.indices[0] == END_ID:
                break
            tokens.append(int(best.indices[0]))
            logits, states = self.language.read(embed(torch.tensor([tokens[-1:]])), states)
        return Answer(self.tokenizer.decode(tokens), tokens, first, margin)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", type=Path, default=DEMO)
    parser.add_argument("--wrong", action="store_true", help="list the wrong answers")
    options = parser.parse_args()
    torch.set_num_threads(2)
    model, tokenizer = load_model(options.model), Tokenizer(options.model / "tokenizer.json")
    counts: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(lambda: [0, 0]))
    for picture in json.loads((options.folder / "questions.json").read_text()):
        answerer = Answerer(model, tokenizer, read_picture(options.folder / picture["image"], model.config.vision.image_size))
        for asked in picture["questions"]:
            answer = answerer.ask(asked["question"]).text
            right = normalise(answer) == normalise(asked["answer"])
            for kind in (asked["kind"], "all"):
                counts[picture["set"]][kind][0] += right
                counts[picture["set"]][kind][1] += 1
            if options.wrong and not right:
                print(f"{picture['image']}: {asked['question']} {asked['answer']!r} != {answer!r}")
    for name, kinds in counts.items():
        print(name, " ".join(f"{kind} {right}/{number} ({right / number:.3f})" for kind, (right, number) in sorted(kinds.items())))


if __name__ == "__main__":
    main()
