"""Palette, captions, MNIST reading, colouring and the reference set. numpy only."""

from __future__ import annotations

import gzip
import random
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from evalkit.digits import REFERENCE

U8 = NDArray[np.uint8]
I64 = NDArray[np.int64]

IMAGE_SIZE = 32
"""Side of every image in pixels."""

DIGIT_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

# The smallest distance between two of these is 146 (blue to purple) on the 0..255 scale, so that a
# nearest-colour rule has a margin of 73. Every name starts with a consonant: "a" is always right.
PALETTE: dict[str, tuple[int, int, int]] = {
    "red": (230, 30, 30),
    "green": (20, 160, 50),
    "blue": (30, 60, 230),
    "yellow": (250, 220, 30),
    "purple": (170, 30, 200),
    "cyan": (30, 215, 235),
    "white": (255, 255, 255),
    "black": (0, 0, 0),
}
COLOURS: tuple[str, ...] = tuple(PALETTE)
PALETTE_RGB: U8 = np.array(list(PALETTE.values()), dtype=np.uint8)  # [8,3]

COLOUR_PAIRS: tuple[tuple[int, int], ...] = tuple(permutations(range(len(COLOURS)), 2))
"""All 56 (ink, background) index pairs with ink != background."""

_ORDER_SEED = 20240611


@dataclass(frozen=True)
class Caption:
    """What an image shows or is asked to show.

    Attributes:
        digit: 0..9.
        ink: colour name of the stroke.
        background: colour name of the rest.
    """

    digit: int
    ink: str
    background: str

    @property
    def text(self) -> str:
        """The caption, such as ``a red seven on a blue background``."""
        return f"a {self.ink} {DIGIT_WORDS[self.digit]} on a {self.background} background"

    @property
    def ink_index(self) -> int:
        """Position of the ink in ``COLOURS``."""
        return COLOURS.index(self.ink)

    @property
    def background_index(self) -> int:
        """Position of the background in ``COLOURS``."""
        return COLOURS.index(self.background)


def _prompts() -> tuple[Caption, ...]:
    """560 captions, shuffled in blocks of ten that hold each digit once: any prefix is nearly balanced."""
    rng = random.Random(_ORDER_SEED)
    pairs = {digit: rng.sample(COLOUR_PAIRS, len(COLOUR_PAIRS)) for digit in range(10)}
    out: list[Caption] = []
    for block in range(len(COLOUR_PAIRS)):
        for digit in rng.sample(range(10), 10):
            ink, background = pairs[digit][block]
            out.append(Caption(digit, COLOURS[ink], COLOURS[background]))
    return tuple(out)


PROMPTS: tuple[Caption, ...] = _prompts()
"""All 560 captions in a fixed shuffled order; the first k are a fair sample."""


def indices(captions: Sequence[Caption]) -> I64:
    """Digits, inks and backgrounds of captions as numbers, int64 [3,N]."""
    return np.array([(c.digit, c.ink_index, c.background_index) for c in captions], dtype=np.int64).T


def _read_idx(path: Path) -> U8:
    """Read one gzipped idx file of unsigned bytes, any number of dimensions."""
    with gzip.open(path, "rb") as file:
        raw = file.read()
    zero, kind, ndim = struct.unpack(">HBB", raw[:4])
    if zero != 0 or kind != 8:
        raise ValueError(f"{path}: not an idx file of unsigned bytes")
    shape = struct.unpack(f">{ndim}I", raw[4 : 4 + 4 * ndim])
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * ndim).reshape(shape)


def load_mnist(folder: str | Path) -> tuple[U8, U8]:
    """Read the 10,000-digit split of MNIST.

    Only this split is read: the reference digits come from the other one, which must stay unseen.

    Args:
        folder: holds ``t10k-images-idx3-ubyte.gz`` and ``t10k-labels-idx1-ubyte.gz``.

    Returns:
        images uint8 [N,28,28] (0 paper, 255 stroke), labels uint8 [N].
    """
    folder = Path(folder)
    files = [folder / "t10k-images-idx3-ubyte.gz", folder / "t10k-labels-idx1-ubyte.gz"]
    for file in files:
        if not file.is_file():
            raise FileNotFoundError(f"{file} is missing; --mnist needs the folder of MNIST's t10k files")
    images, labels = _read_idx(files[0]), _read_idx(files[1])
    if images.ndim != 3 or images.shape[1:] != (28, 28) or labels.shape != images.shape[:1]:
        raise ValueError(f"{folder}: expected images [N,28,28] and labels [N]")
    return images, labels


