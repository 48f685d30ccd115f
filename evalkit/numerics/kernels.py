"""Kernels between two sets of rows, block by block: what MMDs are made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from evalkit.numerics.blockwise import finite_mean, full_float32, row_blocks

if TYPE_CHECKING:
    import torch
    from torch import Tensor


Kernel = Callable[["Tensor", "Tensor"], "Tensor"]  # [A,D], [B,D] -> [A,B], all f32 or all f64
FAR = 1e3  # times its variance, a squared mean leaves float32 kernels too few digits of what tells two sets apart
LARGE = 1e10  # beyond it, kernels of squared lengths may overflow float32


def dtype_of(x: Tensor, y: Tensor) -> torch.dtype:
    """What kernels between these rows, [N,D] and [M,D], take: f32, or f64 where the rows are far from the origin.

    Raises:
        ValueError: rows that are not finite.
    """
    import torch

    few = [side[:: max(1, len(side) // 1000)].double() for side in (x, y)]
    means = [finite_mean(side) for side in (x, y)]
    variance = sum(float((rows - mean).square().sum(1).mean()) for rows, mean in zip(few, means, strict=True))
    length = max(float(mean.square().sum()) for mean in means)
    return torch.float64 if length > FAR * variance or length + variance > LARGE else torch.float32


def kernel_product(x: Tensor, y: Tensor, kernel: Kernel, weights: Tensor | None = None) -> Tensor:
    """`K(x, y) @ weights`, f64 [N,W]; or the sums of the rows of K(x, y), f64 [N], where no weights are given.

    Within a block it sums up to 2,048 terms in float32, over blocks in float64; all is in float64 where `dtype_of` says
    so.

    Args:
        x: f32 [N,D].
        y: f32 [M,D]; where it is x itself and there are no weights, half of the symmetric matrix is computed.
        kernel: of [A,D] and [B,D], gives [A,B].
        weights: f32 [M,W], or none.
    """
    import torch

    shape = (len(x),) if weights is None else (len(x), weights.shape[1])
    total = torch.zeros(shape, dtype=torch.float64, device=x.device)
    halved, dtype = x is y and weights is None, dtype_of(x, y)
    weights = None if weights is None else weights.to(dtype)
    with full_float32():
        for rows in row_blocks(len(x), x.shape[1]):
            for columns in row_blocks(len(y), y.shape[1]):
                if halved and columns.start < rows.start:
                    continue
                block = kernel(x[rows].to(dtype), y[columns].to(dtype))  # [A,B]
                if weights is not None:
                    total[rows] += (block @ weights[columns]).double()
                    continue
                total[rows] += block.sum(1).double()
                if halved and columns.start > rows.start:
                    total[columns] += block.sum(0).double()
    return total


def kernel_diagonal(x: Tensor, kernel: Kernel) -> Tensor:
    """f64 [N], the kernel of each row of f32 [N,D] with itself."""
    import torch

    dtype = dtype_of(x, x)
    with full_float32():  # of 64 x 64 values 64 are used: little next to any product with another set
        blocks = (rows.to(dtype) for rows in torch.split(x, 64))
        return torch.cat([kernel(rows, rows).diagonal().double() for rows in blocks])


def mmd_spread(x: Tensor, y: Tensor, kernel: Kernel, seed: int, partners: int = 5000) -> tuple[Tensor, float]:
    """How much each sample moves the unbiased squared MMD, and the MMD's variance over draws of x, y held fixed.

    Given y it is a U-statistic with the kernel h(x, x') = k(x, x') - g(x) - g(x'), g(x) the mean of k(x, y). Its
    variance is (4(N-2) z1 + 2 z2) / (N(N-1)), z1 and z2 those of E[h | x] and of h (Hoeffding 1948). z2 comes from the
    pairs of up to 1,000 samples; z1 from the rows' means, less the z2/P that a mean over P partners adds.

    Args:
        x: f32 [N,D], N of 4 or more.
        y: f32 [M,D].
        kernel: see `kernel_product`.
        seed: of the drawing of partners, from each set where it is larger.
        partners: P: all pairs of 50,000 samples would cost many times what the score does.

    Returns:
        Influences f64 [N], up to a constant, and the variance.
    """
    import numpy as np
    import torch

    rng, n = np.random.default_rng(seed), len(x)
    mine, theirs = (torch.from_numpy(rng.permutation(len(s))[:partners]).to(s.device) for s in (x, y))
    p = len(mine)
    member = torch.zeros(n, dtype=torch.float64, device=x.device).index_fill_(0, mine, 1)
    inner = kernel_product(x, x[mine], kernel) if p < n else kernel_product(x, x, kernel)
    inner = (inner - member * kernel_diagonal(x, kernel)) / (p - member)  # f64 [N], a sample is not its own partner
    g = kernel_product(x, y[theirs], kernel) / len(theirs)
    means = inner - g - g[mine].mean()
    few = mine[:1000]
    with full_float32():
        some = x[few].to(dtype_of(x, y))
        h = kernel(some, some).double() - g[few][:, None] - g[few][None, :]
    z2 = float(h[~torch.eye(len(few), dtype=torch.bool, device=x.device)].var())
    z1 = max(0.0, (float(means.var()) - z2 / p) / (1 - 2 / p))
    return 2 * means, (4 * (n - 2) * z1 + 2 * z2) / (n * (n - 1))
