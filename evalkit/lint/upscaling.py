"""Detects images that were enlarged from smaller ones, whatever they show.

An image of H rows that was enlarged from h rows lies in the h-dimensional space that the resampling kernel spans; what
is outside of that space is rounding noise, about 0.3 levels. So for a list of factors f and kernels the part of an
image that a kernel cannot have made from H/f rows is measured, its residual r(f). In a photograph r grows smoothly with
f. At the factor of an enlargement it falls to the rounding noise, while just below and just above it is larger:

    kink(f) = r(f-) * r(f+) / r(f)^2        f-, f+: the neighbouring factors of the list

A single image counts as enlarged where its residual is at the rounding noise and the kink is 6 or more; a set (that was
saved as JPEG, say, whose own noise hides the floor) where the median kink is 4 or more (nearest neighbours: 12).
docs/lint.md says what was seen. Kernels: nearest neighbour, bilinear, bicubic (Pillow's and torch's), Lanczos, all with
half-pixel centres.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

U8 = NDArray[np.uint8]
F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

FACTORS = (1.25, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0)
SMALL = (32, 64, 128, 224, 256, 512)  # sides that data sets and models have: their factors are tried as well
SMALLEST = 24  # below this side there is too little to tell
WINDOW = 256  # rows (columns) in the middle that are measured
ROWS, LINES = 8, 16  # residuals are taken at so many rows of the window, along so many lines
FINE = 48  # rows of a closer look
APART, LARGEST = 1.15, 8.5  # between neighbouring factors; the largest one that is tried

FLOOR = 0.3  # levels: rounding to 8 bits leaves 0.29
# By kernel. Nearest neighbours leave no rounding; blurred pictures and strong JPEGs come near to blocks of one colour.
NOISE = np.array([0.05, 0.8, 0.8, 0.8, 0.8])  # an image whose residual is below holds nothing but rounding there
KINK_SET = np.array([12.0, 4.0, 4.0, 4.0, 4.0])
KINK_IMAGE, KINK_MEMBER = 6.0, 2.0
DIP = 1.15  # r(f-) / r(f): in photographs it is below 1
SET = 16  # images that a set needs at least
CHANGES = 8  # rows (columns) that differ from their neighbour: fewer can be aligned by chance


def _triangle(x: F64) -> F64:
    return np.maximum(0.0, 1.0 - np.abs(x))


def _cubic(a: float) -> Callable[[F64], F64]:
    def kernel(x: F64) -> F64:
        x = np.abs(x)
        near = (a + 2) * x**3 - (a + 3) * x**2 + 1
        far = a * (x**3 - 5 * x**2 + 8 * x - 4)
        return np.where(x < 1, near, np.where(x < 2, far, 0.0))

    return kernel


def _lanczos(x: F64) -> F64:
    return np.where(np.abs(x) < 3, np.sinc(x) * np.sinc(x / 3), 0.0)


def _box(x: F64) -> F64:
    return ((x >= -0.5) & (x < 0.5)).astype(np.float64)


# Beyond the border Pillow leaves the kernel out, torch repeats the last row.
KERNELS = ((_box, False), (_triangle, False), (_cubic(-0.5), False), (_cubic(-0.75), True), (_lanczos, False))


def factors_for(height: int, width: int) -> tuple[float, ...]:
    """The factors that are tried on images of a size."""
    side = min(height, width)
    usual = {side / small for small in SMALL if 1.3 < side / small < 9}
    return tuple(sorted({*FACTORS, *(f for f in usual if all(abs(f / known - 1) > 0.04 for known in FACTORS))}))


def _spanned(size: int, factor: float, kernel: Callable[[F64], F64], repeats: bool) -> F64:
    """The window's rows of the matrix that enlarges `size / factor` rows to `size`."""
    small = round(size / factor)
    window = min(size, WINDOW)
    start = (size - window) // 2
    position = (np.arange(start, start + window) + 0.5) * small / size - 0.5
    taps = np.arange(-3, small + 3)
    weights = kernel(position[:, None] - taps)
    if repeats:
        matrix = weights[:, 3:-3].copy()
        matrix[:, 0] += weights[:, :3].sum(axis=1)
        matrix[:, -1] += weights[:, -3:].sum(axis=1)
    else:
        matrix = weights[:, 3:-3] / weights[:, 3:-3].sum(axis=1, keepdims=True)
    used: F64 = matrix[:, np.abs(matrix).sum(axis=0) > 0]
    return used


