"""The recipe: each part alone first, then the paper's two stages (VL-Mamba §4.1).

    python train/train.py vision   --out runs/vision.pt
    python train/train.py language --out runs/language.pt
    python train/train.py connect  --vision runs/vision.pt --language runs/language.pt --out runs/model.pt

`connect` is stage 1 (only the connector learns) and stage 2 (connector and language model); the encoder stays as it is.
As in LLaVA-1.5's data for stage 2, a part of it is text only: scenes in words instead of pictures.
Every length is in steps; --seconds ends a part early, with its learning rate at the end of its curve.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data import BLOCK, SHORT, WRITING, Block, Stream, make_block
from model import Config, ConnectorConfig, LanguageModel, VLMamba, compile_blocks
from questions import KINDS
from render import CANVASES, Batch, normalised, render
from vision import VisionTrainer

VALIDATION_SEED, HELD_OUT_SEED = 10_001, 10_002


class Pool:
    """The newest blocks, on the device; a batch is drawn from all of them, a share of it with written words."""

    def __init__(self, capacity: int, device: str) -> None:
        self.capacity, self.device, self.added = capacity, device, 0
        self.arrays: Batch = {}

    def add(self, block: Block) -> None:
        slot = self.added % self.capacity
        for key, value in block.items():
            if key not in self.arrays:
                shape = (self.capacity, *value.shape)
                self.arrays[key] = torch.empty(shape, dtype=torch.from_numpy(value[:1]).dtype, device=self.device)
            self.arrays[key][slot].copy_(torch.from_numpy(value))
        self.added += 1

    def sample(self, number: int, words: float) -> Batch:
        blocks = min(self.added, self.capacity)
        words = round(number * words)
        block = torch.randint(blocks, (number,), device=self.device)
        row = torch.cat([torch.randint(WRITING, (words,), device=self.device),
                         torch.randint(WRITING, BLOCK, (number - words,), device=self.device)])
        return {k: v[block[:words], row[:words]] if k.startswith("word") else v[block, row]
                for k, v in self.arrays.items()}


class Feed:
    """A pool kept fresh by a stream: `fresh` new blocks a step."""

    def __init__(self, what: str, seed: int, workers: int, device: str, fresh: float, capacity: int = 160) -> None:
        self.pool, self.stream, self.fresh, self.due = Pool(capacity, device), iter(Stream(seed, workers, what)), fresh, 0.0
        for _ in range(4 * workers):
            self.pool.add(next(self.stream))

    def batch(self, number: int, words: float = 0.25) -> Batch:
        self.due += self.fresh
        while self.due >= 1:
            self.pool.add(next(self.stream))
            self.due -= 1
        return self.pool.sample(number, words)


def optimiser(parameters: list[tuple[str, nn.Parameter]], decay: float = 0.05) -> torch.optim.AdamW:
    """AdamW; norms, biases, A and D do not decay."""
    matrices = [p for n, p in parameters if p.dim() >= 2 and not n.endswith("A_log")]
    others = [p for n, p in parameters if p.dim() < 2 or n.endswith("A_log")]
    return torch.optim.AdamW([{"params": matrices, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}],
                             lr=1e-3, betas=(0.9, 0.98), fused=matrices[0].is_cuda)


class Schedule:
    """Steps of a part, with a warm-up and a cosine to a fiftieth; ends at `steps` or after `seconds`, whichever is first."""

    def __init__(self, name: str, optimiser: torch.optim.Optimizer, peak: float, steps: int, seconds: float) -> None:
        self.name, self.optimiser, self.peak, self.steps, self.seconds = name, optimiser, peak, steps, seconds
        self.step, self.start, self.told = 0, time.time(), 0.0

    def __iter__(self):
        while (done := max(self.step / self.steps, (time.time() - self.start) / self.seconds)) < 1:
            warm = min(1.0, (self.step + 1) / 100)
            for group in self.optimiser.param_groups:
                group["lr"] = self.peak * warm * (0.02 + 0.98 * (0.5 + 0.5 * math.cos(math.pi * done)))
            yield self.step
            self.step += 1
        print(f"{self.name}: {self.step} steps in {time.time() - self.start:.0f} s", flush=True)

    def tell(self, text_of) -> None:
        """Prints a line at most every ten seconds; `text_of` is only called then."""
        if time.time() - self.told > 10:
            self.told = time.time()
            print(f"{self.name} {self.step} {time.time() - self.start:.0f}s {text_of()}", flush=True)


def update(loss: Tensor, optimiser: torch.optim.Optimizer, parameters: list[nn.Parameter]) -> None:
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(parameters, 1.0)
    optimiser.step()


def autocast(device: str):
    return torch.autocast(device, torch.bfloat16, enabled=device == "cuda")


def train_vision(options: argparse.Namespace) -> None:
    config = Config().vision
    model = VisionTrainer(config).to(options.device)
    if options.vision:
        model.tower.load_state_dict(torch.load(options.vision, map_location=options.device))
    feed = Feed("scenes", options.seed, options.workers, options.device, options.fresh)
    adam = optimiser(list(model.named_parameters()))
    schedule = Schedule("vision", adam, options.peak, options.steps, options.seconds)
    for step in schedule:
        batch = feed.batch(options.batch, words=0.4)
        pictures, ids = render(batch, CANVASES[step % len(CANVASES)], config.image_size)
        with autocast(options.device):
            loss, scores = model(normalised(pictures), batch, ids)
        update(loss, adam, list(model.parameters()))
        schedule.tell(lambda: f"loss {loss.item():.3f} " + " ".join(f"{k} {v.item():.3f}" for k, v in scores.items()))
    torch.save(model.tower.state_dict(), options.out)


def text_groups(batch: Batch) -> tuple[list[Tensor], list[Tensor]]:
    """Ids and answer masks of a batch's short questions [b · 6, 24] and long texts [b, 64]."""
    return [batch["short"].flatten(0, 1).long(), batch["long"].long()], [batch["short_mask"].flatten(0, 1), batch["long_mask"]]


