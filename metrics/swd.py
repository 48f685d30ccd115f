"""SWD, the sliced Wasserstein distance of small patches at several scales: do textures and layout look alike?

Karras et al. 2018, arXiv:1710.10196, A.5: a Laplacian pyramid from the images' size down to 16 pixels; at each level
128 patches of 7 x 7 pixels per image, each channel of all patches brought to mean 0 and deviation 1; along 512
directions of unit length the mean distance of sorted projections; times 1,000, and the mean over levels. Places and
directions come from seeds here (in the authors' code from NumPy's state), and the larger set is cut to the smaller
one's number of images. No network is asked: it tells apart what features of objects do not, and nothing of what is
shown.

Standard error: of drawing other generated samples, the reference and the directions held fixed, by the delta method, as
of MIND, the scaling of channels with it. It is rather too wide: 1.0 to 1.4 times the true spread of blended, darkened
and fresh digits, N = 60 to 200. Memory: 75 kB per image and level; the authors take 16,384 images (1.2 GB per level).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from evalkit.metric import Batch, ReferenceMetric, Rows, Score, with_error
from evalkit.numerics.blockwise import full_float32
from evalkit.numerics.transport import potential, unit_directions

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

PATCH, PATCHES = 7, 128  # pixels on a side; per image
SMALLEST = 16  # pixels on a side of the last level
DIRECTIONS, TOGETHER = 512, 16  # in all; those that are sorted at a time


@dataclass(eq=False)
class SlicedWasserstein(ReferenceMetric[Rows]):
    """0 upwards, lower is better.

    Args:
        seed: of places and directions.
    """

    seed: int = 2020

    title = "SWD"
    better = "lower"

    def constants(self) -> dict[str, Any]:
        values = {"patch": PATCH, "patches": PATCHES, "smallest": SMALLEST, "directions": DIRECTIONS}
        return {"estimator": "1000 mean sliced 1-Wasserstein distance over levels", **values, "seed": self.seed}

    def observe(self, batch: Batch) -> Rows:
        """By level ("32"), f32 [B, 128, 3, 49]. ValueError: images that are not square, or not a power of 2."""
        assert batch.images is not None
        side = batch.images.shape[-1]
        if batch.images.shape[-2] != side or side < SMALLEST or side & (side - 1):
            height, width = batch.images.shape[-2:]
            raise ValueError(f"images of {width} x {height}: SWD takes squares of 16, 32, 64, ... pixels")
        levels = laplacian_pyramid(batch.images.float(), side)
        indices = batch.index.tolist()
        values = {str(level.shape[-1]): patches(level, indices, self.seed) for level in levels}
        return Rows(batch.index, values, batch.clusters)

    def score(self, *, generated: Rows, reference: Rows) -> Score:
        import torch

        if generated.values.keys() != reference.values.keys():
            sizes = [max(map(int, rows.values)) for rows in (generated, reference)]
            raise ValueError(f"samples have {sizes[0]} pixels on a side, the reference {sizes[1]}: resize one of them")
        n, size = len(generated), min(len(generated), len(reference))
        chosen, others = (_chosen(len(rows), size, self.seed) for rows in (generated, reference))
        total, influence, details = 0.0, torch.zeros(n, dtype=torch.float64), {}
        for level in sorted(generated.values, key=int, reverse=True):
            mine, theirs = scaled(generated[level][chosen]), scaled(reference[level][others])
            value, of_images = distance(mine, theirs, size, self.seed)
            details[f"{level} px"] = value
            total += value / len(generated.values)
            influence[chosen] += of_images * (n / size / len(generated.values))
        return with_error(Score(total, n, details=details), influence, generated.clusters)


def _chosen(n: int, size: int, seed: int) -> Tensor:
    """i64 [size]: which of n images are taken."""
    import torch

    if n == size:
        return torch.arange(n)
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed))[:size].sort().values


def laplacian_pyramid(x: Tensor, side: int) -> Iterator[Tensor]:
    """f32 [B,3,S,S] -> the same size, half of it, ... 16; each less what the next one holds of it, but the last."""
    while side > SMALLEST:
        small = halved(x)
        yield x - doubled(small)
        x, side = small, side // 2
    yield x


def halved(x: Tensor) -> Tensor:
    """Smoothed, and every second pixel: as OpenCV's pyrDown. f32 [B,3,S,S] -> [B,3,S/2,S/2]."""
    return smooth(x, 1)[:, :, ::2, ::2]


