"""What an image shows: the digit by the classifier, the colours by a rule on pixels (no learned part)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from evalkit.digits.data import I64, PALETTE_RGB, U8

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from evalkit.digits.nets import DigitClassifier

BATCH = 256  # images per pass of the classifier

STROKE_PIXELS = 24
"""How many pixels farthest from the background vote on the ink; the thinnest reference digit has as many."""


@dataclass(frozen=True)
class Judgement:
    """What B images show.

    Attributes:
        digit: int64 [B], 0..9.
        confidence: float32 [B], the classifier's probability of that digit.
        ink: int64 [B], position in ``data.COLOURS``.
        background: int64 [B], likewise; equal to ``ink`` where no stroke stands out.
    """

    digit: I64
    confidence: NDArray[np.float32]
    ink: I64
    background: I64


def nearest_colour(rgb: NDArray[np.float32]) -> I64:
    """Palette position int64 [B] nearest to rgb float [B,3] in 0..255."""
    distance = np.linalg.norm(rgb[:, None] - PALETTE_RGB[None].astype(np.float32), axis=2)  # [B,8]
    return np.asarray(distance.argmin(axis=1), dtype=np.int64)


def colours(images: U8) -> tuple[I64, I64]:
    """Ink and background of images uint8 [B,3,32,32], as positions int64 [B] in ``data.COLOURS``.

    Background: nearest palette colour of the median of the border pixels. Ink: nearest palette colour of the
    median of the pixels farthest from that median.
    """
    pixels = images.astype(np.float32).transpose(0, 2, 3, 1)  # [B,32,32,3]
    border = np.ones(pixels.shape[1:3], dtype=bool)
    border[1:-1, 1:-1] = False
    ground = np.median(pixels[:, border], axis=1)  # [B,3]
    flat = pixels.reshape(len(pixels), -1, 3)  # [B,1024,3]
    distance = np.linalg.norm(flat - ground[:, None], axis=2)  # [B,1024]
    far = np.argpartition(distance, -STROKE_PIXELS, axis=1)[:, -STROKE_PIXELS:]  # [B,24]
    stroke = np.median(np.take_along_axis(flat, far[:, :, None], axis=1), axis=1)  # [B,3]
    return nearest_colour(stroke), nearest_colour(ground)


def judge(images: U8, classifier: DigitClassifier | None = None) -> Judgement:
    """Judge images.

    Args:
        images: uint8 [B,3,32,32].
        classifier: the shipped one if not given.
    """
    import torch

    from evalkit.digits.nets import load_classifier

    net = classifier or load_classifier()
    device = next(net.parameters()).device
    with torch.inference_mode():
        batches = torch.split(torch.from_numpy(np.ascontiguousarray(images)), BATCH)  # uint8 [b,3,32,32]
        parts = [
            net(part.to(device).float() / 127.5 - 1.0)["logits"].softmax(dim=1).cpu() for part in batches
        ]  # [b,10]
    confidence, digit = torch.cat(parts).max(dim=1)
    ink, background = colours(images)
    return Judgement(digit.numpy(), confidence.numpy(), ink, background)
