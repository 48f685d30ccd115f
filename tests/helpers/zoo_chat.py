"""Tiny pipelines whose text encoder is a chat model: FLUX.2, Qwen-Image, Z-Image and their like."""

from __future__ import annotations

from typing import Any

import diffusers
import tiny_pipelines as base
import zoo_text as text
from diffusers import FlowMatchEulerDiscreteScheduler
from zoo import tiny
from zoo_dit import SMALL, flow_vae

HALF = {"height": 32, "width": 32, "max_sequence_length": 400}  # bytes: the templates are long
GUIDER = "guided by its own part `guider`"
LAYERS = "its text encoder's layers are given as extra.text_encoder_out_layers where there are fewer"


def flux2_vae() -> Any:
    sizes: dict[str, Any] = {"down_block_types": ("DownEncoderBlock2D",) * 2, "block_out_channels": (8, 8)}
    sizes |= {"up_block_types": ("UpDecoderBlock2D",) * 2, "norm_num_groups": 4, "layers_per_block": 1}
    return diffusers.AutoencoderKLFlux2(sample_size=16, latent_channels=2, **sizes)


def flux2_transformer(layers: int, **kwargs: Any) -> Any:
    return diffusers.Flux2Transformer2DModel(
        patch_size=1,
        in_channels=8,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=text.WIDTH * layers,
        axes_dims_rope=(4, 4, 4, 4),
        **kwargs,
    )


def dynamic(**kwargs: Any) -> FlowMatchEulerDiscreteScheduler:
    return FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, **kwargs)


@tiny(
    "Flux2Pipeline",
    settings={**HALF, "extra": {"text_encoder_out_layers": [0, 1, 2]}},
    swap="unipc",
    note=LAYERS,
)
def flux2() -> Any:
    return diffusers.Flux2Pipeline(
        scheduler=dynamic(),
        vae=flux2_vae(),
        text_encoder=text.mistral3(),
        tokenizer=text.pixtral_processor(),
        transformer=flux2_transformer(3),
    )


@tiny(
    "Flux2KleinPipeline",
    settings={**HALF, "extra": {"text_encoder_out_layers": [0, 1, 2]}},
    swap="unipc",
    note=LAYERS,
)
def flux2_klein(cls: Any = None) -> Any:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    return (cls or diffusers.Flux2KleinPipeline)(
        scheduler=dynamic(),
        vae=flux2_vae(),
        text_encoder=Qwen3ForCausalLM(text.lm(Qwen3Config)).eval(),
        tokenizer=text.qwen_tokenizer(),
        transformer=flux2_transformer(3, guidance_embeds=False),
    )


@tiny(
    "Flux2KleinKVPipeline",
    settings={**HALF, "extra": {"text_encoder_out_layers": [0, 1, 2]}},
    guidance=None,
    swap="unipc",
    note=LAYERS,
)
def flux2_klein_kv() -> Any:
    return flux2_klein(diffusers.Flux2KleinKVPipeline)


@tiny("ZImagePipeline", settings=HALF, swap="unipc")
def z_image() -> Any:
    import torch

    transformer = diffusers.ZImageTransformer2DModel(
        all_patch_size=(2,),
        all_f_patch_size=(1,),
        in_channels=4,
        dim=32,
        n_layers=1,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        qk_norm=True,
        cap_feat_dim=text.WIDTH,
        rope_theta=256.0,
        t_scale=1000.0,
        axes_dims=[8, 4, 4],
        axes_lens=[256, 32, 32],
    )
    with torch.no_grad():  # made by torch.empty
        transformer.x_pad_token.fill_(1)
        transformer.cap_pad_token.fill_(1)
    return diffusers.ZImagePipeline(
        FlowMatchEulerDiscreteScheduler(shift=3.0), flow_vae(), text.qwen3(), text.qwen_tokenizer(), transformer
    )


