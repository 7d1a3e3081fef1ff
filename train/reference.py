"""PyTorch's answers to 100 of the held-out questions, for the parity check of the TypeScript pipeline:

    python train/reference.py test/fixtures/demo

Writes reference.json: for each question the picture, the prompt, the greedy answer's token ids and text, the smallest
margin between the best two logits on the way, and for the first 20 the logits after the prompt (float32, little endian,
base64). Pictures are PNG only: JPEG decoders may differ in the last bit.
"""

from __future__ import annotations

import argparse
import base64
import json
from pathlib import Path

import torch

from checkpoint import load_model, write_json
from data import prompt_of
from evaluate import Answerer, read_picture
from tokenizer import DEMO, Tokenizer

QUESTIONS, WITH_LOGITS = 100, 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(2)
    model, tokenizer = load_model(DEMO), Tokenizer()
    pictures = [p for p in json.loads((options.folder / "questions.json").read_text()) if p["image"].endswith(".png")]
    turns = [(picture, n) for n in range(3) for picture in pictures if n < len(picture["questions"])][:QUESTIONS]
    answerers: dict[str, Answerer] = {}
    entries = []
    for number, (picture, n) in enumerate(turns):
        name, question = picture["image"], picture["questions"][n]["question"]
        if name not in answerers:
            answerers[name] = Answerer(model, tokenizer, read_picture(options.folder / name, model.config.vision.image_size))
        answer = answerers[name].ask(question)
        entry = {"image": name, "prompt": "<image>" + prompt_of(question), "tokens": answer.tokens, "text": answer.text,
                 "margin": round(answer.margin, 4)}
        if number < WITH_LOGITS:
            entry["logits"] = base64.b64encode(answer.first.numpy().astype("<f4").tobytes()).decode()
        entries.append(entry)
    write_json(options.folder / "reference.json", entries)
    print(f"{len(entries)} questions about {len(answerers)} pictures")


if __name__ == "__main__":
    main()
