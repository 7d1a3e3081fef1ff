"""Reads and writes model.safetensors, and a demo folder's other small files."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from model import Config, ConnectorConfig, TextConfig, VisionConfig, VLMamba


def write_safetensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """bfloat16, sorted by name, no holes, the header padded with spaces to a multiple of eight bytes."""
    header: dict[str, dict] = {"__metadata__": {"format": "pt"}}
    data, offset = [], 0
    for name in sorted(tensors):
        raw = tensors[name].detach().cpu().to(torch.bfloat16).contiguous().view(torch.int16).numpy().tobytes()
        header[name] = {"dtype": "BF16", "shape": list(tensors[name].shape), "data_offsets": [offset, offset + len(raw)]}
        data.append(raw)
        offset += len(raw)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(data))


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """What write_safetensors wrote, as float32."""
    raw = path.read_bytes()
    (length,) = struct.unpack_from("<Q", raw)
    header = json.loads(raw[8 : 8 + length])
    out = {}
    for name, entry in header.items():
        if name != "__metadata__":
            start, end = (8 + length + o for o in entry["data_offsets"])
            bits = np.frombuffer(raw[start:end], np.uint16).astype(np.uint32) << 16
            out[name] = torch.from_numpy(bits.view(np.float32).copy()).view(entry["shape"])
    return out


def load_model(folder: Path) -> VLMamba:
    """The model of a checkpoint folder, its weights as stored, its arithmetic in float32."""
    config = json.loads((folder / "config.json").read_text())
    model = VLMamba(Config(VisionConfig(**config["vision_config"]), TextConfig(**config["text_config"]),
                           ConnectorConfig(**config["connector_config"])))
    model.load_state_dict(read_safetensors(folder / "model.safetensors"))
    return model.eval().requires_grad_(False)


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n")
