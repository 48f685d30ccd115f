"""More tiny pipelines of text: FIBO, DreamLite, ERNIE-Image, FLUX Kontext, Ideogram 4, Nucleus, Qwen-Image 2.1."""

from __future__ import annotations

from typing import Any

import diffusers
import tiny_pipelines as base
import zoo_text as text
from diffusers import FlowMatchEulerDiscreteScheduler
from zoo import tiny
from zoo_chat import HALF, dynamic, flux2_vae, qwen_vae
from zoo_dit import SMALL
from zoo_unet import kandinsky_prior

SIZE = {"height": 32, "width": 32}
AREA = {"max_area": 256, "_auto_resize": False}
PRIOR = {"prior_num_inference_steps": 2}
REWRITES = "extra.use_pe: false; else its language model rewrites prompts"
SCHEDULE = "extra.guidance_schedule: a value per step, or its 48 steps"
ALONE: dict[str, Any] = {"swap": "unipc", "given": False, "note": "called image by image: it takes one prompt"}


@tiny("FluxKontextPipeline", settings={**SMALL, "guidance_scale": 0.0, "extra": AREA}, swap="unipc")
def flux_kontext() -> Any:
    return diffusers.FluxKontextPipeline(**base.flux().components)


@tiny("ErnieImagePipeline", settings={**SIZE, "extra": {"use_pe": False}}, swap="unipc", latents=False, note=REWRITES)
def ernie() -> Any:
    transformer = diffusers.ErnieImageTransformer2DModel(
        hidden_size=32,
        num_attention_heads=2,
        num_layers=1,
        ffn_hidden_size=32,
        in_channels=8,
        out_channels=8,
        text_in_dim=text.WIDTH,
        rope_axes_dim=(4, 6, 6),
    )
    return diffusers.ErnieImagePipeline(
        transformer=transformer,
        vae=flux2_vae(),
        text_encoder=text.mistral3().model,
        tokenizer=text.byte_tokenizer(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    )


@tiny("Ideogram4Pipeline", settings={**SIZE, "extra": {"guidance_schedule": [4.0, 4.0]}}, swap="unipc", note=SCHEDULE)
def ideogram4() -> Any:
    sizes: dict[str, Any] = {"in_channels": 8, "num_layers": 1, "attention_head_dim": 16, "num_attention_heads": 2}
    sizes |= {"intermediate_size": 32, "adaln_dim": 16, "llm_features_dim": text.WIDTH * 13, "mrope_section": (4, 2, 2)}
    return diffusers.Ideogram4Pipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=flux2_vae(),
        text_encoder=text.qwen3_vl(36),
        tokenizer=text.qwen_tokenizer(),
        transformer=diffusers.Ideogram4Transformer2DModel(**sizes),
        unconditional_transformer=diffusers.Ideogram4Transformer2DModel(**sizes),
    )


@tiny("BriaFiboPipeline", settings={"height": 32, "width": 32}, swap="unipc")
def fibo() -> Any:
    from transformers import SmolLM3Config, SmolLM3ForCausalLM

    transformer = diffusers.BriaFiboTransformer2DModel(
        patch_size=1,
        in_channels=4,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=2 * text.WIDTH,
        text_encoder_dim=text.WIDTH,
        pooled_projection_dim=None,
        axes_dims_rope=(0, 4, 4),
    )
    vae = diffusers.AutoencoderKLWan(
        base_dim=8,
        decoder_base_dim=8,
        z_dim=4,
        num_res_blocks=1,
        out_channels=12,
        in_channels=12,
        patch_size=2,
        scale_factor_spatial=16,
        scale_factor_temporal=4,
        temperal_downsample=[False, True, True],
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
    )
    return diffusers.BriaFiboPipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=vae,
        text_encoder=SmolLM3ForCausalLM(text.lm(SmolLM3Config, vocab_size=128_256)).eval(),
        tokenizer=text.byte_tokenizer(),
    )