def answer_loss(logits: list[Tensor], ids: list[Tensor], masks: list[Tensor]) -> Tensor:
    """Cross entropy of the answers' tokens; all short questions together weigh twice what the long text does."""
    loss = logits[0].new_zeros((), dtype=torch.float32)
    for weight, out, want, mask in zip((1.0, 0.5), logits, ids, masks):
        mask = mask[:, 1:].float()
        each = F.cross_entropy(out[:, :-1].flatten(0, 1).float(), want[:, 1:].flatten(), reduction="none")
        loss = loss + weight * (each * mask.flatten()).sum() / mask.sum()
    return loss


def exact(logits: list[Tensor], ids: list[Tensor], masks: list[Tensor]) -> list[Tensor]:
    """Which answers greedy decoding would give token for token."""
    return [((out[:, :-1].argmax(-1) == want[:, 1:]) | ~mask[:, 1:]).all(1) for out, want, mask in zip(logits, ids, masks)]


def train_language(options: argparse.Namespace) -> None:
    model = LanguageModel(Config().text).to(options.device)
    if options.language:
        model.load_state_dict(torch.load(options.language, map_location=options.device))
    feed = Feed("text", options.seed + 1, options.workers, options.device, options.fresh)
    adam = optimiser(list(model.named_parameters()))
    schedule = Schedule("language", adam, options.peak, options.steps, options.seconds)
    for _ in schedule:
        batch = feed.batch(options.batch)
        ids, masks = text_groups(batch)
        with autocast(options.device):
            logits = model(model.backbone.embeddings(batch["text"].long()), ids)
        loss = answer_loss(logits, ids, masks)
        update(loss, adam, list(model.parameters()))
        schedule.tell(lambda: f"loss {loss.item():.3f} exact " + " ".join(f"{e.float().mean():.3f}" for e in exact(logits, ids, masks)))
    torch.save(model.state_dict(), options.out)


def picture_features(model: VLMamba, batch: Batch, canvas: int) -> Tensor:
    """The frozen encoder's features of freshly drawn pictures."""
    with torch.no_grad(), autocast(batch["ground"].device.type):
        pictures, _ = render(batch, canvas, model.config.vision.image_size)
        return model.features(normalised(pictures)).float()


def run_stage(name: str, model: VLMamba, parts: list[nn.Module], draw, schedule_of, device: str) -> None:
    """One of the paper's stages: `parts` learn, the rest is frozen. `draw(step)` gives features, ids and masks of
    pictures, and a batch of scenes as text or None."""
    model.requires_grad_(False)
    named = [(n, p) for part in parts for n, p in part.requires_grad_(True).named_parameters()]
    learning = [p for _, p in named]
    adam = optimiser(named)
    schedule = schedule_of(name, adam)
    for step in schedule:
        features, batch, texts = draw(step)
        ids, masks = text_groups(batch)
        with autocast(device):
            prefix = model.multi_modal_projector(features).float()
            if texts is not None:
                more_ids, more_masks = text_groups(texts)
                ids, masks = ([torch.cat(pair) for pair in zip(a, b)] for a, b in ((ids, more_ids), (masks, more_masks)))
                prefix = torch.cat([prefix, model.language_model.backbone.embeddings(texts["text"].long())])
            logits = model.language_model(prefix, ids)
        loss = answer_loss(logits, ids, masks)
        update(loss, adam, learning)
        schedule.tell(lambda: f"loss {loss.item():.3f} exact " + " ".join(f"{e.float().mean():.3f}" for e in exact(logits, ids, masks)))


