"""Tiny pipelines around UNets, and of several stages: Kandinsky, Cascade, latent diffusion, consistency models."""

from __future__ import annotations

from typing import Any

import diffusers
import tiny_pipelines as base
import zoo_text as text
from zoo import tiny
from zoo_dit import SMALL, flow_vae

BETAS = base.BETAS


@tiny("StableDiffusionPAGPipeline", swap="dpmpp_2m")
def sd_pag() -> Any:
    parts = {**base.sd().components, "scheduler": diffusers.DDIMScheduler(clip_sample=False, **BETAS)}
    return diffusers.StableDiffusionPAGPipeline(**parts, requires_safety_checker=False, pag_applied_layers=["mid"])


@tiny("StableDiffusionXLPAGPipeline", swap="dpmpp_2m")
def sdxl_pag() -> Any:
    return diffusers.StableDiffusionXLPAGPipeline(**base.sdxl().components, pag_applied_layers=["mid"])


@tiny("StableDiffusion3PAGPipeline", swap="unipc")
def sd3_pag() -> Any:
    parts = {
        name: part
        for name, part in base.sd3(2).components.items()
        if name not in ("image_encoder", "feature_extractor")
    }
    return diffusers.StableDiffusion3PAGPipeline(**parts)


@tiny(
    "PixArtSigmaPAGPipeline", settings={**SMALL, "use_resolution_binning": False, "clean_caption": False}, swap="ddim"
)
def pixart_pag() -> Any:
    return diffusers.PixArtSigmaPAGPipeline(**base.pixart(2).components)


@tiny("ConsistencyModelPipeline", guidance=None, note="its own scheduler alone; 1 step, or `extra.timesteps`")
def consistency() -> Any:
    unet = base.pixel_unet(num_class_embeds=10)
    return diffusers.ConsistencyModelPipeline(unet, diffusers.CMStochasticIterativeScheduler())


def vq(**kwargs: Any) -> Any:
    sizes: dict[str, Any] = {"block_out_channels": (8, 8), "norm_num_groups": 4, "latent_channels": 4, **kwargs}
    count = len(sizes["block_out_channels"])
    sizes |= {"down_block_types": ("DownEncoderBlock2D",) * count, "up_block_types": ("UpDecoderBlock2D",) * count}
    return diffusers.VQModel(num_vq_embeddings=32, **sizes)


@tiny("LDMPipeline", guidance=None, swap="dpmpp_2m", latents=False)
def ldm() -> Any:
    scheduler = diffusers.DDIMScheduler(clip_sample=False, **BETAS)
    return diffusers.LDMPipeline(vq(), base.pixel_unet(channels=4), scheduler)


@tiny("LDMTextToImagePipeline", settings=SMALL, swap="dpmpp_2m", latents=False)
def ldm_text() -> Any:
    from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import LDMBertConfig, LDMBertModel

    sizes = {"encoder_layers": 1, "encoder_ffn_dim": 16, "encoder_attention_heads": 2, "d_model": 16, "head_dim": 8}
    bert = LDMBertModel(LDMBertConfig(vocab_size=64, max_position_embeddings=77, **sizes))
    return diffusers.LDMTextToImagePipeline(
        vqvae=flow_vae(blocks=4),
        bert=bert.eval(),
        tokenizer=text.bert_tokenizer(),
        unet=base.condition_unet(),
        scheduler=diffusers.DDIMScheduler(clip_sample=False, set_alpha_to_one=False, **BETAS),
    )


@tiny(
    "KandinskyV22CombinedPipeline",
    settings={"height": 64, "width": 64, "extra": {"prior_num_inference_steps": 2}},
    swap="ddim",
    latents=False,
)
def kandinsky22() -> Any:
    parts = {f"prior_{name}": part for name, part in kandinsky_prior().items()}
    unet = kandinsky_unet(encoder_hid_dim=16, encoder_hid_dim_type="image_proj", addition_embed_type="image")
    return diffusers.KandinskyV22CombinedPipeline(unet, kandinsky_scheduler(), movq(), **parts)


@tiny(
    "KandinskyCombinedPipeline",
    settings={"height": 64, "width": 64, "extra": {"prior_num_inference_steps": 2}},
    swap="ddim",
    latents=False,
)
def kandinsky21() -> Any:
    from diffusers.pipelines.kandinsky.text_encoder import MCLIPConfig, MultilingualCLIP

    config = MCLIPConfig(
        numDims=16,
        transformerDimensions=16,
        hidden_size=16,
        intermediate_size=16,
        num_attention_heads=2,
        num_hidden_layers=1,
        vocab_size=64,
        max_position_embeddings=128,
    )
    unet = kandinsky_unet(
        encoder_hid_dim=16,
        encoder_hid_dim_type="text_image_proj",
        cross_attention_dim=16,
        addition_embed_type="text_image",
    )
    parts = {f"prior_{name}": part for name, part in kandinsky_prior().items()}
    return diffusers.KandinskyCombinedPipeline(
        MultilingualCLIP(config).eval(), text.bert_tokenizer(), unet, kandinsky_scheduler(), movq(), **parts
    )


def kandinsky_unet(**kwargs: Any) -> Any:
    sizes: dict[str, Any] = {"block_out_channels": (32, 32), "cross_attention_dim": 16, "layers_per_block": 1}
    sizes |= {"down_block_types": ("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D")}
    sizes |= {"up_block_types": ("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D")}
    sizes |= {"mid_block_type": "UNetMidBlock2DSimpleCrossAttn", "resnet_time_scale_shift": "scale_shift"}
    return diffusers.UNet2DConditionModel(
        in_channels=4, out_channels=8, attention_head_dim=4, norm_num_groups=4, sample_size=8, **{**sizes, **kwargs}
    )


