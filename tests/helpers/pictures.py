"""Pictures that look like photographs to the lint: noise as of natural scenes (1/f), edges and colours."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

Pixels = np.ndarray


def picture(seed: int, side: int = 48) -> Pixels:
    """u8 [side,side,3]"""
    rng = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None]) + 1 / side
    spectrum = np.fft.rfft2(rng.normal(size=(2, side, side))) / frequency
    noise = np.fft.irfft2(spectrum, s=(side, side))
    noise /= noise.std(axis=(1, 2), keepdims=True)
    tint = rng.normal(size=(2, 3)) * 22
    image = np.tensordot(noise, tint, axes=(0, 0)) + rng.uniform(60, 195, 3)  # HW3
    y, x = np.mgrid[:side, :side] / side
    for _ in range(6):
        cy, cx, ry, rx = (*rng.uniform(0, 1, 2), *rng.uniform(0.08, 0.4, 2))
        inside = ((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 < 1
        image[inside] = 0.45 * image[inside] + 0.55 * rng.uniform(0, 255, 3)
    return np.clip(image.round(), 0, 255).astype(np.uint8)


def pictures(count: int, side: int = 48, seed: int = 0) -> list[Pixels]:
    return [picture(seed * 10_000 + i, side) for i in range(count)]


def save(path: Path, pixels: Pixels, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)  # type: ignore[arg-type]
    return path


def folder(path: Path, images: list[Pixels], suffix: str = ".png", **options: object) -> Path:
    """Writes images as 000.png, 001.png ..."""
    for i, pixels in enumerate(images):
        save(path / f"{i:03d}{suffix}", pixels, **options)
    return path


def jpeg(pixels: Pixels, quality: int = 90, subsampling: int = 2) -> Pixels:
    """The pixels after a JPEG has held them."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality, subsampling=subsampling)
    return np.asarray(Image.open(buffer).convert("RGB"))


def resized(pixels: Pixels, side: int, kernel: Image.Resampling = Image.Resampling.BICUBIC) -> Pixels:
    return np.asarray(Image.fromarray(pixels).resize((side, side), kernel))
