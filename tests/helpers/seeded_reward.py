"""A tiny ImageReward checkpoint with seeded random weights, under the published file's names, and a tiny vocabulary."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import torch

WIDTH, DEPTH, PATCH, SIDE, INNER = 128, 2, 16, 2, 192
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "blue", "seven", "cat", "on", "the", "mat", "##s"]
POSITIONS = 40
MLP = (WIDTH, 32, 16, 8, 4, 1)


def state() -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    found: dict[str, torch.Tensor] = {}

    def add(name: str, *shape: int, scale: float = 0.15) -> None:
        found[name] = torch.randn(*shape, generator=g) * scale

    def linear(name: str, out: int, into: int) -> None:
        add(f"{name}.weight", out, into)
        add(f"{name}.bias", out)

    def norm(name: str, width: int = WIDTH) -> None:
        add(f"{name}.weight", width)
        found[f"{name}.weight"] += 1
        add(f"{name}.bias", width)

    eye = "blip.visual_encoder"
    add(f"{eye}.cls_token", 1, 1, WIDTH)
    add(f"{eye}.pos_embed", 1, SIDE * SIDE + 1, WIDTH)
    add(f"{eye}.patch_embed.proj.weight", WIDTH, 3, PATCH, PATCH, scale=0.05)
    add(f"{eye}.patch_embed.proj.bias", WIDTH)
    for i in range(DEPTH):
        block = f"{eye}.blocks.{i}"
        norm(f"{block}.norm1")
        linear(f"{block}.attn.qkv", 3 * WIDTH, WIDTH)
        linear(f"{block}.attn.proj", WIDTH, WIDTH)
        norm(f"{block}.norm2")
        linear(f"{block}.mlp.fc1", 4 * WIDTH, WIDTH)
        linear(f"{block}.mlp.fc2", WIDTH, 4 * WIDTH)
    norm(f"{eye}.norm")
    text = "blip.text_encoder"
    add(f"{text}.embeddings.word_embeddings.weight", len(WORDS), WIDTH)
    add(f"{text}.embeddings.position_embeddings.weight", POSITIONS, WIDTH)
    found[f"{text}.embeddings.position_ids"] = torch.arange(POSITIONS)[None]
    norm(f"{text}.embeddings.LayerNorm")
    for i in range(DEPTH):
        layer = f"{text}.encoder.layer.{i}"
        for kind in ("attention", "crossattention"):
            for part in ("query", "key", "value"):
                linear(f"{layer}.{kind}.self.{part}", WIDTH, WIDTH)
            linear(f"{layer}.{kind}.output.dense", WIDTH, WIDTH)
            norm(f"{layer}.{kind}.output.LayerNorm")
        linear(f"{layer}.intermediate.dense", INNER, WIDTH)
        linear(f"{layer}.output.dense", WIDTH, INNER)
        norm(f"{layer}.output.LayerNorm")
    linear("blip.vision_proj", 256, WIDTH)  # of BLIP's pretraining; plays no part in the reward
    for place, (into, out) in zip((0, 2, 4, 6, 7), pairwise(MLP), strict=True):
        linear(f"mlp.layers.{place}", out, into)
    return found


def write_reward(folder: Path) -> tuple[Path, Path]:
    """Writes ImageReward.pt and vocab.txt; gives their paths."""
    torch.save(state(), folder / "ImageReward.pt")
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    return folder / "ImageReward.pt", folder / "vocab.txt"
