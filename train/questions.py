"""Questions and answers about a scene. Each is asked only where its answer is beyond dispute.

An answer's form (word or sentence) follows from the question's wording, so exact match is a fair score.
"""

from __future__ import annotations

from collections import Counter
from typing import Callable, NamedTuple

import numpy as np

from scenes import COLOURS, HELD_OUT_PAIRS, SHAPES, SIZES, Scene, Thing

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six")
KINDS = ("describe", "count", "colour", "shape", "where", "exists", "larger", "text")


class Question(NamedTuple):
    kind: str
    question: str
    answer: str


Rng = np.random.Generator


def pick(rng: Rng, options):
    return options[rng.integers(len(options))]


def plural(shape: str) -> str:
    return "crosses" if shape == "cross" else shape + "s"


def article(phrase: str) -> str:
    return ("an " if phrase[0] in "aeiou" else "a ") + phrase


def capital(text: str) -> str:
    return text[0].upper() + text[1:]


def join(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def color_word(rng: Rng) -> str:
    return "colour" if rng.random() < 0.5 else "color"


def picture_word(rng: Rng) -> str:
    return pick(rng, ("picture", "picture", "image", "photo", "scene"))


def name_of(thing: Thing, things: list[Thing], rng: Rng) -> str | None:
    """A shortest phrase ("red circle", "circle", "large circle", …) that means this object and no other."""
    forms = [f"{thing.colour} {thing.shape}", thing.shape, f"{thing.size} {thing.shape}",
             f"{thing.size} {thing.colour} {thing.shape}"]
    known = [[f"{t.colour} {t.shape}", t.shape, f"{t.size} {t.shape}", f"{t.size} {t.colour} {t.shape}"] for t in things]
    order = (0, 1, 2, 3) if rng.random() < 0.75 else (1, 2, 0, 3)
    for i in order:
        if sum(k[i] == forms[i] for k in known) == 1:
            return forms[i]
    return None


def unseen(scene: Scene, shape: str, colour: str) -> bool:
    """A pair that questions about a picture do not name unless the picture shows it."""
    pair = (shape, colour)
    return pair in HELD_OUT_PAIRS and not scene.all_pairs and all((t.shape, t.colour) != pair for t in scene.things)


def left_to_right(things: list[Thing]) -> list[Thing] | None:
    """The objects by x, or None where two are too close to call."""
    ordered = sorted(things, key=lambda t: t.x)
    return ordered if all(b.x - a.x >= 0.06 for a, b in zip(ordered, ordered[1:])) else None


def describe(scene: Scene, rng: Rng) -> Question | None:
    ordered = left_to_right(scene.things)
    if ordered is None:
        return None
    word = picture_word(rng)
    style = rng.random()
    if style < 0.7:
        question = pick(rng, (f"Describe the {word}.", f"Describe this {word}.", f"What is in the {word}?",
                              f"What is in this {word}?", "What do you see?", f"What does the {word} show?",
                              "What is this?", "Describe what you see.", f"What can you see in the {word}?",
                              f"What's in the {word}?", f"Tell me about the {word}."))
        parts = [article(f"{t.size} {t.colour} {t.shape}") for t in ordered]
    elif scene.writing is not None:
        return None
    else:
        question = pick(rng, ("List the objects.", "List the shapes.", "Name the objects from left to right.",
                              "What shapes are there, from left to right?", f"List the objects in the {word}.",
                              "Name the shapes from left to right."))
        return Question("describe", question, capital(join([f"{t.colour} {t.shape}" for t in ordered])) + ".")
    if scene.writing is not None:
        what = "number" if scene.writing.text.isdigit() else "word"
        parts.append(f'the {what} "{scene.writing.text}" in {scene.writing.colour}')
    return Question("describe", question, capital(join(parts)) + ".")


def count(scene: Scene, rng: Rng) -> Question | None:
    things = scene.things
    style = rng.random()
    if style < 0.4:
        noun = pick(rng, ("objects", "shapes", "objects", "things"))
        found = len(things)
    elif style < 0.6:
        shape = pick(rng, [t.shape for t in things]) if things and rng.random() < 0.75 else pick(rng, SHAPES)
        noun, found = plural(shape), sum(t.shape == shape for t in things)
    elif style < 0.8:
        colour = pick(rng, [t.colour for t in things]) if things and rng.random() < 0.75 else pick(rng, COLOURS)
        noun, found = f"{colour} {pick(rng, ('objects', 'shapes', 'things'))}", sum(t.colour == colour for t in things)
    elif style < 0.9:
        size = pick(rng, SIZES)
        noun, found = f"{size} {pick(rng, ('objects', 'shapes'))}", sum(t.size == size for t in things)
    else:
        if not things:
            return None
        thing = pick(rng, things)
        colour = thing.colour if rng.random() < 0.7 else pick(rng, COLOURS)
        if unseen(scene, thing.shape, colour):
            return None
        noun, found = f"{colour} {plural(thing.shape)}", sum((t.shape, t.colour) == (thing.shape, colour) for t in things)
    word = NUMBERS[found]
    if rng.random() < 0.75:
        question = pick(rng, (f"How many {noun} are there?", f"How many {noun} are in the {picture_word(rng)}?",
                              f"How many {noun} do you see?", f"How many {noun} can you see?", f"How many {noun}?",
                              f"What is the number of {noun}?"))
        return Question("count", question, capital(word))
    singular = " ".join(noun.split()[:-1] + [noun.split()[-1].removesuffix("es" if noun.endswith("crosses") else "s")])
    answer = f"There is one {singular}." if found == 1 else f"There are {word if found else 'no'} {noun}."
    return Question("count", pick(rng, (f"Count the {noun}.", f"Count the {noun} in the {picture_word(rng)}.")), answer)


def colour(scene: Scene, rng: Rng) -> Question | None:
    if scene.writing is not None and (not scene.things or rng.random() < 0.5):
        what = "number" if scene.writing.text.isdigit() else "word"
        question = pick(rng, (f"What {color_word(rng)} is the {what}?", f"What {color_word(rng)} is the text?",
                              f"What is the {color_word(rng)} of the {what}?"))
        return Question("colour", question, capital(scene.writing.colour))
    if not scene.things:
        return None
    thing = pick(rng, scene.things)
    alike = [t for t in scene.things if t.shape == thing.shape]
    if len(alike) == 1:
        name = thing.shape
    elif sum(t.size == thing.size for t in alike) == 1:
        name = f"{thing.size} {thing.shape}"
    else:
        return None
    if len(scene.things) == 1 and rng.random() < 0.3:
        name = pick(rng, ("object", "shape"))
    if rng.random() < 0.75:
        word = color_word(rng)
        question = pick(rng, (f"What {word} is the {name}?", f"What is the {word} of the {name}?",
                              f"Which {word} is the {name}?", f"What {word} does the {name} have?"))
        return Question("colour", question, capital(thing.colour))
    question = pick(rng, (f"Tell me the {color_word(rng)} of the {name}.", f"Name the {color_word(rng)} of the {name}."))
    return Question("colour", question, f"The {name} is {thing.colour}.")


def shape(scene: Scene, rng: Rng) -> Question | None:
    if not scene.things:
        return None
    thing = pick(rng, scene.things)
    alike = [t for t in scene.things if t.colour == thing.colour]
    if len(scene.things) == 1 and rng.random() < 0.3:
        what = pick(rng, ("the object", "it", "this"))
    else:
        if len(alike) == 1:
            name = thing.colour
        elif sum(t.size == thing.size for t in alike) == 1:
            name = f"{thing.size} {thing.colour}"
        else:
            return None
        what = f"the {name} {pick(rng, ('object', 'one', 'thing'))}"
    if rng.random() < 0.75:
        question = pick(rng, (f"What shape is {what}?", f"Which shape is {what}?", f"What shape does {what} have?"))
        return Question("shape", question, capital(thing.shape))
    if what in ("it", "this"):
        return None
    return Question("shape", f"What is {what}?", f"It is {article(thing.shape)}.")


def _place(value: float, low: str, high: str) -> str | None:
    """low, middle ("") or high, or None where it is too close to call."""
    return low if value < 0.34 else high if value > 0.66 else "" if 0.44 < value < 0.56 else None


SIDES = (("left", -1, 0), ("right", 1, 0), ("above", 0, -1), ("below", 0, 1))
BESIDE = {"left": ("left of", "to the left of"), "right": ("right of", "to the right of"),
          "above": ("above",), "below": ("below", "under")}


def where(scene: Scene, rng: Rng) -> Question | None:
    things = scene.things
    if not things:
        return None
    a = pick(rng, things)
    name = name_of(a, things, rng)
    if name is None:
        return None
    style = rng.random()
    if style < 0.3 or len(things) == 1:
        across, down = _place(a.x, "left", "right"), _place(a.y, "top", "bottom")
        if across is None or down is None:
            return None
        answer = " ".join(w for w in (down, across) if w) or "center"
        question = pick(rng, (f"Where is the {name}?", f"Where in the {picture_word(rng)} is the {name}?",
                              f"Where do you see the {name}?"))
        return Question("where", question, "In the center" if answer == "center" else f"At the {answer}")
    others = [t for t in things if t is not a]
    b = pick(rng, others)
    other = name_of(b, things, rng)
    if other is None:
        return None
    dx, dy = a.x - b.x, a.y - b.y
    if style < 0.55:
        side = ("left" if dx < 0 else "right") if abs(dx) > 1.6 * abs(dy) else \
               ("above" if dy < 0 else "below") if abs(dy) > 1.6 * abs(dx) else None
        if side is None or max(abs(dx), abs(dy)) < 0.15:
            return None
        question = pick(rng, (f"Where is the {name} relative to the {other}?",
                              f"Where is the {name}, seen from the {other}?",
                              f"Is the {name} left, right, above or below of the {other}?"))
        return Question("where", question, {"left": "To the left", "right": "To the right"}.get(side, capital(side)))
    if style < 0.8:
        side, sx, sy = pick(rng, SIDES)
        offset = dx * sx + dy * sy
        if abs(offset) < 0.12:
            return None
        question = f"Is the {name} {pick(rng, BESIDE[side])} the {other}?"
        return Question("where", question, "Yes" if offset > 0 else "No")
    side, sx, sy = pick(rng, SIDES)
    offsets = [(t.x - b.x) * sx + (t.y - b.y) * sy for t in things if t is not b]
    there = [t for t, o in zip([t for t in things if t is not b], offsets) if o > 0]
    if len(there) != 1 or min(abs(o) for o in offsets) < 0.1:
        return None
    question = pick(rng, (f"What is {pick(rng, BESIDE[side])} the {other}?",
                          f"Which object is {pick(rng, BESIDE[side])} the {other}?"))
    return Question("where", question, f"The {there[0].colour} {there[0].shape}")


def exists(scene: Scene, rng: Rng) -> Question | None:
    things = scene.things
    style = rng.random()
    ask: Callable[[str], str] = lambda what: pick(rng, (
        f"Is there {what}?", f"Is there {what} in the {picture_word(rng)}?", f"Do you see {what}?",
        f"Can you see {what}?", f"Does the {picture_word(rng)} show {what}?"))
    if scene.writing is not None and (not things or style < 0.3) or (style < 0.06):
        what = pick(rng, ("any text", "a word" if scene.writing is None or not scene.writing.text.isdigit() else "a number"))
        return Question("exists", ask(what), "Yes" if scene.writing is not None else "No")
    if not things:
        return None
    yes = rng.random() < 0.5
    thing = pick(rng, things)
    if style < 0.4:
        pair = (thing.shape, thing.colour)
        if not yes:
            # Hard negatives: half of a pair that is there.
            pair = (thing.shape, pick(rng, COLOURS)) if rng.random() < 0.5 else (pick(rng, SHAPES), thing.colour)
            if unseen(scene, *pair):
                return None
        found = any((t.shape, t.colour) == pair for t in things)
        what = article(f"{pair[1]} {pair[0]}")
    elif style < 0.7:
        name = thing.shape if yes else pick(rng, SHAPES)
        found = any(t.shape == name for t in things)
        what = article(name)
    elif style < 0.9:
        name = thing.colour if yes else pick(rng, COLOURS)
        found = any(t.colour == name for t in things)
        what = pick(rng, (f"anything {name}", article(f"{name} object"), f"something {name}"))
    else:
        pair = (thing.size if yes else pick(rng, SIZES), thing.shape)
        found = any((t.size, t.shape) == pair for t in things)
        what = article(" ".join(pair))
    return Question("exists", ask(what), "Yes" if found else "No")


def larger(scene: Scene, rng: Rng) -> Question | None:
    things = scene.things
    if not things:
        return None
    a = pick(rng, things)
    name = name_of(a, things, rng)
    if name is None:
        return None
    if rng.random() < 0.2 and not name.startswith(SIZES):
        return Question("larger", pick(rng, (f"How big is the {name}?", f"What size is the {name}?")), capital(a.size))
    b = pick(rng, things)
    other = name_of(b, things, rng)
    ratio = a.radius / b.radius
    if a is b or other is None or 1 / 1.35 < ratio < 1.35 or (name + other).count("small") + (name + other).count("large"):
        return None
    if rng.random() < 0.65:
        word = pick(rng, ("larger", "bigger", "larger", "smaller"))
        first = (ratio > 1) == (word != "smaller")
        question = pick(rng, (f"Which is {word}, the {name} or the {other}?",
                              f"Which one is {word}, the {name} or the {other}?",
                              f"What is {word}, the {name} or the {other}?"))
        return Question("larger", question, f"The {name if first else other}")
    word = pick(rng, ("larger", "bigger", "smaller"))
    return Question("larger", f"Is the {name} {word} than the {other}?", "Yes" if (ratio > 1) == (word != "smaller") else "No")


def text(scene: Scene, rng: Rng) -> Question | None:
    if scene.writing is None:
        return None
    written = scene.writing.text
    what = "number" if written.isdigit() else "word"
    if rng.random() < 0.85:
        question = pick(rng, ("What does it say?", "What does it say?", f"What {what} is written?",
                              f"What {what} is written in the {picture_word(rng)}?", "Read the text.",
                              "What is written here?", "What does the text say?", f"What is the {what}?",
                              f"Which {what} do you see?", f"Read the {what}.", "What is written?"))
        return Question("text", question, written)
    return Question("text", f"What does the {picture_word(rng)} say?", f'It says "{written}".')


ASKERS = {"describe": describe, "count": count, "colour": colour, "shape": shape, "where": where, "exists": exists,
          "larger": larger, "text": text}
WEIGHTS = {"describe": 0.0, "count": 1.0, "colour": 1.0, "shape": 1.0, "where": 1.6, "exists": 1.2, "larger": 1.0, "text": 0.0}
WEIGHTS_WRITING = {**WEIGHTS, "count": 0.4, "text": 5.0}


def ask(scene: Scene, rng: Rng, kind: str) -> Question | None:
    """One question of a kind, or None where the scene allows none."""
    for _ in range(4):
        question = ASKERS[kind](scene, rng)
        if question is not None:
            return question
    return None


def ask_any(scene: Scene, rng: Rng, number: int) -> list[Question]:
    """`number` different short questions (every kind but "describe")."""
    weights = WEIGHTS if scene.writing is None else WEIGHTS_WRITING
    kinds = [k for k in KINDS if weights[k] > 0]
    total = sum(weights[k] for k in kinds)
    cuts = np.cumsum([weights[k] / total for k in kinds])
    asked: dict[str, Question] = {}
    for _ in range(30):
        question = ASKERS[kinds[min(int(np.searchsorted(cuts, rng.random())), len(kinds) - 1)]](scene, rng)
        if question is not None:
            asked.setdefault(question.question, question)
            if len(asked) == number:
                break
    questions = list(asked.values())
    while len(questions) < number:
        questions.append(questions[int(rng.integers(len(questions)))])
    return questions


def reword(question: str, rng: Rng) -> str:
    """The same question as people type it: sometimes in lower case, sometimes without its last mark."""
    chance = rng.random()
    if chance < 0.06:
        return question[0].lower() + question[1:]
    if chance < 0.1:
        return question[:-1]
    if chance < 0.13:
        return question[0].lower() + question[1:-1]
    return question


def as_text(scene: Scene) -> str:
    """The scene in words and whole hundredths, for the language model's own first training."""
    parts = [f" {t.size} {t.colour} {t.shape} {round(t.x * 100):02d} {round(t.y * 100):02d} {round(t.radius * 100):02d}"
             for t in scene.things]
    if scene.writing is not None:
        parts.append(f' {scene.writing.colour} word "{scene.writing.text}"')
    return "Scene:" + ";".join(parts)


def normalise(answer: str) -> str:
    """What exact match compares: lower case, letters and digits, single spaces."""
    return " ".join("".join(c if c.isalnum() else " " for c in answer.lower()).split())
