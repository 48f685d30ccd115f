"""LoRA files for the tiny pipelines, as diffusers' trainers write them; random, large enough to be seen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import load_file, save_file

ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]


def save_lora(base: Path, folder: Path, seed: int = 0, *, text: bool = False, std: float = 0.5) -> Path:
    """An adapter to the UNet of a StableDiffusionPipeline (`text`: to its text encoder alone); the file."""
    torch.manual_seed(seed)
    pipe = StableDiffusionPipeline.from_pretrained(base)
    part = pipe.text_encoder if text else pipe.unet
    targets = ["q_proj", "v_proj"] if text else ATTENTION
    part.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=targets))
    state: dict[str, Any] = {
        key: torch.randn_like(value) * std
        for key, value in get_peft_model_state_dict(part, adapter_name="default").items()
    }
    which = "text_encoder_lora_layers" if text else "unet_lora_layers"
    StableDiffusionPipeline.save_lora_weights(folder, **{which: state})
    return folder / "pytorch_lora_weights.safetensors"


def renamed(file: Path, target: Path, *changes: tuple[str, str]) -> Path:
    """The same tensors under other names."""
    state = load_file(file)
    for old, new in changes:
        state = {key.replace(old, new): value for key, value in state.items()}
    target.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, target)
    return target


def in_dtype(file: Path, target: Path, dtype: torch.dtype) -> Path:
    save_file({key: value.to(dtype) for key, value in load_file(file).items()}, target)
    return target
