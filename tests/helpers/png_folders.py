"""Folders of small PNGs of noise."""

from __future__ import annotations

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