@torch.no_grad()
def validate(model: VLMamba, blocks: list[Block], device: str) -> dict[str, tuple[int, int]]:
    """Right answers and questions by kind, over whole blocks, each picture drawn once."""
    torch.manual_seed(0)
    right: dict[str, tuple[int, int]] = {kind: (0, 0) for kind in KINDS}
    for number, block in enumerate(blocks):
        batch = {k: torch.from_numpy(v).to(device) for k, v in block.items()}
        ids, masks = text_groups(batch)
        with autocast(device), torch.compiler.set_stance("force_eager"):
            features = picture_features(model, batch, CANVASES[number % len(CANVASES)])
            short, long = exact(model(features, ids), ids, masks)
        kinds = batch["short_kind"].flatten().tolist()
        told = [(KINDS[k], ok) for k, ok in zip(kinds, short.tolist())] + [("describe", ok) for ok in long.tolist()]
        for kind, ok in told:
            good, all_ = right[kind]
            right[kind] = good + ok, all_ + 1
    return right


def report(right: dict[str, tuple[int, int]]) -> str:
    total = sum(r for r, _ in right.values()), sum(n for _, n in right.values())
    return " ".join(f"{k} {r / max(n, 1):.4f}" for k, (r, n) in {**right, "all": total}.items())


def train_connect(options: argparse.Namespace) -> None:
    config = Config(connector=ConnectorConfig(type=options.connector, scan=options.scan))
    model = VLMamba(config).to(options.device)
    model.vision_tower.vision_model.load_state_dict(torch.load(options.vision, map_location=options.device))
    model.language_model.load_state_dict(torch.load(options.language, map_location=options.device))
    if options.projector:
        model.multi_modal_projector.load_state_dict(torch.load(options.projector, map_location=options.device))
    texts_share = round(options.batch * options.texts)
    texts = Feed("text", options.seed + 1, 2, options.device, options.fresh * options.texts)
    feed = Feed("questions", options.seed + 2, options.workers, options.device, options.fresh)

    def draw(step: int, pictures: int) -> tuple[Tensor, Batch]:
        batch = feed.batch(pictures)
        return picture_features(model, batch, CANVASES[step % len(CANVASES)]), batch

    connector, language = model.multi_modal_projector, model.language_model
    if options.stage1 > 0:
        run_stage("stage 1", model, [connector], lambda step: (*draw(step, options.batch), None),
                  lambda name, adam: Schedule(name, adam, 2e-3, options.stage1, options.seconds1), options.device)
    run_stage("stage 2", model, [connector, language],
              lambda step: (*draw(step, options.batch - texts_share), texts.batch(texts_share)),
              lambda name, adam: Schedule(name, adam, options.peak, options.steps, options.seconds), options.device)
    out = Path(options.out)
    torch.save(language.state_dict(), out.with_name(out.stem + ".language.pt"))
    torch.save(connector.state_dict(), out.with_name(out.stem + ".projector.pt"))
    for what, seed in (("questions", VALIDATION_SEED), ("held-out", HELD_OUT_SEED)):
        print(what, report(validate(model, [make_block((seed, n, what)) for n in range(3)], options.device)), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("vision", "language", "connect"))
    parser.add_argument("--out", required=True)
    parser.add_argument("--vision", help="the trained encoder; for `vision`, go on from it")
    parser.add_argument("--language", help="the trained language model; for `language`, go on from it")
    parser.add_argument("--projector", help="go on from this connector")
    parser.add_argument("--connector", default="vss-l2", choices=("mlp", "vss-mlp", "vss-l2"))
    parser.add_argument("--scan", default="bsm", choices=("bsm", "csm"))
    parser.add_argument("--stage1", type=int, default=1000, help="steps of stage 1")
    parser.add_argument("--seconds1", type=float, default=1e9)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=1e9)
    parser.add_argument("--peak", type=float, default=1.5e-3, help="highest learning rate, but stage 1's")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--fresh", type=float, default=0.25, help="new blocks of 512 scenes a step")
    parser.add_argument("--texts", type=float, default=0.19, help="share of text-only scenes in stage 2's batches")
    parser.add_argument("--workers", type=int, default=7)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    torch.set_float32_matmul_precision("high")
    if options.device == "cuda":
        compile_blocks()
    {"vision": train_vision, "language": train_language, "connect": train_connect}[options.part](options)


if __name__ == "__main__":
    main()
