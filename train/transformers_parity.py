"""Full-size models with random weights: what vl-mamba answers beside Hugging Face transformers, on the same device.

    python3 train/transformers_parity.py cpu|cuda [NODE_COMMAND…]      e.g. cuda node --import tsx

For Mamba-130M, SigLIP-SO400M/14-384 and CLIP-L/14-336, with weights in float32 and in bfloat16: writes a checkpoint, lets
test/gpu/answers.ts answer, and compares with what transformers computes in float32 from the same weights. Prints the relative
L2 error of each and fails above the tolerances of golden/README.md: 5e-3 for float32 weights, 3e-2 for bfloat16.
"""

import copy
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    MambaConfig,
    MambaForCausalLM,
    SiglipVisionConfig,
    SiglipVisionModel,
)

ROOT = Path(__file__).resolve().parent.parent
TOKENIZER = ROOT / "test" / "fixtures" / "tokenizer" / "tiny"
DEVICE = sys.argv[1] if len(sys.argv) > 1 else "cuda"
TOLERANCE = {torch.float32: 5e-3, torch.bfloat16: 3e-2}

TOWERS = {
    "SigLIP-SO400M": (
        SiglipVisionModel,
        SiglipVisionConfig(
            hidden_size=1152,
            intermediate_size=4304,
            num_hidden_layers=27,
            num_attention_heads=16,
            image_size=384,
            patch_size=14,
        ),
    ),
    "CLIP-L": (
        CLIPVisionModel,
        CLIPVisionConfig(
            hidden_size=1024,
            intermediate_size=4096,
            num_hidden_layers=24,
            num_attention_heads=16,
            image_size=336,
            patch_size=14,
        ),
    ),
}


def mamba(hidden: int, layers: int) -> MambaForCausalLM:
    # Weights as mamba_ssm starts with them. transformers' own range of 0.1 makes every product some 2.8 times larger than
    # its input, and a model that multiplies each rounding by hundreds.
    config = MambaConfig(vocab_size=50280, hidden_size=hidden, num_hidden_layers=layers, tie_word_embeddings=True,
                         initializer_range=0.02, rescale_prenorm_residual=True)
    return MambaForCausalLM(config).float().eval()


def stored(model: torch.nn.Module, prefix: str, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """The weights as a checkpoint has them; the model keeps what is left of them after rounding."""
    weights = {}
    for name, parameter in model.state_dict().items():
        if name == "lm_head.weight" or name.endswith("position_ids"):
            continue
        rounded = parameter.to(dtype)
        parameter.copy_(rounded.float())
        # transformers 5 leaves the first part of a lone tower's names out.
        inner = "vision_model." if prefix == "vision_tower." and not name.startswith("vision_model.") else ""
        weights[prefix + inner + name] = rounded.contiguous().cpu()
    return weights


def answer(folder: Path, node: list[str], config: dict, weights: dict[str, torch.Tensor]) -> None:
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(TOKENIZER / file, folder / file)
    subprocess.run([*node, str(ROOT / "test/gpu/answers.ts"), str(folder), DEVICE], check=True, cwd=ROOT)


def compare(what: str, dtype: torch.dtype, got: np.ndarray, want: torch.Tensor) -> bool:
    want = want.double().cpu().numpy().reshape(-1)
    error = float(np.linalg.norm(got[: want.size] - want) / np.linalg.norm(want))
    fine = error <= TOLERANCE[dtype]
    print(f"{what:<16}{str(dtype)[6:]:<10}relative L2 error {error:.2e}  {'ok' if fine else 'TOO LARGE'}", flush=True)
    return fine


@torch.no_grad()
def language(node: list[str], dtype: torch.dtype) -> bool:
    model = mamba(768, 24)
    weights = stored(model, "", dtype)
    model.tie_weights()
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        folder = Path(name)
        answer(folder, node, {**model.config.to_dict(), "model_type": "mamba"}, weights)
        ids = torch.from_numpy(np.fromfile(folder / "ids.i32", dtype=np.int32)).long()[None].to(DEVICE)
        want = model.to(DEVICE)(ids, use_cache=False).logits[0, -1]
        if dtype != torch.float32:
            own = copy.deepcopy(model).to(dtype)(ids, use_cache=False).logits[0, -1]
            error = ((own.float() - want).norm() / want.norm()).item()
            print(f"                transformers itself in {str(dtype)[6:]}: {error:.2e}")
        return compare("Mamba-130M", dtype, np.fromfile(folder / "logits.f32", dtype=np.float32), want)


@torch.no_grad()
def tower(node: list[str], name: str, dtype: torch.dtype) -> bool:
    kind, config = TOWERS[name]
    vision, text = kind(config).float().eval(), mamba(256, 2)
    d, h = config.hidden_size, 256
    weights = stored(vision, "vision_tower.", dtype) | stored(text, "language_model.", dtype)
    connector = {"linear_1": torch.randn(h, d) * d**-0.5, "linear_2": torch.randn(256, h) * h**-0.5}
    for layer, weight in connector.items():
        connector[layer] = weight.to(dtype).float()
        weights[f"multi_modal_projector.{layer}.weight"] = weight.to(dtype)
        weights[f"multi_modal_projector.{layer}.bias"] = torch.zeros(weight.shape[0], dtype=dtype)
    with tempfile.TemporaryDirectory(dir="/dev/shm") as path:
        folder = Path(path)
        side = {"height": config.image_size, "width": config.image_size}
        half = [0.5, 0.5, 0.5]
        (folder / "preprocessor_config.json").write_text(
            json.dumps({"size": side, "image_mean": half, "image_std": half, "image_aspect_ratio": "squash"})
        )
        keeps = "default" if name.startswith("CLIP") else "full"
        vl = {
            "model_type": "vl_mamba",
            "vision_config": config.to_dict(),
            "text_config": {**text.config.to_dict(), "model_type": "mamba"},
            "connector_config": {"type": "mlp", "hidden_size": h, "hidden_act": "gelu"},
            "vision_feature_select_strategy": keeps,
        }
        answer(folder, node, vl, weights)
        pixels = torch.from_numpy(np.fromfile(folder / "pixels.f32", dtype=np.float32)).reshape(
            1, 3, config.image_size, config.image_size
        )
        features = vision.to(DEVICE)(pixels.to(DEVICE), output_hidden_states=True).hidden_states[-2][0]
        if keeps == "default":
            features = features[1:]
        hidden = torch.nn.functional.gelu(features @ connector["linear_1"].to(DEVICE).T)
        want = hidden @ connector["linear_2"].to(DEVICE).T
        return compare(name, dtype, np.fromfile(folder / "embeds.f32", dtype=np.float32), want)


def main() -> None:
    node = sys.argv[2:] or ["npx", "tsx"]
    torch.manual_seed(1)
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    fine = True
    for dtype in (torch.float32, torch.bfloat16):
        fine &= language(node, dtype)
        for name in TOWERS:
            fine &= tower(node, name, dtype)
    sys.exit(0 if fine else 1)


if __name__ == "__main__":
    main()
