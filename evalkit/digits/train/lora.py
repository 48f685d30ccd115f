"""Train a LoRA that teaches the text-to-image model an ink style, in the UNet's attention and convolutions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPTextModel

from evalkit.digits import data, weights_path
from evalkit.digits.data import styled
from evalkit.digits.train import tokens, vae
from evalkit.digits.train.common import Budget, Options, colour, descend, random_colours, replace_folder, set_rate
from evalkit.digits.train.ldm import DROPOUT, LENGTH, build_scheduler

BATCH = 64
RATE = 2e-3
POOL = 20_000
RANK = 8
# Names of the UNet's layers, by their ends: all of attention and feed-forward, and the blocks' convolutions.
LAYERS = ("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out", "conv1", "conv2")


def style_pool(autoencoder: AutoencoderKL, options: Options, style: str, size: int) -> tuple[Tensor, Tensor]:
    """Scaled latents of styled digits in random colours: float [size,4,8,8], and token ids int64 [size,16].

    The digits are MNIST's t10k half, as for the model itself; the style's reference is made of the others.
    """
    grey, labels = data.load_mnist(options.mnist)
    ink_of_stroke = styled(grey, style)  # [N,32,32]
    tokenizer = tokens.build(LENGTH)
    rng = np.random.default_rng(options.seed)
    latents, texts = [], []
    for start in range(0, size, 256):
        index = rng.integers(len(labels), size=min(256, size - start))
        strokes = torch.from_numpy(ink_of_stroke[index]).to(options.device).float().div_(255.0)[:, None]
        ink, background = random_colours(len(index), options.device)
        latents.append(vae.encode(autoencoder, colour(strokes, ink, background)) * autoencoder.config.scaling_factor)
        named = zip(labels[index].tolist(), ink.tolist(), background.tolist(), strict=True)
        texts += [data.Caption(digit, data.COLOURS[i], data.COLOURS[b]).text for digit, i, b in named]
    ids = tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids
    return torch.cat(latents), ids.to(options.device)


def add_adapter(unet: UNet2DConditionModel) -> list[torch.nn.Parameter]:
    """Freezes the UNet, adds a fresh adapter to it (peft), and returns the adapter's weights."""
    from peft import LoraConfig

    unet.requires_grad_(False)
    unet.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=list(LAYERS)))
    return [p for p in unet.parameters() if p.requires_grad]


def resume(unet: UNet2DConditionModel, folder: Path) -> None:
    """Gives a fresh adapter the weights that lie in ``folder``."""
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    state = load_file(folder / "pytorch_lora_weights.safetensors")
    set_peft_model_state_dict(unet, {key.removeprefix("unet."): value.float() for key, value in state.items()})


def save(unet: UNet2DConditionModel, folder: Path) -> None:
    """Writes the adapter in diffusers' LoRA format, half precision."""
    from peft.utils import get_peft_model_state_dict

    state = {key: value.detach().half().cpu() for key, value in get_peft_model_state_dict(unet).items()}

    def write(target: Path) -> None:
        StableDiffusionPipeline.save_lora_weights(target, unet_lora_layers=state)

    replace_folder(folder, write)


def train(options: Options, style: str = "striped") -> None:
    """Write ``lora_STYLE``: an adapter to the shipped text-to-image model, whose own weights stay as they are."""
    torch.manual_seed(options.seed)
    base, device = weights_path("ldm"), options.device
    autoencoder = AutoencoderKL.from_pretrained(base / "vae", torch_dtype=torch.float32).to(device).eval()
    pool, ids = style_pool(autoencoder, options, style, 256 if options.steps else POOL)
    text_encoder = CLIPTextModel.from_pretrained(base / "text_encoder", dtype=torch.float32).to(device).eval()
    unet = UNet2DConditionModel.from_pretrained(base / "unet", torch_dtype=torch.float32).to(device).train()
    weights = add_adapter(unet)
    folder = options.out / f"lora_{style}"
    if options.resume:
        resume(unet, folder)
    print(f"lora: {len(pool)} latents of {style}, {sum(w.numel() for w in weights):,} weights", flush=True)
    empty = tokens.build(LENGTH)("", padding="max_length", return_tensors="pt").input_ids.to(device)  # [1,16]
    optimiser = torch.optim.AdamW(weights, lr=RATE, betas=(0.9, 0.99), weight_decay=0.0)
    scheduler = build_scheduler()
    budget = Budget(options, "lora")
    more = True
    while more:
        index = torch.randint(len(pool), (BATCH,), device=device)
        words = torch.where(torch.rand(BATCH, 1, device=device) < DROPOUT, empty, ids[index])
        clean, noise = pool[index], torch.randn(BATCH, 4, 8, 8, device=device)
        times = torch.randint(1000, (BATCH,), device=device)
        with torch.no_grad():
            states = text_encoder(words).last_hidden_state  # [B,16,64]
        guess = unet(scheduler.add_noise(clean, noise, times), times, states).sample
        loss = F.mse_loss(guess, scheduler.get_velocity(clean, noise, times))
        set_rate(optimiser, RATE * (0.5 if options.resume else 1.0), budget)
        descend(loss, optimiser, 1.0)
        more = budget.tick(loss=loss)
        if budget.save_due() or not more:
            save(unet, folder)
