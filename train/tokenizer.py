"""A byte-level BPE of our own, in GPT-NeoX's tokenizer.json layout (NFC, ByteLevel with GPT-2's pattern).

    python train/tokenizer.py          # writes models/demo/tokenizer.json and tokenizer_config.json

Merges only ever extend a pre-token's beginning. So the words of questions and answers become one token each, while a
word read from a picture, which may be any string, stays a plain sequence of letters.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import numpy as np

DEMO = Path(__file__).resolve().parent.parent / "models" / "demo"
END, PADDING = "<|endoftext|>", "<|padding|>"
END_ID, PADDING_ID = 0, 1
ROWS = 768

# GPT-2's pattern for the text of this task; \p{L} and \p{N} are spelled for what Python's `re` has.
PATTERN = re.compile(r"'s|'t|'re|'ve|'m|'ll|'d| ?[^\W\d_]+| ?\d+| ?(?:[^\s\w]|_)+|\s+(?!\S)|\s+")


def byte_characters() -> list[str]:
    """GPT-2's printable stand-in for each byte value."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table, extra = {}, 0
    for byte in range(256):
        if byte in printable:
            table[byte] = chr(byte)
        else:
            table[byte] = chr(256 + extra)
            extra += 1
    return [table[b] for b in range(256)]


BYTES = byte_characters()
TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}"
    "{{ eos_token }}"
    "{% elif message['role'] == 'user' %}"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>\n{% endif %}{% endfor %}"
    "{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}"
    "{% endif %}"
    "{{ '\nAnswer:' }}"
    "{% endif %}"
    "{% endfor %}"
)


def learn_merges(counts: Counter[str], number: int, least: int) -> list[tuple[str, str]]:
    """The most frequent pairs (beginning of a pre-token, next character), over and over."""
    words = {tuple(BYTES[b] for b in word.encode()): n for word, n in counts.items()}
    merges: list[tuple[str, str]] = []
    while len(merges) < number:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, n in words.items():
            if len(word) > 1 and (word[0][0] in "Ġ\u010a" or word[0][0].isupper()):
                pairs[word[0], word[1]] += n
        if not pairs:
            break
        (left, right), n = max(pairs.items(), key=lambda item: (item[1], item[0]))
        if n < least:
            break
        merges.append((left, right))
        words = {((left + right,) + word[2:] if word[:2] == (left, right) else word): n for word, n in words.items()}
    return merges


class Tokenizer:
    """Encodes as the library does, for text of this task; `tokenizer.json` is the truth."""

    def __init__(self, path: Path = DEMO / "tokenizer.json") -> None:
        model = json.loads(path.read_text())["model"]
        self.ids: dict[str, int] = model["vocab"]
        self.texts = {i: t for t, i in self.ids.items()}
        self.ranks = {tuple(m.split(" ")) if isinstance(m, str) else tuple(m): i for i, m in enumerate(model["merges"])}
        self.cache: dict[str, list[int]] = {}
        self.value = {c: b for b, c in enumerate(BYTES)}

    def _word(self, word: str) -> list[int]:
        parts = [BYTES[b] for b in word.encode()]
        while len(parts) > 1:
            rank, at = min((self.ranks.get(pair, 1 << 30), i) for i, pair in enumerate(zip(parts, parts[1:])))
            if rank == 1 << 30:
                break
            parts[at: at + 2] = [parts[at] + parts[at + 1]]
        return [self.ids[p] for p in parts]

    def encode(self, text: str) -> list[int]:
        out: list[int] = []
        for word in PATTERN.findall(text):
            ids = self.cache.get(word)
            if ids is None:
                ids = self._word(word)
                if len(self.cache) < 20000:
                    self.cache[word] = ids
            out.extend(ids)
        return out

    def decode(self, ids: list[int]) -> str:
        characters = "".join(self.texts[i] for i in ids if i not in (END_ID, PADDING_ID))
        return bytes(self.value[c] for c in characters).decode(errors="replace")


def special(index: int, content: str) -> dict:
    return {"id": index, "content": content, "single_word": False, "lstrip": False, "rstrip": False,
            "normalized": False, "special": True}


def write(merges: list[tuple[str, str]], folder: Path) -> int:
    vocabulary = {END: END_ID, PADDING: PADDING_ID}
    for token in [*sorted(BYTES), *(a + b for a, b in merges)]:
        vocabulary.setdefault(token, len(vocabulary))
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    tokenizer = {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [special(END_ID, END), special(PADDING_ID, PADDING)],
        "normalizer": {"type": "NFC"}, "pre_tokenizer": byte_level, "post_processor": byte_level, "decoder": byte_level,
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                  "vocab": vocabulary, "merges": [f"{a} {b}" for a, b in merges]},
    }
    config = {"tokenizer_class": "GPTNeoXTokenizerFast", "bos_token": END, "eos_token": END, "unk_token": END,
              "pad_token": PADDING, "add_prefix_space": False, "clean_up_tokenization_spaces": False,
              "model_max_length": 2048, "chat_template": TEMPLATE}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False, indent=1) + "\n")
    (folder / "tokenizer_config.json").write_text(json.dumps(config, ensure_ascii=False, indent=1) + "\n")
    return len(vocabulary)


def main() -> None:
    from data import prompt_of
    from questions import as_text, ask, ask_any, reword
    from scenes import sample_scene

    rng = np.random.default_rng(1)
    counts: Counter[str] = Counter()
    for i in range(6000):
        scene = sample_scene(rng, writing=i % 8 == 0)
        for question in [*ask_any(scene, rng, 6), *filter(None, [ask(scene, rng, "describe")])]:
            if question.kind == "text":
                continue
            answer = question.answer.split('"')[0]
            counts.update(PATTERN.findall(prompt_of(reword(question.question, rng), rng)))
            counts.update(PATTERN.findall(answer))
        if scene.writing is None:
            counts.update(PATTERN.findall(as_text(scene)))
    counts.update({"Question": 1000, "It": 1000, " word": 1000, " says": 1000, " What": 30, " Name": 30, " text": 1000,
                   " number": 1000, " written": 500, "Read": 500})
    merges = learn_merges(counts, ROWS - 2 - 256, least=20)
    print(f"{write(merges, DEMO)} tokens, {len(merges)} merges")


if __name__ == "__main__":
    main()
