"""Scenes and questions packed into arrays, made by worker processes in a fixed order.

Block number n of a stream is a function of (seed, n) alone, so training data do not depend on how many workers made it.
"""

from __future__ import annotations

import multiprocessing
from dataclasses import dataclass
from functools import lru_cache
from itertools import count
from pathlib import Path
from typing import Iterator

import numpy as np

from questions import KINDS, as_text, ask, ask_any, reword
from scenes import COLOURS, MAX_EDGES, MAX_OBJECTS, SHAPES, SIZES, BACKGROUNDS, Scene, sample_scene
from tokenizer import END_ID, PADDING_ID, Tokenizer

ROOT = Path(__file__).resolve().parent.parent
FONTS = ROOT / ".carry" / "fonts"

BLOCK = 512                 # scenes a block
WRITING = 128               # of which with a written word: always the first ones
SHORT, SHORT_LENGTH = 6, 24  # questions a scene, tokens each (prompt, answer and end)
LONG_LENGTH = 64            # one description, or a conversation of two or three turns
TEXT_LENGTH = 100           # the scene as text, as long as a picture's rows
WORD_HEIGHT, WORD_WIDTH, LETTERS = 40, 256, 8
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"


def prompt_of(question: str, rng: np.random.Generator | None = None) -> str:
    """The text after `<image>`: the chat template's form, or with `rng` any of the forms people may use."""
    chance = rng.random() if rng is not None else 0.0
    if chance < 0.5:
        return f"\n{question}\nAnswer:"
    if chance < 0.82:
        return f"\nQuestion: {question}\nAnswer:"
    if question[-1] not in ".?":
        question += "?"
    return f"\n{question}\n" if chance < 0.91 else f"\n{question}"


@lru_cache(maxsize=512)
def _font(path: str, size: int):
    from PIL import ImageFont
    return ImageFont.truetype(path, size)


def font_files(folder: Path = FONTS) -> list[str]:
    return sorted(str(p) for p in folder.iterdir() if p.suffix in (".ttf", ".otf"))


def word_bitmap(text: str, font: str) -> tuple[np.ndarray, tuple[int, int], np.ndarray]:
    """Coverage [40, 256] of a word at the top left, its size in pixels, and where its letters begin and end [9]."""
    from PIL import Image, ImageDraw
    for size in (31, 26, 21, 17):
        face = _font(font, size)
        left, top, right, bottom = face.getbbox(text)
        if right - left <= WORD_WIDTH - 2 and bottom - top <= WORD_HEIGHT - 2:
            break
    image = Image.new("L", (WORD_WIDTH, WORD_HEIGHT))
    ImageDraw.Draw(image).text((1 - left, 1 - top), text, fill=255, font=face)
    width, height = min(right - left + 2, WORD_WIDTH), min(bottom - top + 2, WORD_HEIGHT)
    ends = [face.getlength(text[:i]) - left + 1 for i in range(1, len(text) + 1)]
    limits = np.full(LETTERS + 1, 1e4, np.float32)
    limits[: len(ends) + 1] = [0.0, *ends]
    return np.asarray(image), (width, height), limits


def pack_scene(scene: Scene, fonts: list[str]) -> dict[str, np.ndarray]:
    """One scene as arrays: geometry and colours for render.py, classes for the encoder's own training."""
    row: dict[str, np.ndarray] = {
        "edges": np.zeros((MAX_OBJECTS, MAX_EDGES, 4), np.float32),
        "edge_count": np.zeros(MAX_OBJECTS, np.int32),
        "rgb": np.zeros((MAX_OBJECTS, 3), np.float32),
        "classes": np.zeros((MAX_OBJECTS, 3), np.int8),          # shape, colour, size
        "centres": np.zeros((MAX_OBJECTS, 3), np.float32),       # x, y, radius
        "ground": np.array([scene.colours[0], scene.colours[1]], np.float32),
        "ground_kind": np.array(BACKGROUNDS.index(scene.background), np.int8),
        "roughness": np.array(scene.roughness, np.float32),
        "outline": np.array([scene.outline, *scene.outline_rgb], np.float32),
    }
    for i, thing in enumerate(scene.things):
        row["edges"][i, : len(thing.edges)] = thing.edges
        row["edge_count"][i] = len(thing.edges)
        row["rgb"][i] = thing.rgb
        row["classes"][i] = SHAPES.index(thing.shape), COLOURS.index(thing.colour), SIZES.index(thing.size)
        row["centres"][i] = thing.x, thing.y, thing.radius
    if scene.writing is not None:
        word = scene.writing
        bitmap, (width, height), limits = word_bitmap(word.text, fonts[word.font])
        tall = word.width * height / width * scene.aspect
        shrink = min(1.0, 0.3 / tall)
        row["word"] = bitmap
        # Centre, size (fractions of the picture), angle, the bitmap's used part, width over height of the picture.
        row["word_frame"] = np.array([word.x, word.y, word.width * shrink, tall * shrink, word.angle, width, height,
                                      scene.aspect], np.float32)
        row["word_rgb"] = np.array(word.rgb, np.float32)
        row["word_limits"] = limits
        letters = np.full(LETTERS, len(ALPHABET), np.int8)
        letters[: len(word.text)] = [ALPHABET.index(c) for c in word.text]
        row["word_letters"] = letters
        row["word_colour"] = np.array(COLOURS.index(word.colour), np.int8)
    return row


