"""LoRA files for the tiny pipelines, as diffusers' trainers write them; random, large enough to be seen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import load_file, save_file

ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]
TEXT = ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"]  # what kohya's scripts train of a text encoder


def save_lora(base: Path, folder: Path, seed: int = 0, *, text: bool = False, std: float = 0.5) -> Path:
    """An adapter to the UNet of a StableDiffusionPipeline (`text`: to its text encoder alone); the file."""
    torch.manual_seed(seed)
    pipe = StableDiffusionPipeline.from_pretrained(base)
    part = pipe.text_encoder if text else pipe.unet
    targets = TEXT if text else ATTENTION
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


def as_kohya(file: Path, target: Path, alpha: float | None = None, *changes: tuple[str, str]) -> Path:
    """A LoRA of diffusers' format as kohya's scripts write it: flat names, an alpha per layer.

    Args:
        file: of `save_lora`.
        target: where to write it.
        alpha: scales each layer by alpha / rank; none: by 1.
        changes: replaced in the flat names, one after another, so that layers have other names.
    """
    state: dict[str, torch.Tensor] = {}
    for key, value in load_file(file).items():
        part, _, rest = key.partition(".")
        layer, _, kind = rest.rpartition(".lora_")
        prefix = {"unet": "lora_unet_", "text_encoder": "lora_te_"}[part]
        inner = layer if part == "unet" or layer.startswith("text_model.") else f"text_model.{layer}"
        name = prefix + inner.replace(".", "_")
        for old, new in changes:
            name = name.replace(old, new)
        state[f"{name}.lora_{ {'A': 'down', 'B': 'up'}[kind[0]] }.weight"] = value
        if kind[0] == "A":
            state[f"{name}.alpha"] = torch.tensor(float(value.shape[0] if alpha is None else alpha))
    target.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, target)
    return target


def save_flux_lora(target: Path, layout: str, hidden: int = 32) -> Path:
    """One and the same adapter to the first double block of a FLUX transformer, as its trainers write it.

    Args:
        target: the file.
        layout: "ai-toolkit" (names of diffusers' layers), "xlabs" or "kohya".
        hidden: the transformer's width.
    """
    torch.manual_seed(0)
    down, up, proj_down, proj_up = (
        torch.randn(shape) * 0.5 for shape in ((2, hidden), (3 * hidden, 2), (2, hidden), (hidden, 2))
    )
    if layout == "ai-toolkit":
        block = "transformer.transformer_blocks.0.attn"
        state = {f"{block}.to_out.0.lora_A.weight": proj_down, f"{block}.to_out.0.lora_B.weight": proj_up}
        for name, part in zip("qkv", up.chunk(3), strict=True):
            state |= {
                f"{block}.to_{name}.lora_A.weight": down.clone(),
                f"{block}.to_{name}.lora_B.weight": part.clone(),
            }
    elif layout == "xlabs":
        block = "double_blocks.0.processor"
        state = {f"{block}.qkv_lora1.down.weight": down, f"{block}.qkv_lora1.up.weight": up}
        state |= {f"{block}.proj_lora1.down.weight": proj_down, f"{block}.proj_lora1.up.weight": proj_up}
    else:
        block, alpha = "lora_unet_double_blocks_0_img_attn", torch.tensor(2.0)
        state = {}
        for name, a, b in (("qkv", down, up), ("proj", proj_down, proj_up)):
            state |= {f"{block}_{name}.lora_down.weight": a, f"{block}_{name}.lora_up.weight": b}
            state[f"{block}_{name}.alpha"] = alpha.clone()
    save_file(state, target)
    return target


def save_ip_adapter(base: Path, folder: Path, tokens: int = 4, width: int = 12) -> tuple[Path, Path]:
    """An IP-Adapter for the UNet of a StableDiffusionPipeline, as its makers write it; its image encoder's folder."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    torch.manual_seed(0)
    unet = StableDiffusionPipeline.from_pretrained(base).unet
    cross = unet.config.cross_attention_dim
    state = {
        "image_proj.proj.weight": torch.randn(tokens * cross, width),
        "image_proj.proj.bias": torch.randn(tokens * cross),
        "image_proj.norm.weight": torch.ones(cross),
        "image_proj.norm.bias": torch.zeros(cross),
    }
    layers = dict(unet.named_modules())
    for number, name in enumerate(unet.attn_processors):
        if name.endswith("attn2.processor"):  # numbered among all processors, so that their numbers are odd
            hidden = layers[name.removesuffix(".processor")].to_q.out_features
            state[f"ip_adapter.{number}.to_k_ip.weight"] = torch.randn(hidden, cross)
            state[f"ip_adapter.{number}.to_v_ip.weight"] = torch.randn(hidden, cross)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(state, folder / "ip-adapter_tiny.safetensors")
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPVisionConfig(**sizes, projection_dim=width, image_size=16, patch_size=8)
    CLIPVisionModelWithProjection(config).save_pretrained(folder / "image_encoder")
    return folder / "ip-adapter_tiny.safetensors", folder / "image_encoder"