def doubled(x: Tensor) -> Tensor:
    """Zeros between the pixels, then smoothed: as OpenCV's pyrUp. f32 [B,3,S,S] -> [B,3,2S,2S]."""
    b, c, h, w = x.shape
    spread = x.new_zeros(b, c, 2 * h, 2 * w)
    spread[:, :, ::2, ::2] = x
    return smooth(spread, 4)


def smooth(x: Tensor, gain: float) -> Tensor:
    """By the binomial filter (1 4 6 4 1) both ways; edges are mirrored about the outermost pixels."""
    import torch
    from torch.nn.functional import conv2d, pad

    line = torch.tensor([1.0, 4, 6, 4, 1], device=x.device) / 16
    b, c, h, w = x.shape
    planes = pad(x.reshape(b * c, 1, h, w), (2, 2, 2, 2), mode="reflect")
    kernel = gain * line[:, None] * line[None]
    return conv2d(planes, kernel[None, None]).reshape(b, c, h, w)


def patches(x: Tensor, indices: list[int], seed: int) -> Tensor:
    """128 patches of each image, at places that go by the seed, its index and the level: f32 [B, 128, 3, 49]."""
    import numpy as np
    import torch

    side = x.shape[-1]
    windows = x.unfold(2, PATCH, 1).unfold(3, PATCH, 1)  # [B,3,P,P,7,7], a view
    taken = []
    for image, index in zip(windows, indices, strict=True):
        rng = np.random.default_rng([seed, index, side])
        rows, columns = torch.from_numpy(rng.integers(0, side - PATCH + 1, (2, PATCHES)))
        taken.append(image[:, rows, columns].reshape(3, PATCHES, PATCH * PATCH).transpose(0, 1))
    return torch.stack(taken)


def scaled(x: Tensor) -> Tensor:
    """f32 [N, 128, 3, 49], each channel at mean 0 and deviation 1 -> [N 128, 147]."""
    x = x - x.mean(dim=(0, 1, 3), keepdim=True)
    std = x.double().square().mean(dim=(0, 1, 3), keepdim=True).sqrt().float()
    return (x / std.clamp_min(1e-12)).reshape(-1, 3 * PATCH * PATCH)


def distance(a: Tensor, b: Tensor, images: int, seed: int) -> tuple[float, Tensor]:
    """1000 times the mean over directions of the 1-Wasserstein distance of f32 [R,147]; what each image moves it.

    On a line the potential's slope is the sign of a - T(a), T the map between equal ranks. An image also moves the
    channels' means and deviations, by which all patches were scaled.

    Returns:
        The distance; f64 [images], of `a`'s.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    directions = unit_directions(DIRECTIONS, a.shape[1], generator).to(a.device)
    total, moved = 0.0, torch.zeros(images, dtype=torch.float64)
    by_mean, by_scale = torch.zeros(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    for some in torch.split(directions, TOGETHER):
        axes = some.reshape(len(some), 3, -1)  # [K,3,49]
        with full_float32():
            parts = torch.einsum("rcp,kcp->crk", a.reshape(len(a), 3, -1), axes)  # f32 [3,R,K]
            along, other = parts.sum(0), b @ some.T
        values, order = along.sort(dim=0)
        shift = values - other.sort(dim=0).values
        total += float(shift.abs().double().mean(0).sum())
        signs = shift.sign()
        moved += potential(values, order, signs).reshape(images, -1, len(some)).mean(1).sum(1).cpu()
        sign = torch.empty_like(signs).scatter_(0, order, signs)  # [R,K], in the patches' order
        by_mean -= (sign.double().mean(0)[:, None] * axes.double().sum(2)).sum(0).cpu()
        by_scale -= (sign * parts).double().mean(1).sum(1).cpu()
    channels = a.reshape(images, -1, 3, PATCH * PATCH).double()
    means, squares = (each.mean(dim=(1, 3)).cpu() for each in (channels, channels.square()))  # f64 [images,3]
    moved += means @ by_mean + (squares - 1) / 2 @ by_scale
    return 1000 * total / DIRECTIONS, 1000 * moved / DIRECTIONS
