"""Folders of small PNGs of noise."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from evalkit.data.codec import encode_png


def image(seed: int, height: int = 6, width: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def fill(folder: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_png(image(number)))
    return folder


def write_pngs(folder: Path, images: Iterable[np.ndarray], start: int = 0) -> Path:
    """Images u8 [H,W,3] as 0000.png and so on, from `start`."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, pixels in enumerate(images, start):
        (folder / f"{number:04d}.png").write_bytes(encode_png(pixels))
    return folder
