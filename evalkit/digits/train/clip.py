"""Train the image-text model: an open_clip model with a small ResNet and a small text transformer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from open_clip.model import CLIP
from torch import Tensor
from torch.nn import functional as F

from evalkit.digits.train import tokens
from evalkit.digits.train.common import (
    Budget,
    Digits,
    Options,
    augmented_batch,
    descend,
    replace_folder,
    save_state,
    smoothed,
)

BATCH = 128
PAIRS = 5
RATE = 2e-3
LENGTH = 24
IMAGE_SIZE = 64


def config() -> dict[str, Any]:
    """Content of ``open_clip_config.json``: architecture and preprocessing."""
    return {
        "model_cfg": {
            "embed_dim": 64,
            "vision_cfg": {"image_size": IMAGE_SIZE, "layers": [1, 1, 1, 1], "width": 16, "head_width": 64},
            "text_cfg": {
                "context_length": LENGTH,
                "vocab_size": len(tokens.vocabulary()),
                "hf_tokenizer_name": "digits",  # not looked up: with local-dir: the folder itself is read
                "width": 64,
                "heads": 4,
                "layers": 2,
            },
        },
        "preprocess_cfg": {
            "mean": [0.5, 0.5, 0.5],
            "std": [0.5, 0.5, 0.5],
            "interpolation": "bilinear",
            "resize_mode": "squash",
        },
    }


def save(model: CLIP, folder: Path) -> None:
    """Write a folder that ``open_clip.create_model_and_transforms("local-dir:...")`` loads."""

    def write(target: Path) -> None:
        tokens.save(target, LENGTH)
        (target / "open_clip_config.json").write_text(json.dumps(config(), indent=2) + "\n", encoding="utf-8")
        save_state(model, target / "open_clip_model.safetensors")

    replace_folder(folder, write)


def _loss(image: Tensor, text: Tensor, scale: Tensor, row: Tensor) -> Tensor:
    """Contrast images with the batch's distinct captions, both ways.

    A caption may belong to several images; its row then spreads its probability over all of them.

    Args:
        image: float [B,64], unit length.
        text: float [C,64], unit length.
        scale: float [], inverse temperature.
        row: int64 [B], which caption each image has.
    """
    logits = scale * image @ text.T  # [B,C]
    positive = F.one_hot(row, len(text)).float().T  # [C,B]
    positive = positive / positive.sum(dim=1, keepdim=True)
    return F.cross_entropy(logits, row) + F.cross_entropy(logits.T, positive)


def train(options: Options) -> None:
    """Write ``clip``: warped, blurred and noisy digits against the captions of the batch."""
    from safetensors.torch import load_file

    digits = Digits(options)
    folder = options.out / "clip"
    net = CLIP(**config()["model_cfg"])  # about 2M parameters
    if options.resume:
        net.load_state_dict(load_file(folder / "open_clip_model.safetensors"))
    net = net.to(options.device).train()
    ema = smoothed(net, 0.995)
    ids = tokens.caption_ids(LENGTH).to(options.device)  # [10,8,8,24]
    decay = [p for p in net.parameters() if p.ndim > 1]
    plain = [p for p in net.parameters() if p.ndim <= 1]
    groups = [{"params": decay, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=RATE, betas=(0.9, 0.98))
    budget = Budget(options, "clip", lambda: save(ema.module, folder))
    while not budget.spent:
        batch = augmented_batch(digits, BATCH, PAIRS)
        images = F.interpolate(batch.images, (IMAGE_SIZE, IMAGE_SIZE), mode="bilinear", align_corners=False)
        classes = torch.stack([batch.digit, batch.ink, batch.background])  # [3,B]
        captions, row = torch.unique(classes, dim=1, return_inverse=True)  # [3,C], [B]
        image = net.encode_image(images, normalize=True)
        text = net.encode_text(ids[tuple(captions)], normalize=True)
        loss = _loss(image, text, net.logit_scale.exp(), row)
        descend(loss, optimiser, budget, 1.0)
        with torch.no_grad():
            net.logit_scale.clamp_(max=4.6052)  # ln 100, as CLIP does
        ema.update_parameters(net)
        budget.tick(loss=loss)
