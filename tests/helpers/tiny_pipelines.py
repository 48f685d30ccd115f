"""Pipelines of every class that configs/model names, tiny and with random weights, as people would save them."""

from __future__ import annotations

import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMPipeline,
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    DiTPipeline,
    DiTTransformer2DModel,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    LatentConsistencyModelPipeline,
    LCMScheduler,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    PNDMScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
    UNet2DModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
)

LENGTH = 16  # tokens that the CLIP text encoders take
SIZE = 16  # pixels of the latent pipelines' images; the pixel-space ones make 8


def clip_tokenizer(length: int = LENGTH) -> CLIPTokenizer:
    names = [*string.ascii_lowercase, *(c + "</w>" for c in string.ascii_lowercase), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={n: i for i, n in enumerate(names)}, merges=[], model_max_length=length)


def t5_tokenizer() -> T5TokenizerFast:
    pieces = ["<pad>", "</s>", "<unk>", "▁", *string.ascii_lowercase, *("▁" + c for c in string.ascii_lowercase)]
    return T5TokenizerFast(vocab=[(piece, -1.0 * i) for i, piece in enumerate(pieces)], extra_ids=0)


def clip_config(length: int = LENGTH) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=54,
        hidden_size=16,
        intermediate_size=16,
        projection_dim=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=length,
        bos_token_id=52,
        eos_token_id=53,
        pad_token_id=53,
    )


def t5() -> T5EncoderModel:
    config = T5Config(vocab_size=64, d_model=32, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    return T5EncoderModel(config)


def vae(**kwargs: Any) -> AutoencoderKL:
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    return AutoencoderKL(
        block_out_channels=(8, 8), latent_channels=4, norm_num_groups=4, sample_size=SIZE, **blocks, **kwargs
    )


def condition_unet(cross: int = 16, **kwargs: Any) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=cross,
        norm_num_groups=4,
        attention_head_dim=4,
        **kwargs,
    )


def pixel_unet(channels: int = 3, **kwargs: Any) -> UNet2DModel:
    return UNet2DModel(
        sample_size=8,
        in_channels=channels,
        out_channels=channels,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
        attention_head_dim=4,
        **kwargs,
    )


BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def sd(safety_checker: Any = None, feature_extractor: Any = None, **kwargs: Any) -> StableDiffusionPipeline:
    return StableDiffusionPipeline(
        vae=vae(),
        text_encoder=CLIPTextModel(clip_config()),
        tokenizer=clip_tokenizer(),
        unet=condition_unet(),
        scheduler=PNDMScheduler(skip_prk_steps=True, steps_offset=1, **BETAS),
        safety_checker=safety_checker,
        feature_extractor=feature_extractor,
        requires_safety_checker=safety_checker is not None,
    )


def sdxl(turbo: bool = False) -> StableDiffusionXLPipeline:
    scheduler = EulerAncestralDiscreteScheduler if turbo else EulerDiscreteScheduler
    return StableDiffusionXLPipeline(
        vae=vae(force_upcast=True),
        text_encoder=CLIPTextModel(clip_config()),
        text_encoder_2=CLIPTextModelWithProjection(clip_config()),
        tokenizer=clip_tokenizer(),
        tokenizer_2=clip_tokenizer(),
        unet=condition_unet(
            32, addition_embed_type="text_time", addition_time_embed_dim=8, projection_class_embeddings_input_dim=64
        ),
        scheduler=scheduler(timestep_spacing="trailing" if turbo else "leading", steps_offset=1, **BETAS),
    )


def sd3(layers: int = 1) -> StableDiffusion3Pipeline:
    transformer = SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=layers,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=32,
        caption_projection_dim=16,
        pooled_projection_dim=32,
    )
    return StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae(shift_factor=0.06, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=CLIPTextModelWithProjection(clip_config()),
        tokenizer=clip_tokenizer(),
        text_encoder_2=CLIPTextModelWithProjection(clip_config()),
        tokenizer_2=clip_tokenizer(),
        text_encoder_3=t5(),
        tokenizer_3=t5_tokenizer(),
    )


def flux() -> FluxPipeline:
    transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=16,
        axes_dims_rope=(4, 4, 8),
        guidance_embeds=False,
    )
    return FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0),
        vae=vae(shift_factor=0.1, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=CLIPTextModel(clip_config()),
        tokenizer=clip_tokenizer(),
        text_encoder_2=t5(),
        tokenizer_2=t5_tokenizer(),
        transformer=transformer,
    )


def pixart(layers: int = 1) -> PixArtSigmaPipeline:
    transformer = PixArtTransformer2DModel(
        sample_size=8,
        num_layers=layers,
        patch_size=2,
        attention_head_dim=8,
        num_attention_heads=2,
        caption_channels=32,
        in_channels=4,
        cross_attention_dim=16,
        out_channels=8,
        attention_bias=True,
        use_additional_conditions=False,
    )
    scheduler = DPMSolverMultistepScheduler(beta_start=0.0001, beta_end=0.02)
    return PixArtSigmaPipeline(t5_tokenizer(), t5(), vae(), transformer, scheduler)


def dit() -> DiTPipeline:
    transformer = DiTTransformer2DModel(
        sample_size=8,
        num_layers=1,
        patch_size=2,
        attention_head_dim=8,
        num_attention_heads=2,
        in_channels=4,
        out_channels=8,
        num_embeds_ada_norm=1000,
    )
    return DiTPipeline(transformer, vae(), DDIMScheduler(clip_sample=False))


def lcm() -> LatentConsistencyModelPipeline:
    return LatentConsistencyModelPipeline(
        vae=vae(),
        text_encoder=CLIPTextModel(clip_config()),
        tokenizer=clip_tokenizer(),
        unet=condition_unet(time_cond_proj_dim=8),
        scheduler=LCMScheduler(**BETAS),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def ddpm(**kwargs: Any) -> DDPMPipeline:
    return DDPMPipeline(pixel_unet(**kwargs), DDPMScheduler())


MAKERS: dict[str, Callable[[], Any]] = {
    "sd": sd,
    "sdxl": sdxl,
    "sdxl_turbo": lambda: sdxl(turbo=True),
    "sd3": sd3,
    "flux": flux,
    "pixart": pixart,
    "dit": dit,
    "lcm": lcm,
    "ddpm": ddpm,
    "ddim": lambda: DDIMPipeline(pixel_unet(), DDIMScheduler()),
    "ddpm_classes": lambda: ddpm(num_class_embeds=10),
}


def awaken(pipe: Any) -> None:
    """Gives layers that start at zero (transformers' last ones) random weights, so that a prompt changes pixels."""
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            for weight in part.parameters():
                if not weight.any():
                    torch.nn.init.normal_(weight, std=0.1)


def save(kind: str, folder: Path) -> Path:
    torch.manual_seed(0)
    pipe = MAKERS[kind]()
    awaken(pipe)
    pipe.save_pretrained(folder)
    return folder
