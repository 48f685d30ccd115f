"""Train the unconditional pixel-space diffusion model."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from torch.nn import functional as F

from evalkit.digits.train.common import Budget, Digits, Ema, Options, coloured_batch, descend, replace_folder, set_rate

BATCH = 48
RATE = 1.5e-3
SNR_LIMIT = 5.0


def build() -> UNet2DModel:
    """A fresh UNet over [3,32,32] images (0.8M parameters)."""
    return UNet2DModel(
        sample_size=32,
        in_channels=3,
        out_channels=3,
        block_out_channels=(16, 48, 64),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        norm_num_groups=8,
        attention_head_dim=32,
    )


def build_scheduler() -> DDPMScheduler:
    """Linear betas, v prediction, trailing steps for the samplers made from this config.

    A flat colour is settled while the noise is hundreds of times stronger; a predicted epsilon would have to be
    right to a thousandth there, a predicted v does not, and small nets learn it many times sooner.
    """
    return DDPMScheduler(
        num_train_timesteps=1000,
        beta_start=1e-4,
        beta_end=0.02,
        beta_schedule="linear",
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        clip_sample=True,
    )


def save(unet: UNet2DModel, folder: Path) -> None:
    """Write the pipeline in half precision."""
    half = build()
    half.load_state_dict(unet.state_dict())
    replace_folder(folder, DDPMPipeline(unet=half.half(), scheduler=build_scheduler()).save_pretrained)


def train(options: Options) -> None:
    """Write ``ddpm``; the loss weight (min(SNR, 5) + 1) / (SNR + 1) keeps the almost clean steps from dominating."""
    torch.manual_seed(options.seed)
    digits, folder, device = Digits(options), options.out / "ddpm", options.device
    net = UNet2DModel.from_pretrained(folder / "unet", torch_dtype=torch.float32) if options.resume else build()
    net = net.to(device, memory_format=torch.channels_last).train()
    ema = Ema(net)
    optimiser = torch.optim.AdamW(net.parameters(), lr=RATE, betas=(0.9, 0.99), weight_decay=0.01)
    scheduler = build_scheduler()
    kept = scheduler.alphas_cumprod.to(device)  # [1000]
    snr = kept / (1.0 - kept)
    weights = (snr.clamp(max=SNR_LIMIT) + 1.0) / (snr + 1.0)
    budget = Budget(options, "ddpm")
    more = True
    while more:
        clean = coloured_batch(digits, BATCH)[0].contiguous(memory_format=torch.channels_last)
        noise = torch.randn_like(clean)
        times = torch.randint(1000, (BATCH,), device=device)
        target = scheduler.get_velocity(clean, noise, times)
        guess = net(scheduler.add_noise(clean, noise, times), times).sample
        errors = F.mse_loss(guess, target, reduction="none").mean(dim=(1, 2, 3))  # [B]
        loss = (weights[times] * errors).mean()
        set_rate(optimiser, RATE, budget)
        descend(loss, optimiser, 1.0)
        ema.update(net)
        more = budget.tick(loss=loss, plain=errors.mean())
        if budget.save_due() or not more:
            save(ema.module, folder)