def qwen_vae() -> Any:
    return diffusers.AutoencoderKLQwenImage(
        base_dim=8,
        z_dim=4,
        dim_mult=[1, 2, 4],
        num_res_blocks=1,
        temperal_downsample=[False, True],
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
    )


@tiny("QwenImagePipeline", settings=HALF, guidance="true_cfg_scale", swap="unipc")
def qwen_image() -> Any:
    transformer = diffusers.QwenImageTransformer2DModel(
        patch_size=2,
        in_channels=16,
        out_channels=4,
        num_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=text.WIDTH,
        guidance_embeds=False,
        axes_dims_rope=(8, 4, 4),
    )
    return diffusers.QwenImagePipeline(dynamic(), qwen_vae(), text.qwen25_vl(), text.qwen_tokenizer(), transformer)


@tiny("OvisImagePipeline", settings=SMALL, swap="unipc")
def ovis_image() -> Any:
    transformer = diffusers.OvisImageTransformer2DModel(
        patch_size=1,
        in_channels=16,
        out_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=text.WIDTH,
        axes_dims_rope=(4, 4, 8),
    )
    return diffusers.OvisImagePipeline(dynamic(), flow_vae(), text.qwen3(), text.qwen_tokenizer(), transformer)


@tiny(
    "LongCatImagePipeline",
    settings={**SMALL, "extra": {"enable_prompt_rewrite": False}},
    swap="unipc",
    note="extra.enable_prompt_rewrite: false; a rewrite is drawn anew in each process",
)
def longcat_image() -> Any:
    transformer = diffusers.LongCatImageTransformer2DModel(
        patch_size=1,
        in_channels=64,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=text.WIDTH,
        pooled_projection_dim=text.WIDTH,
        axes_dims_rope=(4, 4, 8),
    )
    return diffusers.LongCatImagePipeline(
        scheduler=dynamic(),
        vae=flow_vae(16),
        text_encoder=text.qwen25_vl(),
        tokenizer=text.qwen_tokenizer(),
        text_processor=text.qwen_processor(),
        transformer=transformer,
    )


@tiny(
    "Kandinsky5T2IPipeline",
    settings={"height": 1024, "width": 1024, "max_sequence_length": 600},
    swap="unipc",
    slow=True,
    note="1,024 px and six other shapes alone",
)
def kandinsky5() -> Any:
    from transformers import CLIPTextModel

    transformer = diffusers.Kandinsky5Transformer3DModel(
        in_visual_dim=4,
        in_text_dim=text.WIDTH,
        in_text_dim2=16,
        time_dim=16,
        out_visual_dim=4,
        patch_size=(1, 2, 2),
        model_dim=16,
        ff_dim=32,
        num_text_blocks=1,
        num_visual_blocks=1,
        axes_dims=(1, 1, 2),
        visual_cond=False,
        attention_type="regular",
    )
    return diffusers.Kandinsky5T2IPipeline(
        transformer=transformer,
        vae=flow_vae(blocks=4),
        text_encoder=text.qwen25_vl(),
        tokenizer=text.qwen_processor(),
        text_encoder_2=CLIPTextModel(base.clip_config(77)),
        tokenizer_2=base.clip_tokenizer(77),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=7.0),
    )


