"""Kernels between two sets of rows, block by block: what MMDs are made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from evalkit.numerics.blockwise import finite_mean, full_float32, row_blocks
from evalkit.numerics.threads import in_parallel

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
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

    def of_block(at: tuple[slice, slice]) -> tuple[Tensor, Tensor | None]:
        """What a block adds to its rows, and to its columns."""
        rows, columns = at
        block = kernel(x[rows].to(dtype), y[columns].to(dtype))  # [A,B]
        if weights is not None:
            return (block @ weights[columns]).double(), None
        return block.sum(1).double(), block.sum(0).double() if halved and columns.start > rows.start else None

    blocks = [(i, j) for i in row_blocks(x) for j in row_blocks(y) if not halved or j.start >= i.start]
    with full_float32():
        found = in_parallel(of_block, blocks) if x.device.type == "cpu" else map(of_block, blocks)
        for (rows, columns), (of_rows, of_columns) in zip(blocks, found, strict=True):
            total[rows] += of_rows
            if of_columns is not None:
                total[columns] += of_columns
    return total


def kernel_diagonal(x: Tensor, kernel: Kernel) -> Tensor:
    """f64 [N], the kernel of each row of f32 [N,D] with itself."""
    import torch

    dtype = dtype_of(x, x)
    with full_float32():  # of 64 x 64 values 64 are used: little next to any product with another set
        blocks = (rows.to(dtype) for rows in torch.split(x, 64))
        return torch.cat([kernel(rows, rows).diagonal().double() for rows in blocks])


@dataclass(frozen=True)
class Spread:
    """How an MMD varies over draws of x.

    Attributes:
        influence: f64 [N], how much each sample moves it, up to a constant.
        variance: of the unbiased squared MMD; none of a single cluster.
        clusters: their number.
    """

    influence: Tensor
    variance: float | None
    clusters: int


def mmd_spread(
    x: Tensor, y: Tensor, kernel: Kernel, seed: int, partners: int = 5000, clusters: Tensor | None = None
) -> Spread:
    """How much each sample moves the unbiased squared MMD, and the MMD's variance over draws of x, y held fixed.

    Given y it is a U-statistic with the kernel h(x, x') = k(x, x') - g(x) - g(x'), g(x) the mean of k(x, y). Its
    variance is (4(N-2) z1 + 2 z2) / (N(N-1)), z1 and z2 those of E[h | x] and of h (Hoeffding 1948). z2 comes from the
    pairs of up to 1,000 samples; z1 from the rows' means, less the z2/P that a mean over P partners adds. Where samples
    come in clusters, a cluster takes the place of a sample, with the sums over it.

    Args:
        x: f32 [N,D], N of 4 or more.
        y: f32 [M,D].
        kernel: see `kernel_product`.
        seed: of the drawing of partners, from each set where it is larger.
        partners: P: all pairs of 50,000 samples would cost many times what the score does.
        clusters: i64 [N], which samples were drawn together; none: each by itself.
    """
    import numpy as np
    import torch

    rng, n = np.random.default_rng(seed), len(x)
    place = np.arange(n) if clusters is None else np.unique(clusters.cpu().numpy(), return_inverse=True)[1]  # i64 [N]
    count = int(place.max()) + 1
    place = np.arange(n) if count == n else place
    order = np.argsort(np.argsort(rng.permutation(count))[place], kind="stable")  # cluster by cluster, at random
    chosen, few = (_whole_clusters(place[order], most) for most in (partners, 1000))
    enough = min(chosen[1], few[1]) >= 4  # clusters: of fewer the two parts of the variance cannot be told apart
    mine = torch.from_numpy(order[: chosen[0]] if enough else rng.permutation(n)[:partners]).to(x.device)
    theirs = torch.from_numpy(rng.permutation(len(y))[:partners]).to(y.device)
    p = len(mine)
    member = torch.zeros(n, dtype=torch.float64, device=x.device).index_fill_(0, mine, 1)
    inner = kernel_product(x, x[mine], kernel) if p < n else kernel_product(x, x, kernel)
    inner = (inner - member * kernel_diagonal(x, kernel)) / (p - member)  # f64 [N], a sample is not its own partner
    g = kernel_product(x, y[theirs], kernel) / len(theirs)
    means = inner - g - g[mine].mean()
    if count < 2:
        return Spread(2 * means, None, count)
    of_cluster = _summed((means - means.mean()) * (count / n), torch.from_numpy(place))  # f64 [G]
    if not enough:
        return Spread(2 * means, 4 * float(of_cluster.var()) / count, count)
    mine = mine[: few[0]]
    with full_float32():
        some = x[mine].to(dtype_of(x, y))
        h = kernel(some, some).double() - g[mine][:, None] - g[mine][None, :]
    if count < n:  # of pairs of clusters, f64 [F,F]
        places = torch.from_numpy(np.unique(place[order[: few[0]]], return_inverse=True)[1])
        h = _summed(_summed(h * (count / n) ** 2, places).T, places)
    z2 = float(h[~torch.eye(len(h), dtype=torch.bool, device=h.device)].var())
    z1 = max(0.0, (float(of_cluster.var()) - z2 / chosen[1]) / (1 - 2 / chosen[1]))
    return Spread(2 * means, (4 * (count - 2) * z1 + 2 * z2) / (count * (count - 1)), count)


def _whole_clusters(places: NDArray[np.int64], most: int) -> tuple[int, int]:
    """How many of the first samples [N], which come cluster by cluster, are whole clusters, `most` at most; and those.

    Returns:
        Samples, clusters.
    """
    import numpy as np

    ends = np.append(np.flatnonzero(np.diff(places)) + 1, len(places))
    fitting = ends[ends <= most]
    return (int(fitting[-1]), len(fitting)) if len(fitting) else (0, 0)


def _summed(values: Tensor, place: Tensor) -> Tensor:
    """f64 [N, ...] summed by place, i64 [N]: f64 [G, ...]; on the CPU, since a GPU adds in another order each time."""
    shape = (int(place.max()) + 1, *values.shape[1:])
    values = values.cpu()
    return values.new_zeros(shape).index_add_(0, place, values)
