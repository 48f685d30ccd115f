"""A training's checkpoints that nobody trained: the digits models' weights with noise of a known size on them."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from evalkit.utils.files import resolve_path

DCGAN = "pkg://evalkit.digits/weights/dcgan.safetensors"
DDPM = "pkg://evalkit.digits/weights/ddpm"
NOISE = {100: 1.0, 200: 0.5, 1000: 0.0}  # by step, of a weight's standard deviation: later ones are better, surely


def noisy(weights: Mapping[str, torch.Tensor], std: float, seed: int = 0) -> dict[str, Any]:
    """The weights with noise on all matrices and kernels."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: w + std * w.std() * torch.randn(w.shape, generator=generator)
        if w.is_floating_point() and w.ndim > 1
        else w
        for name, w in weights.items()
    }


def dcgan(path: Path, std: float) -> Path:
    """A checkpoint of the digits DCGAN, as a training leaves it: one file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(noisy(load_file(resolve_path(DCGAN)), std), path)
    return settled(path)


def ddpm(path: Path, std: float) -> Path:
    """A checkpoint of the digits DDPM: a folder as of `save_pretrained`."""
    shutil.copytree(resolve_path(DDPM), path)
    for file in path.rglob("*.safetensors"):
        save_file(noisy(load_file(file), std), file)
    return settled(path)


def settled(path: Path, seconds: float = 60.0) -> Path:
    """As if it had been written a while ago: nobody waits for it."""
    then = time.time() - seconds
    for file in path.rglob("*") if path.is_dir() else [path]:
        os.utime(file, (then, then))
    return path


def cut(path: Path, share: float = 0.5) -> bytes:
    """Leaves the first part of a file, as where it is still being written; gives what it was."""
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    settled(path)
    return whole