@functools.lru_cache(maxsize=1024)
def _outside(size: int, kernel: int, factor: float, count: int) -> F32 | None:
    """`count` rows of I - P (P projects onto the enlargements) at random places, scaled to pass noise.

    Evenly spread places would all fall on one phase of the enlargement.

    Returns:
        f32 [count, window]; none where there is too little outside of that space.
    """
    window = min(size, WINDOW)
    if round(size / factor) < 4:
        return None
    places = np.random.default_rng(0).permutation(window)[: 3 * count]
    spanned = _spanned(size, factor, *KERNELS[kernel])
    gram = spanned.T @ spanned + 1e-6 * np.eye(spanned.shape[1])
    rows = -spanned[places] @ np.linalg.solve(gram, spanned.T)
    rows[np.arange(len(places)), places] += 1.0
    share = rows[np.arange(len(places)), places]  # of the noise at that place that lies outside
    good = np.flatnonzero(share > max(0.02, 0.1 * share.max()))
    if len(good) < ROWS // 2:
        return None
    chosen = np.resize(good, count)
    scaled: F64 = rows[chosen] / np.sqrt(share[chosen])[:, None]
    return scaled.astype(np.float32)


@functools.lru_cache(maxsize=16)
def _all_outside(size: int, factors: tuple[float, ...]) -> tuple[F32, NDArray[np.bool_]]:
    """`_outside` of all kernels and factors, f32 [K*F*ROWS, window]; and bool [K*F]: which of them there are."""
    blocks = [_outside(size, kernel, factor, ROWS) for kernel in range(len(KERNELS)) for factor in factors]
    empty = np.zeros((ROWS, min(size, WINDOW)), np.float32)
    there = np.array([block is not None for block in blocks])
    return np.concatenate([empty if block is None else block for block in blocks]), there


def _lines(grey: F32, axis: int, count: int) -> F32:
    """Lines of the window along an axis (1 or 2), spread over the image: [B,H,W] -> [window, B*count]."""
    size, across = grey.shape[axis], grey.shape[3 - axis]
    window = min(size, WINDOW)
    start = (size - window) // 2
    picked = np.linspace(0, across - 1, count).round().astype(int)
    lines = grey.swapaxes(1, axis)[:, start : start + window, picked]
    return np.ascontiguousarray(lines.transpose(1, 0, 2)).reshape(window, -1)


def residuals(grey: F32, factors: tuple[float, ...]) -> F32:
    """r of each image, kernel and factor, the larger one of both axes; NaN where the image is too small for it.

    Args:
        grey: [B,H,W] in 0..255.
        factors: as `factors_for` gives them.

    Returns:
        [B, kernels, factors]
    """
    both = []
    for axis in (1, 2):
        rows, there = _all_outside(grey.shape[axis], factors)
        outside = (rows @ _lines(grey, axis, LINES)).reshape(len(there), ROWS, len(grey), LINES)
        r = np.sqrt(np.einsum("crbl,crbl->bc", outside, outside) / (ROWS * LINES))
        r[:, ~there] = np.nan
        both.append(r)
    larger: F32 = np.maximum(*both).reshape(len(grey), len(KERNELS), len(factors))
    return larger


def _fine(grey: F32, kernel: int, factors: tuple[float, ...]) -> list[float]:
    """r of one image [H,W] at some factors, from nearly all of its window: few lines may miss what it shows."""
    values = []
    for factor in factors:
        both = [0.0]
        for axis in (1, 2):
            rows = _outside(grey.shape[axis - 1], kernel, factor, FINE)
            if rows is not None:
                outside = rows @ _lines(grey[None], axis, min(grey.shape[2 - axis], 4 * FINE))
                both.append(float(np.sqrt(np.mean(outside**2))))
        values.append(max(both))
    return values


