"""Train the text-to-image model: a StableDiffusionPipeline with an own VAE, text encoder, tokenizer and UNet."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel
from transformers import CLIPTextConfig, CLIPTextModel

from evalkit.digits.train import tokens, vae
from evalkit.digits.train.common import (
    Budget,
    Digits,
    Options,
    coloured_batch,
    descend,
    half_copy,
    replace_folder,
    smoothed,
)

BATCH = 64
RATE = 1e-3
POOL = 40_000
LENGTH = 16
DROPOUT = 0.1
VAE_SHARE = 0.3


def build_scheduler() -> DDIMScheduler:
    """Linear betas end almost at pure noise, and trailing steps start there: flat colours do not leak."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=1e-4,
        beta_end=0.02,
        beta_schedule="linear",
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=1,
    )


def build_text_encoder() -> CLIPTextModel:
    """A fresh text encoder: 64 wide, 2 layers, 16 tokens (0.14M parameters)."""
    vocabulary = tokens.vocabulary()
    config = CLIPTextConfig(
        vocab_size=len(vocabulary),
        hidden_size=64,
        intermediate_size=256,
        projection_dim=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=LENGTH,
        bos_token_id=vocabulary[tokens.START],
        eos_token_id=vocabulary[tokens.END],
        pad_token_id=vocabulary[tokens.END],
    )
    model = CLIPTextModel(config)
    # CLIP's initial 0.02 suits a text tower of its own; here the UNet should see the words from the first step.
    torch.nn.init.normal_(model.get_input_embeddings().weight, std=0.3)
    return model


def build_unet() -> UNet2DConditionModel:
    """A fresh UNet over [4,8,8] latents (2.2M parameters)."""
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(48, 96),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=64,
        norm_num_groups=16,
        attention_head_dim=(3, 6),
    )


def load(kind: Any, folder: Path, device: torch.device) -> Any:
    """A trained part of a pipeline: float32, in eval mode, without gradients."""
    return kind.from_pretrained(folder).float().to(device).eval().requires_grad_(False)


class Pool(NamedTuple):
    """Randomly coloured digits as the model sees them, made once."""

    latents: Tensor  # float [N,4,8,8], scaled
    ids: Tensor  # int64 [N,16], of the captions
    grey: Tensor  # uint8 [N,32,32], the digits, on the CPU


def make_pool(options: Options, ldm: Path, size: int, style: str | None = None) -> Pool:
    """Colourings of the training digits, in a style if one is given, by the autoencoder of an ``ldm``."""
    size = 256 if options.steps else size  # a number of steps is for short runs
    digits, autoencoder = Digits(options, style), load(AutoencoderKL, ldm / "vae", options.device)
    captions = tokens.caption_ids(LENGTH).to(options.device)  # [10,8,8,16]
    latents, ids, grey = [], [], []
    for start in range(0, size, 256):
        # a style's stripes lie as the latents' rows do: they are not shifted
        batch = coloured_batch(digits, min(256, size - start), shift=0 if style else 2)
        latents.append(vae.encode(autoencoder, batch.images) * autoencoder.config.scaling_factor)
        ids.append(captions[batch.digit, batch.ink, batch.background])
        grey.append((batch.grey[:, 0] * 255).round().byte().cpu())
    pool = Pool(torch.cat(latents), torch.cat(ids), torch.cat(grey))
    print(f"{len(pool.latents)} latents, std {float(pool.latents.std()):.3f}", flush=True)
    return pool


def fit(
    budget: Budget,
    optimiser: torch.optim.Optimizer,
    pool: Pool,
    text_encoder: CLIPTextModel,
    guess: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor],
    emas: Sequence[tuple[AveragedModel, nn.Module]] = (),
    dropout: float = DROPOUT,
) -> None:
    """Learn to predict v in the pool's latents.

    Args:
        budget: how long.
        optimiser: of the weights that learn.
        pool: what is drawn from.
        text_encoder: gives the states of the captions.
        guess: v float [B,4,8,8] of noisy latents [B,4,8,8], their times int64 [B], the captions' states [B,16,64] and
            the positions int64 [B] in the pool.
        emas: follow the modules next to them, step by step.
        dropout: share of the captions that are emptied, for guidance.
    """
    device, scheduler = pool.latents.device, build_scheduler()
    empty = tokens.ids([""], LENGTH).to(device)  # [1,16]
    while not budget.spent:
        index = torch.randint(len(pool.latents), (BATCH,), device=device)
        words = torch.where(torch.rand(BATCH, 1, device=device) < dropout, empty, pool.ids[index])
        clean, noise = pool.latents[index], torch.randn(BATCH, 4, 8, 8, device=device)
        times = torch.randint(1000, (BATCH,), device=device)
        noisy = scheduler.add_noise(clean, noise, times)
        predicted = guess(noisy, times, text_encoder(words).last_hidden_state, index)
        loss = F.mse_loss(predicted, scheduler.get_velocity(clean, noise, times))
        descend(loss, optimiser, budget, 1.0)
        for ema, net in emas:
            ema.update_parameters(net)
        budget.tick(loss=loss)


def adam(weights: Iterable[nn.Parameter], rate: float, options: Options, decay: float = 0.01) -> torch.optim.AdamW:
    """The optimiser of models in the latents; half the rate where trained weights are refined."""
    return torch.optim.AdamW(weights, lr=rate * (0.5 if options.resume else 1.0), betas=(0.9, 0.99), weight_decay=decay)


def save(unet: UNet2DConditionModel, text_encoder: CLIPTextModel, folder: Path) -> None:
    """Write the whole pipeline around the autoencoder that lies in ``folder`` already."""
    pipeline = StableDiffusionPipeline(
        vae=AutoencoderKL.from_pretrained(folder / "vae").half(),
        text_encoder=text_encoder,  # float32: transformers loads it as stored, and the UNet loads as float32
        tokenizer=tokens.build(LENGTH),
        unet=half_copy(unet),
        scheduler=build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )

    def write(target: Path) -> None:
        pipeline.save_pretrained(target)
        tokens.save(target / "tokenizer", LENGTH)

    replace_folder(folder, write)


def train(options: Options) -> None:
    """Write ``ldm``: the autoencoder, then UNet and text encoder together; each takes all ``steps``."""
    if options.part != "unet":
        vae.train(replace(options, minutes=options.minutes * (VAE_SHARE if options.part == "all" else 1.0)))
    if options.part != "vae":
        train_unet(replace(options, minutes=options.minutes * (1.0 - VAE_SHARE if options.part == "all" else 1.0)))


def train_unet(options: Options) -> None:
    """Train UNet and text encoder on latents."""
    folder, device = options.out / "ldm", options.device
    pool = make_pool(options, folder, POOL)
    text_encoder, unet = build_text_encoder().to(device), build_unet().to(device)
    if options.resume:
        text_encoder = load(CLIPTextModel, folder / "text_encoder", device).requires_grad_(True)
        unet = load(UNet2DConditionModel, folder / "unet", device).requires_grad_(True)
    text, image = smoothed(text_encoder.train()), smoothed(unet.train())
    optimiser = adam([*text_encoder.parameters(), *unet.parameters()], RATE, options)
    budget = Budget(options, "ldm", lambda: save(image.module, text.module, folder))
    emas = [(text, text_encoder), (image, unet)]
    fit(budget, optimiser, pool, text_encoder, lambda x, t, states, _: unet(x, t, states).sample, emas)