def kandinsky_scheduler() -> Any:
    return diffusers.DDPMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="linear", clip_sample=False, variance_type="learned_range"
    )


def movq(blocks: int = 2) -> Any:
    return vq(norm_type="spatial", vq_embed_dim=4, block_out_channels=(32,) * blocks, norm_num_groups=32)


def kandinsky_prior() -> dict[str, Any]:
    from transformers import (
        CLIPImageProcessor,
        CLIPTextModelWithProjection,
        CLIPVisionConfig,
        CLIPVisionModelWithProjection,
    )

    vision = CLIPVisionConfig(
        hidden_size=16,
        image_size=16,
        projection_dim=16,
        intermediate_size=16,
        num_attention_heads=2,
        num_hidden_layers=1,
        patch_size=8,
    )
    prior = diffusers.PriorTransformer(
        num_attention_heads=2, attention_head_dim=8, embedding_dim=16, num_layers=1, num_embeddings=base.LENGTH
    )
    return {
        "prior": prior,
        "image_encoder": CLIPVisionModelWithProjection(vision).eval(),
        "text_encoder": CLIPTextModelWithProjection(base.clip_config()).eval(),
        "tokenizer": base.clip_tokenizer(),
        "scheduler": diffusers.UnCLIPScheduler(
            variance_type="fixed_small_log", prediction_type="sample", num_train_timesteps=1000, clip_sample_range=5.0
        ),
        "image_processor": CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}),
    }


@tiny("Kandinsky3Pipeline", settings={"height": 64, "width": 64}, swap="ddim")
def kandinsky3() -> Any:
    unet = diffusers.Kandinsky3UNet(
        in_channels=4,
        time_embedding_dim=4,
        groups=2,
        attention_head_dim=4,
        layers_per_block=3,
        block_out_channels=(32, 64),
        cross_attention_dim=32,
        encoder_hid_dim=32,
    )
    scheduler = diffusers.DDPMScheduler(beta_schedule="squaredcos_cap_v2", clip_sample=False)
    return diffusers.Kandinsky3Pipeline(base.t5_tokenizer(), base.t5(), unet, scheduler, movq(4))


def cascade_unet(**kwargs: Any) -> Any:
    from diffusers.models import StableCascadeUNet

    sizes: dict[str, Any] = {"conditioning_dim": 16, "num_attention_heads": (2, 2), "block_out_channels": (8, 8)}
    sizes |= {"down_num_layers_per_block": (1, 1), "up_num_layers_per_block": (1, 1), "kernel_size": 1}
    sizes |= {"down_blocks_repeat_mappers": (1, 1), "up_blocks_repeat_mappers": (1, 1), "dropout": (0.0, 0.0)}
    sizes |= {"clip_text_in_channels": 16, "clip_text_pooled_in_channels": 16}
    return StableCascadeUNet(**{**sizes, **kwargs})


@tiny(
    "StableCascadeCombinedPipeline",
    settings={"height": 128, "width": 128, "extra": {"prior_num_inference_steps": 2}},
    guidance="extra.prior_guidance_scale",
    latents=False,
)
def cascade() -> Any:
    from transformers import CLIPTextModelWithProjection

    encoder, tokenizer = CLIPTextModelWithProjection(base.clip_config()).eval(), base.clip_tokenizer()
    block = ("SDCascadeResBlock", "SDCascadeTimestepBlock", "SDCascadeAttnBlock")
    types = {"block_types_per_layer": (block, block), "timestep_conditioning_type": ("sca", "crp")}
    prior = cascade_unet(
        in_channels=16,
        out_channels=16,
        patch_size=1,
        clip_image_in_channels=16,
        switch_level=(False,),
        **types,
    )
    plain = ("SDCascadeResBlock", "SDCascadeTimestepBlock")
    decoder = cascade_unet(
        in_channels=4,
        out_channels=4,
        patch_size=2,
        effnet_in_channels=16,
        clip_text_in_channels=None,
        block_types_per_layer=(plain, block),
        timestep_conditioning_type=("sca",),
    )
    return diffusers.StableCascadeCombinedPipeline(
        tokenizer=tokenizer,
        text_encoder=encoder,
        decoder=decoder,
        scheduler=diffusers.DDPMWuerstchenScheduler(),
        vqgan=paella(),
        prior_prior=prior,
        prior_text_encoder=encoder,
        prior_tokenizer=tokenizer,
        prior_scheduler=diffusers.DDPMWuerstchenScheduler(),
    )


def paella() -> Any:
    from diffusers.pipelines.deprecated.wuerstchen import PaellaVQModel

    return PaellaVQModel(levels=2, bottleneck_blocks=1, embed_dim=8, num_vq_embeddings=32)


@tiny("IFPipeline", settings={"height": 16, "width": 16, "clean_caption": False}, swap="ddim", latents=False)
def deepfloyd() -> Any:
    unet = diffusers.UNet2DConditionModel(
        sample_size=16,
        layers_per_block=1,
        block_out_channels=(8, 16),
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        in_channels=3,
        out_channels=6,
        cross_attention_dim=32,
        encoder_hid_dim=32,
        attention_head_dim=8,
        norm_num_groups=4,
        addition_embed_type="text",
        addition_embed_type_num_heads=2,
        cross_attention_norm="group_norm",
        resnet_time_scale_shift="scale_shift",
        act_fn="gelu",
    )
    scheduler = diffusers.DDPMScheduler(
        beta_schedule="squaredcos_cap_v2", variance_type="learned_range", thresholding=True, sample_max_value=1.5
    )
    return diffusers.IFPipeline(
        tokenizer=base.t5_tokenizer(),
        text_encoder=base.t5(),
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        watermarker=None,
        requires_safety_checker=False,
    )
