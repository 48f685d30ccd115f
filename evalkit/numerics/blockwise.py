"""What the block-wise numerics share: the size of a block, products in full float32."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from evalkit.numerics.precision import float32_arithmetic

if TYPE_CHECKING:
    from torch import Tensor

BLOCK_BYTES = 4 * 2**20  # the most of a block of features, and of a block of distances; several are under way,
CUDA_BLOCK_BYTES = 256 * 2**20  # one after another there
ON_CUDA = 16  # times as much: smaller products leave a GPU waiting for Python


@contextmanager
def full_float32() -> Iterator[None]:
    """Matrix products in full float32: in TF32 (10 bits of mantissa) distances would err by 1e-3."""
    import torch

    with float32_arithmetic(), torch.no_grad():
        yield


def room(x: Tensor) -> int:
    """How many times as much may be worked on at a time where a tensor lies."""
    return ON_CUDA if x.is_cuda else 1


def row_blocks(x: Tensor) -> list[slice]:
    """Blocks of rows of [N,D]: neither a block of f32 features nor a square of f32 distances exceeds the limit."""
    (n, width), numbers = x.shape, (CUDA_BLOCK_BYTES if x.is_cuda else BLOCK_BYTES) // 4
    step = max(1, min(int(numbers**0.5), numbers // max(width, 1)))
    return [slice(start, min(start + step, n)) for start in range(0, n, step)]


def finite_mean(x: Tensor) -> Tensor:
    """The mean of features f32 or f64 [N,D], f64 [D]; it tells at no further cost whether all are finite.

    By sums in float32: a centre to subtract, no statistic.

    Raises:
        ValueError: NaN or infinite features: of how many samples.
    """
    import torch

    mean = x.mean(0).double()
    if not bool(mean.isfinite().all()):
        mean = x.mean(0, dtype=torch.float64)  # a sum may have overflowed
    if not bool(mean.isfinite().all()):
        bad = [i for i, row in enumerate(x) if not bool(row.isfinite().all())]
        raise ValueError(f"features of {len(bad)} of {len(x)} samples are NaN or infinite (the first: row {bad[0]})")
    return mean