def padded(grey: U8) -> U8:
    """Digits uint8 [B,28,28] with 2 pixels of paper on each side: uint8 [B,32,32], which stay as they are."""
    pad = (IMAGE_SIZE - grey.shape[-1]) // 2
    return np.pad(grey, ((0, 0), (pad, pad), (pad, pad)))


def colourise(grey: U8, ink: I64, background: I64) -> U8:
    """Colour grey digits: background * (1 - g) + ink * g.

    Args:
        grey: uint8 [B,28,28] or [B,32,32], see `padded`.
        ink: int64 [B], positions in ``COLOURS``.
        background: int64 [B], likewise.

    Returns:
        uint8 [B,3,32,32].
    """
    g = padded(grey)[:, None].astype(np.float32) / 255.0  # [B,1,32,32] in [0,1]
    front = PALETTE_RGB[ink].astype(np.float32)[:, :, None, None]  # [B,3,1,1]
    back = PALETTE_RGB[background].astype(np.float32)[:, :, None, None]
    return np.round(back * (1.0 - g) + front * g).astype(np.uint8)


def reference_digits(path: Path = REFERENCE) -> tuple[U8, U8]:
    """The held-out digits as shipped: images uint8 [5000,28,28], labels uint8 [5000]."""
    with np.load(path, allow_pickle=False) as archive:
        return archive["images"], archive["labels"]


def reference_images(path: Path = REFERENCE, style: str | None = None) -> tuple[U8, list[Caption]]:
    """The reference set, coloured by a fixed rule; with `style` (one of `STYLES`), the same digits in that ink.

    The i-th digit of its class gets pair ``i % 56`` of a fixed permutation of the 56 colour pairs, so that
    within each class no pair appears more than once oftener than another.

    Returns:
        images uint8 [5000,3,32,32] and their captions, in the order of the file.
    """
    grey, labels = reference_digits(path)
    if style is not None:
        grey = styled(grey, style)
    order = random.Random(_ORDER_SEED + 1).sample(COLOUR_PAIRS, len(COLOUR_PAIRS))
    seen = dict.fromkeys(range(10), 0)
    captions: list[Caption] = []
    for label in labels.tolist():
        ink, background = order[seen[label] % len(order)]
        seen[label] += 1
        captions.append(Caption(label, COLOURS[ink], COLOURS[background]))
    _, inks, backgrounds = indices(captions)
    return colourise(grey, inks, backgrounds), captions


STYLES = ("striped",)
"""Names of the styles, see `styled`."""


def styled(grey: U8, style: str) -> U8:
    """Digits in a style; `colourise` colours them as it does plain ones.

    Striped: bold ink, a pixel wider on each side, cut into stripes, 4 rows of it and 4 rows without. The rows are those
    of the text-to-image model's latents, 4 pixels each: finer patterns, and inks half as strong, its autoencoder cannot
    draw.

    Args:
        grey: uint8 [B,28,28] or [B,32,32], see `padded`; 0 paper, 255 stroke.
        style: one of STYLES.

    Returns:
        uint8 [B,32,32].
    """
    if style not in STYLES:
        raise ValueError(f"unknown style {style!r}, expected one of {', '.join(STYLES)}")
    from scipy.ndimage import maximum_filter

    cross = np.array([[[0, 1, 0], [1, 1, 1], [0, 1, 0]]], dtype=bool)
    inked = np.arange(IMAGE_SIZE) // 4 % 2 == 0  # [32]
    bold: U8 = maximum_filter(padded(grey), footprint=cross)
    return np.where(inked[:, None], bold, np.uint8(0))
