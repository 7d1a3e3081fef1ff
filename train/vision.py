"""The encoder's own training: attributes of what each patch shows, and of the whole picture.

Two kinds of heads, both thrown away afterwards. The patch heads read hidden state -2, the features the language model
will get: shape, colour, size and centre of the object in the patch, the letters in its left and right half and their colour. The picture heads read
the last block's output: how many objects in all, of each shape and of each colour, and the written word.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data import ALPHABET, LETTERS
from model import VisionBlock, VisionConfig, VisionModel
from render import Batch, word_coordinates
from scenes import COLOURS, MAX_OBJECTS, SHAPES

NO_LETTER = len(ALPHABET)
SAMPLES = 4  # a patch's owner is decided at 4 × 4 points


def patch_targets(batch: Batch, ids: Tensor, grid: int) -> dict[str, Tensor]:
    """Classes and regression targets of each of the grid² patches: -100 where a class does not apply."""
    b, canvas = ids.shape[0], ids.shape[-1]
    device = ids.device
    at = ((torch.arange(grid * SAMPLES, device=device) + 0.5) / (grid * SAMPLES) * canvas).long()
    points = ids[:, at][:, :, at].view(b, grid, SAMPLES, grid, SAMPLES).permute(0, 1, 3, 2, 4).reshape(b, grid * grid, -1)
    votes = torch.stack([(points == o + 1).sum(-1) for o in range(MAX_OBJECTS)], -1)
    most, owner = votes.max(-1)
    covered = most >= 2
    rows = torch.arange(b, device=device)[:, None]
    classes = batch["classes"].long()[rows, owner]
    shape = torch.where(covered, classes[..., 0], len(SHAPES))
    colour = torch.where(covered, classes[..., 1], -100)
    size = torch.where(covered, classes[..., 2], -100)
    line = (torch.arange(grid, device=device) + 0.5) / grid
    v, u = torch.meshgrid(line, line, indexing="ij")
    middle = torch.stack([u.reshape(-1), v.reshape(-1)], -1)
    centres = batch["centres"][rows, owner]
    place = torch.cat([(centres[..., :2] - middle) * 4, centres[..., 2:] * 4], -1)
    want = {"shape": shape, "colour": colour, "size": size, "place": place, "covered": covered,
            "ink": torch.full((b, grid * grid), -100, device=device)}
    frame = batch["word_frame"]
    t = frame.shape[0]
    for name, aside in (("letter", -0.25), ("next", 0.25)):
        tx, ty = word_coordinates(frame, u.reshape(-1) + aside / grid, v.reshape(-1))
        on = (tx > 0) & (tx < frame[:, 5:6]) & (ty > -3) & (ty < frame[:, 6:7] + 3)
        number = (tx[..., None] >= batch["word_limits"][:, None]).sum(-1).clamp(1, LETTERS) - 1
        there = torch.where(on, batch["word_letters"].long().gather(1, number), NO_LETTER)
        want[name] = torch.full((b, grid * grid), NO_LETTER, device=device)
        want[name][:t] = there
        want["ink"][:t] = torch.where(there < NO_LETTER, batch["word_colour"].long()[:, None], want["ink"][:t])
    return want


def picture_targets(batch: Batch) -> dict[str, Tensor]:
    """How many objects: in all, of each shape, of each colour [b, 18]; the word's letters [b, 8]."""
    there = batch["edge_count"] > 0
    b = there.shape[0]
    shapes = (F.one_hot(batch["classes"][..., 0].long(), len(SHAPES)) * there[..., None]).sum(1)
    colours = (F.one_hot(batch["classes"][..., 1].long(), len(COLOURS)) * there[..., None]).sum(1)
    letters = torch.full((b, LETTERS), NO_LETTER, device=there.device)
    letters[: batch["word"].shape[0]] = batch["word_letters"].long()
    return {"count": torch.cat([there.sum(1, keepdim=True), shapes, colours], 1), "letters": letters}


class VisionTrainer(nn.Module):
    PARTS = {"shape": len(SHAPES) + 1, "colour": len(COLOURS), "size": 2, "place": 3, "letter": NO_LETTER + 1,
             "next": NO_LETTER + 1, "ink": len(COLOURS)}

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.tower = VisionModel(config)
        self.patch_norm = nn.LayerNorm(width)
        self.patch_head = nn.Linear(width, sum(self.PARTS.values()))
        self.last_block = VisionBlock(config)
        self.post_layernorm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.queries = nn.Parameter(torch.randn(LETTERS + 1, width) * 0.02)
        self.pool = nn.MultiheadAttention(width, config.num_attention_heads, batch_first=True)
        self.letter_head = nn.Linear(width, NO_LETTER + 1)
        self.count_head = nn.Linear(width, (1 + len(SHAPES) + len(COLOURS)) * (MAX_OBJECTS + 1))

    def forward(self, pixels: Tensor, batch: Batch, ids: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, and accuracies by name."""
        features = self.tower(pixels)
        grid = round(features.shape[1] ** 0.5)
        want = patch_targets(batch, ids, grid)
        parts = dict(zip(self.PARTS, self.patch_head(self.patch_norm(features)).float().split(list(self.PARTS.values()), -1)))
        loss = features.new_zeros(())
        scores: dict[str, Tensor] = {}
        for name in ("shape", "colour", "size", "letter", "next", "ink"):
            logits, target = parts[name].flatten(0, 1), want[name].flatten()
            has_none = name in ("shape", "letter", "next")
            weight = logits.new_ones(logits.shape[-1])
            if has_none:
                weight[-1] = 0.1  # most patches show nothing: they would drown the others
            loss = loss + F.cross_entropy(logits, target, weight)
            wanted = (target != logits.shape[-1] - 1) if has_none else (target >= 0)
            scores[name] = ((logits.argmax(-1) == target) & wanted).sum() / wanted.sum().clamp(min=1)
        place = F.smooth_l1_loss(parts["place"], want["place"], reduction="none").sum(-1)
        loss = loss + (place * want["covered"]).sum() / want["covered"].sum().clamp(min=1)
        rows = self.post_layernorm(self.last_block(features))
        pooled, _ = self.pool(self.queries.expand(rows.shape[0], -1, -1), rows, rows, need_weights=False)
        whole = picture_targets(batch)
        letters = self.letter_head(pooled[:, :LETTERS]).float().flatten(0, 1)
        counts = self.count_head(pooled[:, LETTERS]).float().view(-1, MAX_OBJECTS + 1)
        loss = loss + F.cross_entropy(letters, whole["letters"].flatten()) + F.cross_entropy(counts, whole["count"].flatten())
        read = (letters.argmax(-1) == whole["letters"].flatten()).view(-1, LETTERS).all(1)
        words = batch["word"].shape[0]
        scores["word"] = read[:words].float().mean()
        scores["count"] = (counts.argmax(-1) == whole["count"].flatten()).view(pixels.shape[0], -1)[:, 0].float().mean()
        return loss, scores
