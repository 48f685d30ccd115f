"""Ink styles that the models of captioned digits were not trained on, for the shipped LoRA. numpy and scipy."""

from __future__ import annotations

import numpy as np

from evalkit.digits.data import IMAGE_SIZE, U8

STYLES = ("striped",)
"""Names of the styles; each is a function below of the stroke's coverage."""


def styled(grey: U8, style: str) -> U8:
    """Digits in a style; `data.colourise` colours them as it does plain ones.

    Args:
        grey: uint8 [B,28,28] (padded here by 2 pixels a side) or [B,32,32]; 0 paper, 255 stroke.
        style: one of STYLES.

    Returns:
        uint8 [B,32,32].
    """
    if style not in STYLES:
        raise ValueError(f"unknown style {style!r}, expected one of {', '.join(STYLES)}")
    pad = (IMAGE_SIZE - grey.shape[-1]) // 2
    return striped(np.pad(grey, ((0, 0), (pad, pad), (pad, pad))))


def striped(grey: U8) -> U8:
    """Bold ink cut into stripes, 4 rows of it and 4 rows without: uint8 [B,32,32] -> the same.

    The stroke is a pixel wider on each side. The rows are those of the text-to-image model's latents, 4 pixels each:
    finer patterns, and inks half as strong, its autoencoder cannot draw.
    """
    from scipy.ndimage import maximum_filter

    cross = np.array([[[0, 1, 0], [1, 1, 1], [0, 1, 0]]], dtype=bool)
    inked = np.arange(IMAGE_SIZE) // 4 % 2 == 0  # [32]
    bold: U8 = maximum_filter(grey, footprint=cross)
    return np.where(inked[:, None], bold, np.uint8(0))
