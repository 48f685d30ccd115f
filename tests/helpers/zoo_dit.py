"""Tiny transformers with a T5, BERT or Gemma as text encoder, and DiT's relatives."""

from __future__ import annotations

from typing import Any

import diffusers
import tiny_pipelines as base
import zoo_text as text
from diffusers import FlowMatchEulerDiscreteScheduler
from zoo import tiny

SMALL = {"height": 16, "width": 16}
PLAIN = {**SMALL, "use_resolution_binning": False}


def flow_vae(channels: int = 4, blocks: int = 2, **kwargs: Any) -> diffusers.AutoencoderKL:
    """Two blocks: the image is twice as large as the latent; four: eight times, as some pipelines assume."""
    sizes: dict[str, Any] = {"down_block_types": ("DownEncoderBlock2D",) * blocks, "layers_per_block": 1}
    sizes |= {"up_block_types": ("UpDecoderBlock2D",) * blocks, "block_out_channels": (8,) * blocks}
    sizes |= {"norm_num_groups": 4, "sample_size": 16}
    return diffusers.AutoencoderKL(**sizes, latent_channels=channels, scaling_factor=0.36, shift_factor=0.1, **kwargs)


def deep_vae() -> diffusers.AutoencoderDC:
    """Sana's autoencoder."""
    sides = {}
    for side in ("encoder", "decoder"):
        sides |= {f"{side}_block_types": ("ResBlock", "EfficientViTBlock"), f"{side}_block_out_channels": (8, 8)}
        sides |= {f"{side}_qkv_multiscales": ((), (5,)), f"{side}_layers_per_block": (1, 1)}
    return diffusers.AutoencoderDC(
        in_channels=3,
        latent_channels=4,
        attention_head_dim=2,
        downsample_block_type="conv",
        upsample_block_type="interpolate",
        decoder_norm_types="rms_norm",
        decoder_act_fns="silu",
        scaling_factor=0.41,
        **sides,
    )


@tiny("PixArtAlphaPipeline", settings={**PLAIN, "clean_caption": False}, swap="ddim")
def pixart_alpha() -> Any:
    return diffusers.PixArtAlphaPipeline(**base.pixart().components)


@tiny("AuraFlowPipeline", settings=SMALL, swap="unipc")
def aura_flow() -> Any:
    from transformers import UMT5Config, UMT5EncoderModel

    transformer = diffusers.AuraFlowTransformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        num_mmdit_layers=1,
        num_single_dit_layers=1,
        attention_head_dim=8,
        num_attention_heads=4,
        caption_projection_dim=32,
        joint_attention_dim=32,
        out_channels=4,
        pos_embed_max_size=64,
    )
    encoder = UMT5EncoderModel(UMT5Config(vocab_size=64, d_model=32, d_kv=8, d_ff=16, num_layers=1, num_heads=2))
    return diffusers.AuraFlowPipeline(
        base.t5_tokenizer(), encoder.eval(), flow_vae(), transformer, FlowMatchEulerDiscreteScheduler(shift=1.73)
    )


def sana_transformer(**kwargs: Any) -> Any:
    return diffusers.SanaTransformer2DModel(
        patch_size=1,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        num_attention_heads=2,
        attention_head_dim=4,
        num_cross_attention_heads=2,
        cross_attention_head_dim=4,
        cross_attention_dim=8,
        caption_channels=text.WIDTH,
        sample_size=8,
        **kwargs,
    )


SANA = {
    **PLAIN,
    "height": 32,
    "width": 32,
    "clean_caption": False,
    "max_sequence_length": 32,
    "extra": {"complex_human_instruction": []},
}


@tiny("SanaPipeline", settings=SANA, swap="unipc")
def sana(cls: Any = None) -> Any:
    return (cls or diffusers.SanaPipeline)(
        tokenizer=text.byte_tokenizer(),
        text_encoder=text.gemma2(),
        vae=deep_vae(),
        transformer=sana_transformer(),
        scheduler=diffusers.DPMSolverMultistepScheduler(
            use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0
        ),
    )


@tiny("SanaPAGPipeline", settings=SANA, swap="unipc")
def sana_pag() -> Any:
    return diffusers.SanaPAGPipeline(**sana().components, pag_applied_layers=["transformer_blocks.0"])


@tiny("SanaSprintPipeline", settings=SANA, note="1 to 4 steps; its own scheduler (SCM) alone")
def sana_sprint() -> Any:
    return diffusers.SanaSprintPipeline(
        tokenizer=text.byte_tokenizer(),
        text_encoder=text.gemma2(),
        vae=deep_vae(),
        transformer=sana_transformer(qk_norm="rms_norm_across_heads", guidance_embeds=True),
        scheduler=diffusers.SCMScheduler(),
    )


