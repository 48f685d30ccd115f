"""Stable Diffusion's original single-file layout (LDM), written from a diffusers pipeline.

The inverse of what diffusers reads, after the order of layers in LDM's UNet and autoencoder.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
_UNET = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def save_original(
    pipe: Any, file: Path, *, ema: Any = None, metadata: dict[str, str] | None = None, **more: Any
) -> Path:
    """Writes a StableDiffusionPipeline into one file.

    Args:
        pipe: the pipeline.
        file: where to.
        ema: another UNet, whose weights are written as the EMA ones.
        metadata: of the safetensors file.
        more: further tensors.
    """
    state = {f"model.diffusion_model.{name}": value for name, value in _unet(pipe.unet).items()}
    if ema is not None:
        flat = {f"diffusion_model.{name}".replace(".", ""): value for name, value in _unet(ema).items()}
        state |= {f"model_ema.{name}": value for name, value in flat.items()}
    state |= {f"first_stage_model.{name}": value for name, value in _vae(pipe.vae).items()}
    for name, value in pipe.text_encoder.state_dict().items():
        state[f"cond_stage_model.transformer.text_model.{name.removeprefix('text_model.')}"] = value
    save_file({key: value.contiguous() for key, value in (state | more).items()}, file, metadata)
    return file


def _unet(unet: Any) -> dict[str, torch.Tensor]:
    per = unet.config.layers_per_block + 1
    state = {}
    for key, value in unet.state_dict().items():
        name = key
        for old, new in _UNET.items():
            name = re.sub(rf"^{re.escape(old)}\.", f"{new}.", name)
        if "resnets" in name:
            for old, new in _RESNET.items():
                name = name.replace(f".{old}.", f".{new}.")
        if found := re.match(r"down_blocks\.(\d+)\.(resnets|attentions|downsamplers)\.(\d+)\.(.*)", name):
            block, kind, layer, rest = int(found[1]), found[2], int(found[3]), found[4]
            place = {"resnets": 0, "attentions": 1, "downsamplers": 0}[kind]
            number = (block + 1) * per if kind == "downsamplers" else 1 + block * per + layer
            rest = rest.replace("conv.", "op.") if kind == "downsamplers" else rest
            name = f"input_blocks.{number}.{place}.{rest}"
        elif found := re.match(r"mid_block\.(resnets|attentions)\.(\d+)\.(.*)", name):
            name = f"middle_block.{1 if found[1] == 'attentions' else 2 * int(found[2])}.{found[3]}"
        elif found := re.match(r"up_blocks\.(\d+)\.(resnets|attentions|upsamplers)\.(\d+)\.(.*)", name):
            block, kind, layer, rest = int(found[1]), found[2], int(found[3]), found[4]
            attentive = hasattr(unet.up_blocks[block], "attentions")
            place = {"resnets": 0, "attentions": 1, "upsamplers": 2 if attentive else 1}[kind]
            name = f"output_blocks.{block * per + (per - 1 if kind == 'upsamplers' else layer)}.{place}.{rest}"
        state[name] = value
    return state


def _vae(vae: Any) -> dict[str, torch.Tensor]:
    blocks = len(vae.config.block_out_channels)
    state = {}
    for key, value in vae.state_dict().items():
        name = key.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
        name = name.replace("mid_block.attentions.0", "mid.attn_1")
        name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
        name = re.sub(r"down_blocks\.(\d+)\.resnets", r"down.\1.block", name)
        name = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample", name)
        name = re.sub(r"up_blocks\.(\d+)\.resnets", lambda m: f"up.{blocks - 1 - int(m[1])}.block", name)
        name = re.sub(r"up_blocks\.(\d+)\.upsamplers\.0", lambda m: f"up.{blocks - 1 - int(m[1])}.upsample", name)
        if "attn_1" in name:
            for old, new in _ATTENTION.items():
                name = name.replace(f".{old}.", f".{new}.")
            if value.ndim == 2:
                value = value[:, :, None, None]  # LDM's are convolutions of one pixel
        state[name] = value
    return state