@tiny("NucleusMoEImagePipeline", settings=HALF, swap="unipc")
def nucleus() -> Any:
    from transformers import Qwen3VLForConditionalGeneration

    transformer = diffusers.NucleusMoEImageTransformer2DModel(
        patch_size=2,
        in_channels=16,
        out_channels=4,
        num_layers=1,
        attention_head_dim=16,
        num_attention_heads=4,
        joint_attention_dim=text.WIDTH,
        axes_dims_rope=(8, 4, 4),
        moe_enabled=False,
        capacity_factors=[8.0],
    )
    return diffusers.NucleusMoEImagePipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=qwen_vae(),
        text_encoder=Qwen3VLForConditionalGeneration(text.qwen3_vl_config(8)).eval(),
        processor=text.qwen3_processor(),
    )


@tiny("QwenImage21Pipeline", settings=SIZE, guidance="true_cfg_scale", swap="unipc")
def qwen_image21() -> Any:
    from transformers import Qwen3VLForConditionalGeneration

    transformer = diffusers.QwenImage21Transformer2DModel(
        in_channels=4,
        out_channels=4,
        num_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        context_in_dim=text.WIDTH,
        axes_dims_rope=(4, 6, 6),
    )
    vae = diffusers.AutoencoderKLQwenImage21(
        base_dim=8,
        decoder_base_dim=8,
        z_dim=4,
        dim_mult=[1, 2, 2, 2, 2],
        num_res_blocks=1,
        temperal_downsample=[False, True, True, True],
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
        is_residual=False,
        in_channels=3,
        out_channels=3,
    )
    return diffusers.QwenImage21Pipeline(
        scheduler=dynamic(),
        vae=vae,
        text_encoder=Qwen3VLForConditionalGeneration(text.qwen3_vl_config()).eval(),
        processor=text.qwen3_processor(),
        transformer=transformer,
    )


@tiny("DreamLitePipeline", settings={**SIZE, "max_sequence_length": 400}, **ALONE)
def dreamlite(cls: Any = None) -> Any:
    from transformers import Qwen3VLForConditionalGeneration

    unet = diffusers.DreamLiteUNetModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        down_block_types=("DreamLiteCrossAttnNoSelfAttnDownBlock2D", "DreamLiteCrossAttnDownBlock2D"),
        up_block_types=("DreamLiteCrossAttnUpBlock2D", "DreamLiteUpBlock2D"),
        block_out_channels=(16, 32),
        cross_attention_dim=text.WIDTH,
        attention_head_dim=8,
        layers_per_block=1,
        norm_num_groups=8,
        transformer_layers_per_block=1,
    )
    sizes = {"encoder_block_out_channels": (8, 8), "decoder_block_out_channels": (8, 8)}
    vae = diffusers.AutoencoderTiny(num_encoder_blocks=(1, 1), num_decoder_blocks=(1, 1), latent_channels=4, **sizes)
    return (cls or diffusers.DreamLitePipeline)(
        text_encoder=Qwen3VLForConditionalGeneration(text.qwen3_vl_config()).eval(),
        tokenizer=text.qwen_tokenizer(),
        processor=text.qwen3_processor(),
        vae=vae,
        unet=unet,
        scheduler=FlowMatchEulerDiscreteScheduler(),
    )


@tiny("DreamLiteMobilePipeline", settings={**SIZE, "max_sequence_length": 400}, **ALONE)
def dreamlite_mobile() -> Any:
    return dreamlite(diffusers.DreamLiteMobilePipeline)


@tiny("StableUnCLIPPipeline", settings={**SMALL, "extra": PRIOR}, swap="dpmpp_2m", latents=False)
def unclip() -> Any:
    from diffusers.pipelines.stable_diffusion.stable_unclip_image_normalizer import StableUnCLIPImageNormalizer
    from transformers import CLIPTextModel

    prior = kandinsky_prior()
    return diffusers.StableUnCLIPPipeline(
        prior_tokenizer=prior["tokenizer"],
        prior_text_encoder=prior["text_encoder"],
        prior=prior["prior"],
        prior_scheduler=prior["scheduler"],
        image_normalizer=StableUnCLIPImageNormalizer(embedding_dim=16),
        image_noising_scheduler=diffusers.DDPMScheduler(beta_schedule="squaredcos_cap_v2"),
        tokenizer=base.clip_tokenizer(),
        text_encoder=CLIPTextModel(base.clip_config()).eval(),
        unet=base.condition_unet(class_embed_type="projection", projection_class_embeddings_input_dim=32),
        scheduler=diffusers.DDIMScheduler(prediction_type="v_prediction", clip_sample=False, **base.BETAS),
        vae=base.vae(),
    )