def _neighbours(factors: tuple[float, ...]) -> list[tuple[int, int, int]]:
    """Each factor that has neighbours on both sides: positions of f-, f and f+."""
    triples = []
    for t, factor in enumerate(factors):
        below = [i for i, f in enumerate(factors) if f <= factor / APART]
        above = [i for i, f in enumerate(factors) if f >= factor * APART]
        if below and above and factor <= LARGEST:
            triples.append((below[-1], t, above[0]))
    return triples


@dataclass(frozen=True)
class Residuals:
    """What is measured of each of some images [B].

    Attributes:
        kink, dip: f32 [B,kernels,triples].
        single: by place among the images: those that are detected by themselves, and their factor.
    """

    kink: F32
    dip: F32
    single: dict[int, float]


class UpscalingEvidence:
    """Collects the evidence of images of one size."""

    def __init__(self, height: int, width: int) -> None:
        self.factors = factors_for(height, width)
        self.triples = _neighbours(self.factors)
        self.index: list[int] = []
        self.single: dict[int, float] = {}  # images that are detected by themselves: index -> factor
        self.kink: list[F32] = []  # [B, kernels, triples]
        self.dip: list[F32] = []

    def add(self, index: list[int], seen: Residuals) -> None:
        """What `measure` gave of images, and their indices."""
        self.single |= {index[i]: factor for i, factor in seen.single.items()}
        self.index += index
        self.kink.append(seen.kink)
        self.dip.append(seen.dip)

    def measure(self, images: U8) -> Residuals:
        """Images u8 [B,H,W,3] that are not of one colour."""
        single: dict[int, float] = {}
        grey = images[..., 1].astype(np.float32)  # one channel is enough, and its rounding noise is known
        r = residuals(grey, self.factors)
        below, here, above = (r[:, :, [triple[k] for triple in self.triples]] for k in range(3))
        low = np.nan_to_num(here, nan=np.inf) <= NOISE[:, None]
        below, here, above = (np.maximum(part, FLOOR) for part in (below, here, above))
        kink = np.nan_to_num(below * above / here**2)
        dip = np.nan_to_num(below / here)
        for i in np.flatnonzero((low & (kink >= KINK_MEMBER)).any(axis=(1, 2))).tolist():
            if min(_changes(images[i]), _changes(images[i].swapaxes(0, 1))) < CHANGES:
                kink[i] = 0.0  # a few straight edges may fit by chance
        hits = low & (kink >= KINK_IMAGE) & (dip >= DIP)
        for i in np.flatnonzero(hits.reshape(len(hits), -1).any(axis=1)).tolist():
            factor = self._confirmed(grey[i], hits[i])
            if factor is not None:
                single[i] = factor
        return Residuals(kink, dip, single)

    def _confirmed(self, grey: F32, hits: NDArray[np.bool_]) -> float | None:
        """The largest factor that a closer look bears out."""
        confirmed = []
        for kernel, place in np.argwhere(hits).tolist():
            below, here, above = _fine(grey, kernel, tuple(self.factors[i] for i in self.triples[place]))
            kink = max(below, FLOOR) * max(above, FLOOR) / max(here, FLOOR) ** 2
            if here <= NOISE[kernel] and kink >= KINK_IMAGE:
                confirmed.append(self.factors[self.triples[place][1]])
        return max(confirmed, default=None)

    def found(self) -> list[tuple[int, float]]:
        """Index and factor of the images that were enlarged."""
        if not self.index:
            return []
        factor_by_index = dict(self.single)
        if len(self.index) >= SET:
            kink, dip = np.concatenate(self.kink), np.concatenate(self.dip)
            median = np.where(np.median(dip, axis=0) >= DIP, np.median(kink, axis=0), 0.0) / KINK_SET[:, None]
            kernel, place = np.unravel_index(int(median.argmax()), median.shape)
            if median[kernel, place] >= 1.0:
                for i in np.flatnonzero(kink[:, kernel, place] >= KINK_MEMBER).tolist():
                    factor_by_index.setdefault(self.index[i], self.factors[self.triples[int(place)][1]])
        return sorted(factor_by_index.items())


def _changes(image: U8) -> int:
    """Rows that differ from the one before."""
    return int((image[1:] != image[:-1]).any(axis=(1, 2)).sum())
