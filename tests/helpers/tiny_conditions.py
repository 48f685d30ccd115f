"""Tiny pipelines that take images, ControlNets and T2I-Adapters with random weights, as people would save them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tiny_pipelines as tiny
import torch
from diffusers import (
    ControlNetModel,
    DDIMScheduler,
    DDPMScheduler,
    StableDiffusionInstructPix2PixPipeline,
    StableDiffusionPipeline,
    StableDiffusionUpscalePipeline,
    T2IAdapter,
    UNet2DConditionModel,
)
from PIL import Image
from transformers import CLIPTextModel


def unet(**kwargs: Any) -> UNet2DConditionModel:
    """As Stable Diffusion's: attention in the first block, which T2I-Adapters go by."""
    given: dict[str, Any] = {"in_channels": 4, **kwargs}
    return UNet2DConditionModel(
        sample_size=8,
        out_channels=4,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=16,
        norm_num_groups=4,
        attention_head_dim=4,
        **given,
    )


def parts(net: UNet2DConditionModel) -> dict[str, Any]:
    return {
        "vae": tiny.vae(),
        "text_encoder": CLIPTextModel(tiny.clip_config()),
        "tokenizer": tiny.clip_tokenizer(),
        "unet": net,
        "scheduler": DDIMScheduler(clip_sample=False, steps_offset=1, **tiny.BETAS),
    }


def without_checker(cls: Any, net: UNet2DConditionModel) -> Any:
    return cls(**parts(net), safety_checker=None, feature_extractor=None, requires_safety_checker=False)


def upscaler() -> StableDiffusionUpscalePipeline:
    return StableDiffusionUpscalePipeline(
        **parts(unet(in_channels=7, num_class_embeds=1000)), low_res_scheduler=DDPMScheduler(), max_noise_level=350
    )


def controlnet(net: UNet2DConditionModel) -> ControlNetModel:
    made = ControlNetModel.from_unet(net, conditioning_embedding_out_channels=(8, 16))  # halves once, as the VAE does
    for weight in made.parameters():
        if not weight.any():  # the layers that start at zero
            torch.nn.init.normal_(weight, std=0.3)
    return made


def adapter(channels: int) -> T2IAdapter:
    return T2IAdapter(in_channels=channels, channels=[8, 16], num_res_blocks=1, downscale_factor=2)


PIPELINES: dict[str, Callable[[], Any]] = {
    "plain": lambda: without_checker(StableDiffusionPipeline, unet()),
    "edit": lambda: without_checker(StableDiffusionInstructPix2PixPipeline, unet(in_channels=8)),
    "upscaler": upscaler,
    **{name: tiny.MAKERS[name] for name in ("sdxl", "sd3", "lcm", "flux")},
}
NETWORKS: dict[str, Callable[[], Any]] = {
    "net": lambda: controlnet(unet()),
    "other_net": lambda: controlnet(unet()),
    "net_xl": lambda: controlnet(tiny.sdxl().unet),
    "adapter": lambda: adapter(3),
    "adapter_grey": lambda: adapter(1),
}


def save(folder: Path) -> Path:
    """All pipelines and networks, each in a folder of its name."""
    for seed, (name, maker) in enumerate({**PIPELINES, **NETWORKS}.items()):
        torch.manual_seed(seed)
        made = maker()
        if name in PIPELINES:
            tiny.awaken(made)
        made.save_pretrained(folder / name)
    return folder


def picture(path: Path, seed: int, size: tuple[int, int] = (16, 16)) -> str:
    """A coarse random image (width, height); its path."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize(size, Image.Resampling.NEAREST).save(path)
    return str(path)
