"""Train the autoencoder of the latent diffusion model: [3,32,32] <-> [4,8,8]."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor

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

BATCH = 32
RATE = 2e-3
KL_WEIGHT = 3e-4
STROKE_WEIGHT = 4.0


def build() -> AutoencoderKL:
    """A fresh autoencoder (0.7M parameters)."""
    return AutoencoderKL(
        sample_size=32,
        latent_channels=4,
        block_out_channels=(16, 32, 64),
        layers_per_block=1,
        norm_num_groups=8,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        mid_block_add_attention=False,
        scaling_factor=1.0,
    )


@torch.no_grad()
def encode(vae: AutoencoderKL, images: Tensor) -> Tensor:
    """Latent means, unscaled: float [B,3,32,32] in [-1,1] -> float [B,4,8,8]."""
    mean: Tensor = vae.encode(images).latent_dist.mode()
    return mean


def save(vae: AutoencoderKL, digits: Digits, folder: Path) -> None:
    """Measure the scaling factor, store it in the config and write the model in half precision."""
    latents = encode(vae, coloured_batch(digits, 512).images)
    vae.register_to_config(scaling_factor=round(1.0 / float(latents.std()), 4))
    replace_folder(folder, half_copy(vae).save_pretrained)


def train(options: Options) -> None:
    """Write ``ldm/vae``."""
    digits = Digits(options)
    folder = options.out / "ldm" / "vae"
    net = AutoencoderKL.from_pretrained(folder, torch_dtype=torch.float32) if options.resume else build()
    net = net.to(options.device, memory_format=torch.channels_last).train()
    ema = smoothed(net, 0.995)
    optimiser = torch.optim.AdamW(net.parameters(), lr=RATE, betas=(0.9, 0.99), weight_decay=0.01)
    budget = Budget(options, "vae", lambda: save(ema.module, digits, folder))
    while not budget.spent:
        batch = coloured_batch(digits, BATCH)
        images = batch.images.contiguous(memory_format=torch.channels_last)
        posterior = net.encode(images).latent_dist
        output = net.decode(posterior.sample()).sample
        # Strokes are a tenth of the pixels; without the weight their colour is learned last.
        weight = (1.0 + STROKE_WEIGHT * batch.grey) / (1.0 + STROKE_WEIGHT * batch.grey.mean())
        error = (weight * (output - images).square()).mean()
        kl = 0.5 * (posterior.mean.square() + posterior.var - 1.0 - posterior.logvar).mean()
        loss = error + 0.2 * (weight * (output - images).abs()).mean() + KL_WEIGHT * kl
        descend(loss, optimiser, budget, 1.0)
        ema.update_parameters(net)
        budget.tick(mse=error, kl=kl)