def pack_turns(turns: list[tuple[str, str]], length: int, tokenizer: Tokenizer) -> tuple[np.ndarray, np.ndarray] | None:
    """Token ids [length] of prompts and answers in turn, and which of them are an answer's; None when too long."""
    ids: list[int] = []
    mask: list[bool] = []
    for prompt, answer in turns:
        question_ids, answer_ids = tokenizer.encode(prompt), [*tokenizer.encode(answer), END_ID]
        ids += question_ids + answer_ids
        mask += [False] * len(question_ids) + [True] * len(answer_ids)
    if len(ids) > length:
        return None
    pad = length - len(ids)
    return np.array(ids + [PADDING_ID] * pad, np.int16), np.array(mask + [False] * pad)


def pack_questions(scene: Scene, rng: np.random.Generator, tokenizer: Tokenizer) -> dict[str, np.ndarray]:
    """Six short questions and one long text about a scene, and the scene as text, all as token ids."""
    short: list[tuple[np.ndarray, np.ndarray]] = []
    kinds: list[int] = []
    asked = ask_any(scene, rng, SHORT + 2)
    for question in asked * 3:
        packed = pack_turns([(prompt_of(reword(question.question, rng), rng), question.answer)], SHORT_LENGTH, tokenizer)
        if packed is not None and len(short) < SHORT:
            short.append(packed)
            kinds.append(KINDS.index(question.kind))
    long = None
    described = ask(scene, rng, "describe") if rng.random() < 0.85 else None
    if described is not None:
        long = pack_turns([(prompt_of(reword(described.question, rng), rng), described.answer)], LONG_LENGTH, tokenizer)
    if long is None:
        order = rng.permutation(len(asked))[:3]
        turns = [(f"{'' if n else chr(10)}{asked[i].question}\nAnswer:", asked[i].answer) for n, i in enumerate(order)]
        long = pack_turns(turns, LONG_LENGTH, tokenizer) or pack_turns(turns[:1], LONG_LENGTH, tokenizer)
    prefix = tokenizer.encode(as_text(scene))[:TEXT_LENGTH]
    return {
        "short": np.stack([s[0] for s in short]), "short_mask": np.stack([s[1] for s in short]),
        "short_kind": np.array(kinds, np.int8), "long": long[0], "long_mask": long[1],
        "text": np.array([PADDING_ID] * (TEXT_LENGTH - len(prefix)) + prefix, np.int16),
    }


Block = dict[str, np.ndarray]


def make_block(job: tuple[int, int, str]) -> Block:
    """Block `number` of stream `seed`. What is in it: "scenes" to draw; "questions": scenes and questions about them;
    "held-out": the same with unseen pairs and words; "text": scenes only to be read as text, and questions."""
    seed, number, what = job
    rng = np.random.default_rng((seed, number))
    fonts, tokenizer = font_files(), _tokenizer()
    held_out = what == "held-out"
    rows: list[dict[str, np.ndarray]] = []
    for i in range(BLOCK):
        scene = sample_scene(rng, writing=i < WRITING, fonts=len(fonts), held_out=held_out, fresh_words=held_out,
                             all_pairs=what == "text")
        row = pack_scene(scene, fonts) if what != "text" else {}
        if what != "scenes":
            row |= pack_questions(scene, rng, tokenizer)
        rows.append(row)
    return stack_rows(rows)


def stack_rows(rows: list[dict[str, np.ndarray]]) -> Block:
    """Rows as arrays; word_* have one entry for each row that has a word, and those rows must come first."""
    return {key: np.stack([row[key] for row in rows if key in row]) for key in {k for row in rows for k in row}}


@lru_cache(maxsize=1)
def _tokenizer() -> Tokenizer:
    return Tokenizer()


@dataclass
class Stream:
    """Blocks 0, 1, 2, … of a seed, made ahead of time by `workers` processes."""

    seed: int
    workers: int
    what: str

    def __iter__(self) -> Iterator[Block]:
        with multiprocessing.get_context("spawn").Pool(self.workers) as pool:
            pending = [pool.apply_async(make_block, ((self.seed, n, self.what),)) for n in range(4 * self.workers)]
            for number in count(len(pending)):
                yield pending.pop(0).get()
                pending.append(pool.apply_async(make_block, ((self.seed, number, self.what),)))
