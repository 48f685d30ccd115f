"""Noise as samples and reference, in memory and as folders of PNGs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def noise(count: int, seed: int = 0) -> np.ndarray:
    """u8 [count,32,32,3]."""
    return np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)


def write_sides(root: Path, count: int, *, prompts: bool = False) -> tuple[Path, Path]:
    """Folders of samples (seed 0) and of a reference (seed 1); `prompts`: a text next to each image."""
    for name, seed in (("samples", 0), ("reference", 1)):
        (root / name).mkdir()
        for i, image in enumerate(noise(count, seed)):
            Image.fromarray(image).save(root / name / f"{i:04d}.png")
            if prompts:
                (root / name / f"{i:04d}.txt").write_text(f"digit {i % 7}")
    return root / "samples", root / "reference"
