"""Train a ControlNet for the text-to-image model: it draws the digit whose outline it is given."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPTextModel

from evalkit.digits import weights_path
from evalkit.digits.train import vae
from evalkit.digits.train.common import (
    Budget,
    Digits,
    Ema,
    Options,
    colour,
    descend,
    random_colours,
    replace_folder,
    set_rate,
)
from evalkit.digits.train.ldm import LENGTH, build_scheduler, caption_ids
from evalkit.digits.train.tokens import build as build_tokenizer
from evalkit.numerics.canny import canny

BATCH = 64
RATE = 1e-3
POOL = 20_000
DROPOUT = 0.3  # of captions, so that the outline counts where no words say which digit it is
EMBEDDING = (8, 16, 32)  # channels on the way from the outline's 32 pixels to the latents' 8


def outlines(grey: Tensor) -> Tensor:
    """Edge maps of digits: grey float [B,1,32,32] in [0,1] -> bool [B,32,32]."""
    pixels = (grey[:, 0, :, :, None] * 255).round().byte().cpu().numpy()
    return torch.from_numpy(np.ascontiguousarray(canny(pixels)))


def pool(autoencoder: AutoencoderKL, digits: Digits, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of random colourings: latents, scaled, f32 [N,4,8,8], token ids i64 [N,16], outlines bool [N,32,32]."""
    ids, row = caption_ids()
    latents, rows, edges = [], [], []
    for start in range(0, size, 256):
        grey, label = digits.batch(min(256, size - start))
        ink, background = random_colours(len(grey), grey.device)
        latents.append(vae.encode(autoencoder, colour(grey, ink, background)) * autoencoder.config.scaling_factor)
        rows.append(row[label.cpu(), ink.cpu(), background.cpu()])
        edges.append(outlines(grey))
    device = digits.grey.device
    return torch.cat(latents), ids[torch.cat(rows)].to(device), torch.cat(edges).to(device)


def save(net: ControlNetModel, folder: Path) -> None:
    """Write the weights in half precision, as `ControlNetModel.from_pretrained` reads them."""
    half = ControlNetModel.from_config(net.config)
    half.load_state_dict(net.state_dict())
    replace_folder(folder, half.half().save_pretrained)


def train(options: Options) -> None:
    """Write ``controlnet``, made for the ``ldm`` that lies in the output folder, else for the one that ships."""
    torch.manual_seed(options.seed)
    device = options.device
    made = options.out / "ldm"
    ldm = made if made.is_dir() else weights_path("ldm")
    autoencoder = AutoencoderKL.from_pretrained(ldm / "vae", torch_dtype=torch.float32).to(device).eval()
    text_encoder = CLIPTextModel.from_pretrained(ldm / "text_encoder", dtype=torch.float32).to(device).eval()
    unet = UNet2DConditionModel.from_pretrained(ldm / "unet", torch_dtype=torch.float32).to(device).eval()
    latents, ids, edges = pool(autoencoder, Digits(options), 256 if options.steps else POOL)
    empty = build_tokenizer(LENGTH)("", padding="max_length", return_tensors="pt").input_ids.to(device)  # [1,16]
    for frozen in (text_encoder, unet):
        frozen.requires_grad_(False)
    net = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=EMBEDDING)
    if options.resume:
        net = ControlNetModel.from_pretrained(options.out / "controlnet", torch_dtype=torch.float32)
    net = net.to(device).requires_grad_(True).train()
    ema = Ema(net)
    optimiser = torch.optim.AdamW(net.parameters(), lr=RATE, betas=(0.9, 0.99), weight_decay=0.01)
    scheduler, budget = build_scheduler(), Budget(options, "controlnet")
    more = True
    while more:
        index = torch.randint(len(latents), (BATCH,), device=device)
        words = torch.where(torch.rand(BATCH, 1, device=device) < DROPOUT, empty, ids[index])
        clean, noise = latents[index], torch.randn(BATCH, 4, 8, 8, device=device)
        outline = edges[index][:, None].float().expand(-1, 3, -1, -1)  # [B,3,32,32] in [0,1]
        times = torch.randint(1000, (BATCH,), device=device)
        noisy = scheduler.add_noise(clean, noise, times)
        states = text_encoder(words).last_hidden_state  # [B,16,64]
        down, middle = net(noisy, times, states, outline, return_dict=False)
        guess = unet(
            noisy, times, states, down_block_additional_residuals=down, mid_block_additional_residual=middle
        ).sample
        loss = F.mse_loss(guess, scheduler.get_velocity(clean, noise, times))
        set_rate(optimiser, RATE * (0.5 if options.resume else 1.0), budget)
        descend(loss, optimiser, 1.0)
        ema.update(net)
        more = budget.tick(loss=loss)
        if budget.save_due() or not more:
            save(ema.module, options.out / "controlnet")