@tiny("HunyuanDiTPipeline", settings=PLAIN, swap="ddim")
def hunyuan_dit(cls: Any = None, **kwargs: Any) -> Any:
    transformer = diffusers.HunyuanDiT2DModel(
        sample_size=8,
        num_layers=2,
        patch_size=2,
        attention_head_dim=8,
        num_attention_heads=3,
        in_channels=4,
        cross_attention_dim=32,
        cross_attention_dim_t5=32,
        pooled_projection_dim=16,
        hidden_size=24,
        activation_fn="gelu-approximate",
    )
    return (cls or diffusers.HunyuanDiTPipeline)(
        vae=base.vae(),
        text_encoder=text.bert(),
        tokenizer=text.bert_tokenizer(),
        transformer=transformer,
        scheduler=diffusers.DDPMScheduler(
            beta_start=0.00085, beta_end=0.02, beta_schedule="scaled_linear", prediction_type="v_prediction"
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
        text_encoder_2=base.t5(),
        tokenizer_2=base.t5_tokenizer(),
        **kwargs,
    )


@tiny("HunyuanDiTPAGPipeline", settings=PLAIN, swap="ddim")
def hunyuan_dit_pag() -> Any:
    return hunyuan_dit(diffusers.HunyuanDiTPAGPipeline, pag_applied_layers=["1"])


@tiny(
    "CogView3PlusPipeline",
    settings=SMALL,
    note="its betas are shifted (CogVideoX's DDIM), which no sampler of ours keeps",
)
def cogview3() -> Any:
    transformer = diffusers.CogView3PlusTransformer2DModel(
        patch_size=2,
        in_channels=4,
        num_layers=1,
        attention_head_dim=4,
        num_attention_heads=2,
        out_channels=4,
        text_embed_dim=32,
        time_embed_dim=8,
        condition_dim=2,
        pos_embed_max_size=8,
        sample_size=8,
    )
    scheduler = diffusers.CogVideoXDDIMScheduler(snr_shift_scale=4.0, prediction_type="v_prediction")
    return diffusers.CogView3PlusPipeline(base.t5_tokenizer(), base.t5(), base.vae(), transformer, scheduler)


@tiny("CogView4Pipeline", settings=SMALL, swap="unipc")
def cogview4() -> Any:
    from transformers import GlmConfig, GlmModel

    transformer = diffusers.CogView4Transformer2DModel(
        patch_size=2,
        in_channels=4,
        num_layers=1,
        attention_head_dim=4,
        num_attention_heads=4,
        out_channels=4,
        text_embed_dim=text.WIDTH,
        time_embed_dim=8,
        condition_dim=4,
    )
    scheduler = FlowMatchEulerDiscreteScheduler(
        base_shift=0.25, max_shift=0.75, base_image_seq_len=256, use_dynamic_shifting=True, time_shift_type="linear"
    )
    return diffusers.CogView4Pipeline(
        text.byte_tokenizer(padding_side="left"),
        GlmModel(text.lm(GlmConfig)).eval(),
        base.vae(),
        transformer,
        scheduler,
    )


@tiny("LuminaPipeline", settings={**SMALL, "clean_caption": False}, swap="unipc")
def lumina() -> Any:
    from transformers import GemmaConfig, GemmaModel

    transformer = diffusers.LuminaNextDiT2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        hidden_size=8,
        num_layers=1,
        num_attention_heads=1,
        num_kv_heads=1,
        multiple_of=16,
        norm_eps=1e-5,
        learn_sigma=True,
        qk_norm=True,
        cross_attention_dim=text.WIDTH,
        scaling_factor=1.0,
    )
    return diffusers.LuminaPipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=flow_vae(blocks=4),
        text_encoder=GemmaModel(text.lm(GemmaConfig)).eval(),
        tokenizer=text.byte_tokenizer(),
    )


@tiny("Lumina2Pipeline", settings=SMALL, swap="unipc")
def lumina2() -> Any:
    transformer = diffusers.Lumina2Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        hidden_size=8,
        num_layers=1,
        num_refiner_layers=1,
        num_attention_heads=1,
        num_kv_heads=1,
        multiple_of=16,
        norm_eps=1e-5,
        scaling_factor=1.0,
        axes_dim_rope=(4, 2, 2),
        axes_lens=(600, 32, 32),
        cap_feat_dim=text.WIDTH,
    )
    return diffusers.Lumina2Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=flow_vae(blocks=4),
        text_encoder=text.gemma2(),
        tokenizer=text.byte_tokenizer(padding_side="right"),
    )


@tiny("ChromaPipeline", settings=SMALL, swap="unipc")
def chroma() -> Any:
    transformer = diffusers.ChromaTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        axes_dims_rope=(4, 4, 8),
        approximator_hidden_dim=32,
        approximator_layers=1,
        approximator_num_channels=16,
    )
    return diffusers.ChromaPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=flow_vae(),
        text_encoder=base.t5(),
        tokenizer=base.t5_tokenizer(),
        transformer=transformer,
    )


@tiny("BriaPipeline", settings=SMALL, swap="unipc")
def bria() -> Any:
    transformer = diffusers.BriaTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=None,
        axes_dims_rope=(0, 4, 4),
    )
    return diffusers.BriaPipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=flow_vae(),
        text_encoder=base.t5(),
        tokenizer=base.t5_tokenizer(),
    )


@tiny("PRXPipeline", settings=PLAIN, swap="unipc", note="called image by image: it fails with several")
def prx() -> Any:
    return diffusers.PRXPipeline(
        transformer=prx_transformer(4, context_in_dim=text.WIDTH),
        scheduler=FlowMatchEulerDiscreteScheduler(),
        text_encoder=text.gemma2(),
        tokenizer=text.byte_tokenizer(model_max_length=32),
        vae=flow_vae(),
        default_sample_size=16,
    )


@tiny("PRXPixelPipeline", settings=PLAIN, swap="unipc", note="called image by image: it fails with several")
def prx_pixel() -> Any:
    return diffusers.PRXPixelPipeline(
        transformer=prx_transformer(3, context_in_dim=text.WIDTH),
        scheduler=FlowMatchEulerDiscreteScheduler(),
        text_encoder=text.qwen3_vl(),
        tokenizer=text.qwen_tokenizer(),
        default_sample_size=16,
    )


def prx_transformer(channels: int, **kwargs: Any) -> Any:
    return diffusers.PRXTransformer2DModel(
        patch_size=1,
        in_channels=channels,
        hidden_size=8,
        mlp_ratio=2.0,
        num_heads=2,
        depth=1,
        axes_dim=[2, 2],
        **kwargs,
    )
