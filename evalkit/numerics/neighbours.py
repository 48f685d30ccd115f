"""Neighbours and balls among two sets of features, from distances in blocks: never an N x M matrix.

Distances come from `|x|^2 + |y|^2 - 2 x.y`, a float32 matrix product, after a common mean is taken off: it errs by at
most 27 eps of |x|^2 + |y|^2 (measured up to D = 8192, and along one axis that outweighs all others). Where that could
change an answer (which neighbour is the k-th, which side of a radius a point lies on) the distance is computed again
in float64 from the features' differences. So neighbours' distances and counts are those of float64, and a copy of an
image is at distance 0. A row's distance to itself is left out by its index, not by its value.

Work space: about six blocks of `BLOCK_BYTES`, 100 MiB, next to the features themselves (never copied as a whole) and
a few numbers per row. Tensors may be on any device; the results are on the same.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from evalkit.numerics.blockwise import full_float32, row_blocks

if TYPE_CHECKING:
    from torch import Tensor

PAIR_BYTES = 2**21  # of differences in float64: what stays in a core's cache
UNSURE = 64 * 2.0**-23  # in units of |x|^2 + |y|^2: nearer to a radius than this, a distance is computed again
KEPT = 8  # neighbours that are kept per row: as many as the metrics' defaults ask for
SPARE = 2  # candidates beyond the k nearest, against a wrong order by rounding
EQUAL = 1e-12  # float64 distances that differ by less, relatively, are equal


def nearest_others(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Each row's k nearest other rows of the same set: its duplicates count, it does not.

    Args:
        x: f32 [N,D], N > k.

    Returns:
        Distances f64 [N,k], ascending, and indices i64 [N,k]. They are kept for as long as x lives: several metrics ask
        for neighbours in the same set.

    Raises:
        ValueError: N <= k.
    """
    if len(x) <= k:
        raise ValueError(f"{k} nearest others of {len(x)} rows: there must be more than {k}")
    version = None if x.is_inference() else x._version  # a count of the changes in place
    _neighbours[:] = [entry for entry in _neighbours if entry[0]() is not None]
    for rows, known_version, (distance, index) in _neighbours:
        if rows() is x and known_version == version and distance.shape[1] >= k:
            return distance[:, :k], index[:, :k]
    distance, index = _nearest_others(x, max(k, min(KEPT, len(x) - 1)))
    _neighbours.append((weakref.ref(x), version, (distance, index)))
    return distance[:, :k], index[:, :k]


_neighbours: list[tuple[weakref.ref[Tensor], int | None, tuple[Tensor, Tensor]]] = []


