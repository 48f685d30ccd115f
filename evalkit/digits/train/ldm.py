"""Train the text-to-image model: a StableDiffusionPipeline with an own VAE, text encoder, tokenizer and UNet."""

from __future__ import annotations

import random
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPTextConfig, CLIPTextModel

from evalkit.digits import data
from evalkit.digits.train import tokens, vae
from evalkit.digits.train.common import Budget, Digits, Ema, Options, coloured_batch, descend, replace_folder, set_rate

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


def caption_ids() -> tuple[Tensor, Tensor]:
    """Token ids of the 560 captions, int64 [560,16], and the caption's row by digit, ink and background, [10,8,8]."""
    tokenizer = tokens.build(LENGTH)
    texts = [p.text for p in data.PROMPTS]
    ids = tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids
    row = torch.zeros(10, len(data.COLOURS), len(data.COLOURS), dtype=torch.long)
    for number, prompt in enumerate(data.PROMPTS):
        row[prompt.digit, prompt.ink_index, prompt.background_index] = number
    return ids, row


def latent_pool(autoencoder: AutoencoderKL, digits: Digits, size: int) -> tuple[Tensor, Tensor]:
    """Scaled latents of random colourings, made once: float [size,4,8,8], and token ids int64 [size,16]."""
    ids, row = caption_ids()
    latents, rows = [], []
    for start in range(0, size, 256):
        images, label, ink, background = coloured_batch(digits, min(256, size - start))
        latents.append(vae.encode(autoencoder, images) * autoencoder.config.scaling_factor)
        rows.append(row[label.cpu(), ink.cpu(), background.cpu()])
    return torch.cat(latents), ids[torch.cat(rows)].to(digits.grey.device)


def save(unet: UNet2DConditionModel, text_encoder: CLIPTextModel, folder: Path) -> None:
    """Write the whole pipeline around the autoencoder that lies in ``folder`` already."""
    half_unet = build_unet()
    half_unet.load_state_dict(unet.state_dict())
    text = build_text_encoder()  # float32: transformers loads it as stored, and the UNet loads as float32
    text.load_state_dict(text_encoder.state_dict())
    pipeline = StableDiffusionPipeline(
        vae=AutoencoderKL.from_pretrained(folder / "vae"),
        text_encoder=text,
        tokenizer=tokens.build(LENGTH),
        unet=half_unet.half(),
        scheduler=build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )

    def write(target: Path) -> None:
        pipeline.vae.half()
        pipeline.save_pretrained(target)
        tokens.save(target / "tokenizer", LENGTH)

    replace_folder(folder, write)


def train(options: Options, part: str = "all") -> None:
    """Write ``ldm``: the autoencoder, then UNet and text encoder together.

    Args:
        options: what the command line chose; with a number of steps each part takes that many.
        part: ``all``, ``vae`` or ``unet`` (keeps the autoencoder that lies in the output folder).
    """
    if part in ("all", "vae"):
        vae.train(options.share(VAE_SHARE if part == "all" else 1.0))
    if part in ("all", "unet"):
        train_unet(options.share(1.0 - VAE_SHARE if part == "all" else 1.0))


def train_unet(options: Options) -> None:
    """Train UNet and text encoder on latents; 10 % of the captions are emptied for guidance."""
    torch.manual_seed(options.seed)
    random.seed(options.seed)
    folder, device = options.out / "ldm", options.device
    autoencoder = AutoencoderKL.from_pretrained(folder / "vae", torch_dtype=torch.float32).to(device).eval()
    pool, ids = latent_pool(autoencoder, Digits(options), 256 if options.steps else POOL)
    print(f"ldm: {len(pool)} latents, std {float(pool.std()):.3f}", flush=True)
    empty = tokens.build(LENGTH)("", padding="max_length", return_tensors="pt").input_ids.to(device)  # [1,16]
    text_encoder, unet = build_text_encoder(), build_unet()
    if options.resume:
        text_encoder = CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=torch.float32)
        unet = UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=torch.float32)
    text_encoder, unet = text_encoder.to(device).train(), unet.to(device).train()
    ema_text, ema_unet = Ema(text_encoder), Ema(unet)
    weights = [*text_encoder.parameters(), *unet.parameters()]
    optimiser = torch.optim.AdamW(weights, lr=RATE, betas=(0.9, 0.99), weight_decay=0.01)
    rate = RATE * (0.5 if options.resume else 1.0)
    scheduler = build_scheduler()
    budget = Budget(options, "ldm")
    more = True
    while more:
        index = torch.randint(len(pool), (BATCH,), device=device)
        words = torch.where(torch.rand(BATCH, 1, device=device) < DROPOUT, empty, ids[index])
        clean, noise = pool[index], torch.randn(BATCH, 4, 8, 8, device=device)
        times = torch.randint(1000, (BATCH,), device=device)
        noisy = scheduler.add_noise(clean, noise, times)
        states = text_encoder(words).last_hidden_state  # [B,16,64]
        guess = unet(noisy, times, states).sample
        loss = F.mse_loss(guess, scheduler.get_velocity(clean, noise, times))
        set_rate(optimiser, rate, budget)
        descend(loss, optimiser, 1.0)
        ema_text.update(text_encoder)
        ema_unet.update(unet)
        more = budget.tick(loss=loss)
        if budget.save_due() or not more:
            save(ema_unet.module, ema_text.module, folder)