@tiny(
    "HunyuanImagePipeline",
    settings=SMALL,
    guidance=None,
    swap="unipc",
    note=GUIDER,
    slow=True,
)
def hunyuan_image() -> Any:
    from diffusers.guiders import AdaptiveProjectedMixGuidance
    from transformers import ByT5Tokenizer, T5Config, T5EncoderModel

    transformer = diffusers.HunyuanImageTransformer2DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=4,
        attention_head_dim=8,
        num_layers=1,
        num_single_layers=1,
        num_refiner_layers=1,
        patch_size=(1, 1),
        guidance_embeds=False,
        text_embed_dim=text.WIDTH,
        text_embed_2_dim=32,
        rope_axes_dim=(4, 4),
    )
    vae = diffusers.AutoencoderKLHunyuanImage(
        in_channels=3,
        out_channels=3,
        latent_channels=4,
        block_out_channels=(32, 32),
        layers_per_block=1,
        spatial_compression_ratio=2,
        scaling_factor=0.47,
        sample_size=16,
    )
    encoder = T5EncoderModel(T5Config(vocab_size=384, d_model=32, d_kv=8, d_ff=16, num_layers=1, num_heads=2))
    return diffusers.HunyuanImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=7.0),
        vae=vae,
        text_encoder=text.qwen25_vl(4),
        tokenizer=text.qwen_tokenizer(),
        text_encoder_2=encoder.eval(),
        tokenizer_2=ByT5Tokenizer(),
        transformer=transformer,
        guider=AdaptiveProjectedMixGuidance(adaptive_projected_guidance_start_step=1),
        ocr_guider=AdaptiveProjectedMixGuidance(adaptive_projected_guidance_start_step=1),
    )


@tiny("Krea2Pipeline", settings=HALF, swap="unipc")
def krea2() -> Any:
    transformer = diffusers.Krea2Transformer2DModel(
        in_channels=16,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=32,
        timestep_embed_dim=8,
        text_hidden_dim=text.WIDTH,
        num_text_layers=3,
        text_num_attention_heads=2,
        text_num_key_value_heads=1,
        text_intermediate_size=16,
        num_layerwise_text_blocks=1,
        num_refiner_text_blocks=1,
        axes_dims_rope=(4, 2, 2),
        rope_theta=1000.0,
    )
    return diffusers.Krea2Pipeline(
        scheduler=dynamic(max_image_seq_len=6400),
        vae=qwen_vae(),
        text_encoder=text.qwen3_vl(),
        tokenizer=text.qwen_tokenizer(),
        transformer=transformer,
        text_encoder_select_layers=(0, 1, 2),
    )


@tiny(
    "HiDreamImagePipeline",
    settings={"height": 256, "width": 256, "max_sequence_length": 16},
    swap="unipc",
    slow=True,
    note="sizes of about its own area alone (1,024 px as published)",
)
def hidream() -> Any:
    from transformers import CLIPTextModelWithProjection, LlamaConfig, LlamaForCausalLM

    transformer = diffusers.HiDreamImageTransformer2DModel(
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=4,
        caption_channels=[32, text.WIDTH],
        text_emb_dim=32,
        num_routed_experts=4,
        num_activated_experts=2,
        axes_dims_rope=(4, 2, 2),
        max_resolution=(128, 128),
        llama_layers=(0, 1),
    )
    return diffusers.HiDreamImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=flow_vae(),
        text_encoder=CLIPTextModelWithProjection(base.clip_config()),
        tokenizer=base.clip_tokenizer(),
        text_encoder_2=CLIPTextModelWithProjection(base.clip_config()),
        tokenizer_2=base.clip_tokenizer(),
        text_encoder_3=base.t5(),
        tokenizer_3=base.t5_tokenizer(),
        text_encoder_4=LlamaForCausalLM(text.lm(LlamaConfig)).eval(),
        tokenizer_4=text.byte_tokenizer(),
        transformer=transformer,
    )


@tiny("OmniGenPipeline", settings=SMALL)
def omnigen() -> Any:
    transformer = diffusers.OmniGenTransformer2DModel(
        hidden_size=16,
        num_attention_heads=4,
        num_key_value_heads=4,
        intermediate_size=32,
        num_layers=1,
        in_channels=4,
        time_step_dim=4,
        vocab_size=text.VOCAB,
        pad_token_id=256,
        rope_scaling={"long_factor": [1, 2], "short_factor": [1, 2]},
    )
    scheduler = FlowMatchEulerDiscreteScheduler(invert_sigmas=True, num_train_timesteps=1)
    return diffusers.OmniGenPipeline(transformer, scheduler, flow_vae(blocks=4), text.byte_tokenizer())
