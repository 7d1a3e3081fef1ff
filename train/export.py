"""Writes models/demo from trained parts:

    python train/export.py --vision runs/vision.pt --connected runs/model.pt
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from checkpoint import write_json, write_safetensors
from model import Config, VLMamba
from tokenizer import DEMO


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vision", required=True)
    parser.add_argument("--connected", required=True, help="the --out of `train.py connect`")
    parser.add_argument("--out", type=Path, default=DEMO)
    options = parser.parse_args()
    config = Config()
    model = VLMamba(config)
    stem = Path(options.connected)
    model.vision_tower.vision_model.load_state_dict(torch.load(options.vision, map_location="cpu"))
    model.language_model.load_state_dict(torch.load(stem.with_name(stem.stem + ".language.pt"), map_location="cpu"))
    model.multi_modal_projector.load_state_dict(torch.load(stem.with_name(stem.stem + ".projector.pt"), map_location="cpu"))
    options.out.mkdir(parents=True, exist_ok=True)
    write_safetensors(options.out / "model.safetensors", model.state_dict())
    write_json(options.out / "config.json", config.to_json())
    size = config.vision.image_size
    write_json(options.out / "preprocessor_config.json", {
        "image_processor_type": "SiglipImageProcessor", "image_aspect_ratio": "squash", "do_convert_rgb": True,
        "do_resize": True, "size": {"height": size, "width": size}, "resample": 3, "do_rescale": True,
        "rescale_factor": 1 / 255, "do_normalize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3})
    write_json(options.out / "generation_config.json", {
        "do_sample": False, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 1, "max_new_tokens": 96})
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, "
          f"{sum(f.stat().st_size for f in options.out.iterdir()):,} bytes in {options.out}")


if __name__ == "__main__":
    main()
