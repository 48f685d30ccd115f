"""Train the pixel-space diffusion model: class-conditional on (digit, ink, background), sampled over random classes.

A class is a caption: 10 x 8 x 7 of them, too many to learn one by one. So the embedding of a class is the sum of three
small tables while training, and is written out as one table of 560 rows: to diffusers an ordinary class embedding.
Knowing its colours, a small net need not settle them at the noisiest steps, which is where it fails first.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from torch import Tensor, nn
from torch.nn import functional as F

from evalkit.digits.data import COLOUR_PAIRS
from evalkit.digits.train.common import (
    N_COLOURS,
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
FACTORS = (10, N_COLOURS, N_COLOURS)  # digit, ink, background
CLASSES = torch.tensor([(digit, *pair) for digit in range(10) for pair in COLOUR_PAIRS])  # int64 [560,3]
CLASS_OF = torch.zeros(FACTORS, dtype=torch.long)  # the class by digit, ink and background; no two colours are equal
CLASS_OF[tuple(CLASSES.T)] = torch.arange(len(CLASSES))
RATE = 1.5e-3
RESUME_RATE = 8e-4  # gentler: what was learnt is refined, not shaken
SNR_LIMIT = 5.0
TYPICAL = 0.5  # share of the digits that it learns from: see `keep_typical`
NEIGHBOURS = 10
SHAPING = (250, 750)  # the steps where a digit takes its shape: they get half of the batch to themselves


def build() -> UNet2DModel:
    """A fresh UNet over [3,32,32] images (0.5M parameters)."""
    return UNet2DModel(
        sample_size=32,
        in_channels=3,
        out_channels=3,
        block_out_channels=(16, 32, 64),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        norm_num_groups=8,
        attention_head_dim=32,
        num_class_embeds=len(CLASSES),
    )


class Factors(nn.Module):
    """Embeds a class as the sum of its digit's, its ink's and its background's embeddings."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.parts = nn.ModuleList([nn.Embedding(count, width) for count in FACTORS])

    def table(self) -> Tensor:
        """The embeddings of all classes, float [560,width]."""
        weights = [part.get_parameter("weight") for part in self.parts]
        return torch.stack([w[which.to(w.device)] for w, which in zip(weights, CLASSES.T, strict=True)]).sum(dim=0)

    def forward(self, labels: Tensor) -> Tensor:
        """Classes int64 [B] -> float [B,width]."""
        return self.table()[labels]

    @classmethod
    def fit(cls, table: Tensor) -> Factors:
        """The embeddings whose sums come nearest to a table of all classes, float [560,width]."""
        factors = cls(table.shape[1])
        design = torch.cat([F.one_hot(which, n) for which, n in zip(CLASSES.T, FACTORS, strict=True)], dim=1)
        solution = torch.linalg.lstsq(design.float(), table.float(), driver="gelsd").solution  # [26,width]; of rank 24
        for part, rows in zip(factors.parts, solution.split(FACTORS), strict=True):
            part.load_state_dict({"weight": rows})
        return factors


def keep_typical(digits: Digits) -> None:
    """Leaves the digits that lie densest among those of their class (mean pixel distance to the 10 nearest).

    A net of this size learns the whole spread of handwriting only so far: trained on all digits, 15 % of its samples
    are between two shapes. It gives up diversity for clear digits, as truncation does for a GAN.
    """
    typical = []
    for label in range(10):
        index = torch.nonzero(digits.labels == label)[:, 0]
        pixels = F.avg_pool2d(digits.grey[index], 2).flatten(1)  # [n,324]
        count = min(NEIGHBOURS + 1, len(index))  # itself comes first
        nearest = torch.cdist(pixels, pixels).topk(count, largest=False).values  # [n,11]
        order = nearest.mean(1).argsort()
        typical.append(index[order[: math.ceil(TYPICAL * len(index))]])
    rows = torch.cat(typical)
    digits.grey, digits.labels = digits.grey[rows], digits.labels[rows]


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
    half = half_copy(unet)
    table = unet.class_embedding.table().cpu().half()
    half.class_embedding = nn.Embedding(len(CLASSES), table.shape[1], _weight=table)
    replace_folder(folder, DDPMPipeline(unet=half, scheduler=build_scheduler()).save_pretrained)


def train(options: Options) -> None:
    """Write ``ddpm``; the loss weight (min(SNR, 5) + 1) / (SNR + 1) keeps the almost clean steps from dominating."""
    digits, folder, device = Digits(options), options.out / "ddpm", options.device
    keep_typical(digits)
    net = UNet2DModel.from_pretrained(folder / "unet", torch_dtype=torch.float32) if options.resume else build()
    table = net.class_embedding.weight
    net.class_embedding = Factors.fit(table.detach()) if options.resume else Factors(table.shape[1])
    net = net.to(device, memory_format=torch.channels_last).train()
    ema = smoothed(net, 0.998)
    rate = RESUME_RATE if options.resume else RATE
    optimiser = torch.optim.AdamW(net.parameters(), lr=rate, betas=(0.9, 0.99), weight_decay=0.01)
    scheduler = build_scheduler()
    signal = scheduler.alphas_cumprod.to(device)  # [1000]
    snr = signal / (1.0 - signal)
    weights = (snr.clamp(max=SNR_LIMIT) + 1.0) / (snr + 1.0)
    budget = Budget(options, "ddpm", lambda: save(ema.module, folder))
    while not budget.spent:
        batch = coloured_batch(digits, BATCH, shift=0)
        clean = batch.images.contiguous(memory_format=torch.channels_last)
        labels = CLASS_OF.to(device)[batch.digit, batch.ink, batch.background]
        noise = torch.randn_like(clean)
        times = torch.randint(1000, (BATCH,), device=device)
        times[BATCH // 2 :] = torch.randint(*SHAPING, (BATCH - BATCH // 2,), device=device)
        target = scheduler.get_velocity(clean, noise, times)
        guess = net(scheduler.add_noise(clean, noise, times), times, class_labels=labels).sample
        errors = F.mse_loss(guess, target, reduction="none").mean(dim=(1, 2, 3))  # [B]
        loss = (weights[times] * errors).mean()
        descend(loss, optimiser, budget, 1.0)
        ema.update_parameters(net)
        budget.tick(loss=loss, plain=errors.mean())