def _nearest_others(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    best = _Best(x, len(x), min(k + SPARE, len(x) - 1))
    centre = x.mean(0)
    parts = row_blocks(len(x), x.shape[1])
    with full_float32():
        for i, first in enumerate(parts):
            a = _centred(x, first, centre)
            for second in parts[i:]:
                b = a if second is first else _centred(x, second, centre)
                squares = _squares(a, b)
                if second is first:
                    squares.fill_diagonal_(float("inf"))
                best.update(first, squares, second.start)
                if second is not first:  # distances are symmetric: half of the products do
                    best.update(second, squares.T, first.start)
    return best.exact(x, x, k)


def nearest_in(x: Tensor, y: Tensor, k: int = 1) -> tuple[Tensor, Tensor]:
    """The k rows of y that are nearest to each row of x.

    Args:
        x: f32 [N,D].
        y: f32 [M,D], M >= k.

    Returns:
        Distances f64 [N,k], ascending, and indices i64 [N,k].

    Raises:
        ValueError: M < k.
    """
    if len(y) < k:
        raise ValueError(f"{k} nearest of {len(y)} rows: there must be at least {k}")
    best = _Best(x, len(x), min(k + SPARE, len(y)))
    with full_float32():
        for block in _blocks(x, y):
            best.update(block.rows, block.squares, block.columns.start)
    return best.exact(x, y, k)


def knn_radii(x: Tensor, k: int) -> Tensor:
    """f64 [N], the distance of each row of f32 [N,D] to its k-th nearest other row. ValueError: N <= k."""
    return nearest_others(x, k)[0][:, k - 1]


def ball_counts(x: Tensor, y: Tensor, radii: Tensor, *, closed: bool) -> Tensor:
    """The number of balls that hold each point, i64 [N].

    Args:
        x: f32 [N,D], the points.
        y: f32 [M,D], the balls' centres.
        radii: f64 [M].
        closed: whether a distance equal to the radius (relatively to 1e-12) lies in the ball.
    """
    import torch

    counts = torch.zeros(len(x), dtype=torch.int64, device=x.device)
    with full_float32():
        for block in _blocks(x, y):
            inside = block.inside(radii[block.columns].square(), closed).float()  # 0 or 1, f32 [A,B]
            counts[block.rows] += inside.sum(1).long()  # exact: a block is no wider than 2,048
    return counts


def in_any_ball(x: Tensor, y: Tensor, radii: Tensor, *, closed: bool) -> Tensor:
    """Whether each point lies in any ball, bool [N,R], for several sets of radii in one pass.

    The answer for the first set is that of float64. For the others, of which only spreads are taken, it is float32's.

    Args:
        x, y, closed: as of `ball_counts`.
        radii: f64 [M,R]; a ball of radius NaN holds nothing.
    """
    import torch

    limits = radii.square()  # f64 [M,R]
    limits32 = limits.float().T  # f32 [R,M]
    held = torch.zeros((len(x), radii.shape[1]), dtype=torch.bool, device=x.device)
    inside = torch.le if closed else torch.lt
    with full_float32():
        for block in _blocks(x, y):
            held[block.rows, 0] |= block.inside(limits[block.columns, 0], closed).any(1)
            for r in range(1, radii.shape[1]):
                held[block.rows, r] |= inside(block.squares, limits32[r, block.columns]).any(1)
    return held


class _Best:
    """The nearest candidates of each row of a set, as blocks of distances come in."""

    def __init__(self, x: Tensor, n: int, width: int) -> None:
        import torch

        self.squares = torch.full((n, width), float("inf"), device=x.device)  # f32 [N,C]
        self.index = torch.zeros((n, width), dtype=torch.int64, device=x.device)

    def update(self, rows: slice, squares: Tensor, offset: int) -> None:
        """Takes in f32 [A,B]: the squared distances of `rows` to others, the first of which is number `offset`."""
        import torch

        width = self.squares.shape[1]
        new = squares.topk(min(width, squares.shape[1]), dim=1, largest=False)
        joined = torch.cat([self.squares[rows], new.values], 1)
        index = torch.cat([self.index[rows], new.indices + offset], 1)
        best = joined.topk(width, dim=1, largest=False)
        self.squares[rows], self.index[rows] = best.values, index.gather(1, best.indices)

    def exact(self, x: Tensor, y: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """The k best of the candidates by float64 distances: f64 [N,k] ascending, i64 [N,k]."""
        import torch

        n, width = self.index.shape
        rows = torch.arange(n, device=x.device).repeat_interleave(width)
        squares = _exact_squares(x, rows, y, self.index.reshape(-1)).reshape(n, width)
        order = squares.argsort(dim=1, stable=True)[:, :k]
        return squares.gather(1, order).sqrt(), self.index.gather(1, order)


@dataclass(frozen=True)
class _Block:
    """One block of squared distances from rows of x to rows of y, and what it takes to compute some of them again."""

    x: Tensor
    y: Tensor
    rows: slice
    columns: slice
    squares: Tensor  # f32 [A,B]
    norms: tuple[Tensor, Tensor]  # squared, f32 [A] and [B]

    def inside(self, limits: Tensor, closed: bool) -> Tensor:
        """bool [A,B]: whether squared distances are below the limits of y's rows, f64 [B] (or equal, where closed)."""
        limits32 = limits.float()
        widest = UNSURE * (self.norms[0].max() + self.norms[1].max())
        inside: Tensor = self.squares < limits32 - widest
        i, j = (self.squares <= limits32 + widest).logical_xor_(inside).nonzero(as_tuple=True)
        if len(i):  # one list of close pairs, and of those the ones that are close by their own norms
            near = self.squares[i, j]
            limit = limits[j]
            inside[i, j] = near < limit
            margin = UNSURE * (self.norms[0][i] + self.norms[1][j])
            unsure = ((near - limit).abs() <= margin).nonzero()[:, 0]
            i, j, limit = i[unsure], j[unsure], limit[unsure]
            exact = _exact_squares(self.x, i + self.rows.start, self.y, j + self.columns.start)
            inside[i, j] = exact <= limit * (1 + EQUAL) if closed else exact < limit * (1 - EQUAL)
        return inside


def _centred(x: Tensor, part: slice, centre: Tensor) -> tuple[Tensor, Tensor]:
    """A block of rows less the centre, f32 [B,D], and their squared norms, f32 [B]."""
    import torch

    rows = x[part].float() - centre
    return rows, torch.linalg.vector_norm(rows, dim=1).square_()


def _squares(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> Tensor:
    """Squared distances f32 [A,B] of two centred blocks."""
    import torch

    return torch.addmm(b[1][None, :], a[0], b[0].T, alpha=-2).add_(a[1][:, None]).clamp_(min=0)


def _blocks(x: Tensor, y: Tensor) -> Iterator[_Block]:
    """All squared distances between the rows of f32 [N,D] and [M,D]."""
    centre = (x.mean(0) + y.mean(0)) / 2
    for rows in row_blocks(len(x), x.shape[1]):
        a = _centred(x, rows, centre)
        for columns in row_blocks(len(y), y.shape[1]):
            b = _centred(y, columns, centre)
            yield _Block(x, y, rows, columns, _squares(a, b), (a[1], b[1]))


def _exact_squares(x: Tensor, i: Tensor, y: Tensor, j: Tensor) -> Tensor:
    """Squared distances f64 [P] of the pairs (x[i], y[j]), from their differences."""
    import torch

    step = max(1, PAIR_BYTES // (8 * max(x.shape[1], 1)))
    squares = torch.empty(len(i), dtype=torch.float64, device=x.device)
    for start in range(0, len(i), step):
        part = slice(start, start + step)
        squares[part] = y[j[part]].double().sub_(x[i[part]]).square_().sum(1)
    return squares
