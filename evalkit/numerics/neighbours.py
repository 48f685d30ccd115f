"""Nearest neighbours within a set of features and in another one, from `evalkit.numerics.distances`.

Neighbours' distances are those of float64, and a copy of an image is at distance 0. A row's distance to itself is left
out by its index, not by its value. Candidates are picked by float32; where the next one after them could be nearer by
rounding, the row's distances are made again in float64.

Work space: about six blocks of `BLOCK_BYTES` per thread, 25 MiB (1.5 GiB on a GPU), next to the features themselves
(never copied as a whole) and a few numbers per row. Tensors may be on any device; the results are on the same.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING

from evalkit.numerics.blockwise import full_float32
from evalkit.numerics.distances import Distances

if TYPE_CHECKING:
    from torch import Tensor

KEPT = 5  # neighbours that are kept per row: as many as the metrics' defaults ask for
SPARE = 2  # candidates beyond the k nearest: what is left out is then seldom as near as the k-th
CROWD = 256  # candidates that a block may add to a row before its nearest are sought among all of them
EQUAL = 1e-12  # float64 distances that differ by less, relatively, are equal


def nearest_others(x: Tensor, k: int, rough: int = 0) -> tuple[Tensor, Tensor]:
    """Each row's k nearest other rows of the same set: its duplicates count, it does not.

    Args:
        x: f32 [N,D], N > k.
        rough: how many further neighbours to give, as far as there are any, with distances by float32.

    Returns:
        Distances f64 [N,k+rough], ascending, and indices i64. They are kept for as long as x lives: several metrics ask
        for neighbours in the same set.

    Raises:
        ValueError: N <= k, or features that are not finite.
    """
    if len(x) <= k:
        raise ValueError(f"{k} nearest others of {len(x)} rows: there must be more than {k}")
    wanted = min(k + rough, len(x) - 1)
    version = None if x.is_inference() else x._version  # a count of the changes in place
    _neighbours[:] = [entry for entry in _neighbours if entry[0]() is not None]
    for rows, known_version, exact, (distance, index) in _neighbours:
        if rows() is x and known_version == version and exact >= k and distance.shape[1] >= wanted:
            return distance[:, :wanted], index[:, :wanted]
    exact = max(k, min(KEPT, len(x) - 1))
    distance, index = _nearest(x, x, exact, max(0, wanted - exact))
    _neighbours.append((weakref.ref(x), version, exact, (distance, index)))
    return distance[:, :wanted], index[:, :wanted]


_neighbours: list[tuple[weakref.ref[Tensor], int | None, int, tuple[Tensor, Tensor]]] = []


def nearest_in(x: Tensor, y: Tensor, k: int = 1) -> tuple[Tensor, Tensor]:
    """The k rows of y that are nearest to each row of x.

    Args:
        x: f32 [N,D].
        y: f32 [M,D], M >= k.

    Returns:
        Distances f64 [N,k], ascending, and indices i64 [N,k].

    Raises:
        ValueError: M < k, or features that are not finite.
    """
    if len(y) < k:
        raise ValueError(f"{k} nearest of {len(y)} rows: there must be at least {k}")
    return _nearest(x, y if y is not x else y.view_as(y), k)


def knn_radii(x: Tensor, k: int) -> Tensor:
    """f64 [N], the distance of each row of f32 [N,D] to its k-th nearest other row. ValueError: N <= k."""
    return nearest_others(x, k)[0][:, k - 1]


def _nearest(x: Tensor, y: Tensor, k: int, rough: int = 0) -> tuple[Tensor, Tensor]:
    """Of each row of x, in y: distances f64 [N,k+rough] and indices i64; where y is x, of the others."""
    import torch

    own = torch.arange(len(x), device=x.device) if y is x else None  # i64 [N]: what is no neighbour of a row
    with full_float32():
        distances = Distances(x, y)
        squares, index, unsure = _candidates(distances, k, rough, own)
        again = unsure.nonzero()[:, 0]
        for rows in torch.split(again, 2048) if len(again) else ():
            finer = Distances(x[rows], y, torch.float64)
            found, finer_index, _ = _candidates(finer, k, rough, None if own is None else own[rows])
            squares[rows], index[rows] = found * (distances.scale / finer.scale) ** 2, finer_index
    return squares.sqrt() / distances.scale, index


def _candidates(distances: Distances, k: int, rough: int, own: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """The k best of k + SPARE candidates by float64 distances, and whether another one could be as near.

    Returns:
        Squared distances f64 [N,k+rough], ascending; indices i64 [N,k+rough]; bool [N].
    """
    import torch

    n, others = len(distances.x), len(distances.y) - (own is not None)
    width = min(k + SPARE, others)
    best = _Best(distances, n, min(max(k + rough, width), others))
    norms = torch.empty(n, dtype=torch.float64, device=distances.x.device)
    for block in distances.blocks(lambda each: each):
        squares, norms[block.rows] = block.squares, block.norms[0].double()
        if own is not None:
            mine = own[block.rows] - block.columns.start
            i = ((mine >= 0) & (mine < squares.shape[1])).nonzero()[:, 0]
            squares[i, mine[i]] = float("inf")
        best.update(block.rows, squares, block.columns.start)
        if distances.x is distances.y and block.rows != block.columns:  # distances are symmetric: half of the products
            best.update(block.columns, squares.T, block.rows.start)
    rows = torch.arange(n, device=norms.device).repeat_interleave(width)
    exact = distances.exact(rows, best.index[:, :width].reshape(-1)).reshape(n, width)
    order = exact.argsort(dim=1, stable=True)[:, :k]
    exact, index = exact.gather(1, order), best.index[:, :width].gather(1, order)
    farthest, left_out = exact[:, -1], best.squares[:, min(width, best.squares.shape[1] - 1)]
    # one that is nearer has a norm of at most |x| and the distance, which bounds what rounding did to it
    margin = distances.unsure * (norms + (norms.sqrt() + farthest.sqrt()).square())
    unsure = (left_out - margin < farthest) & (farthest > 0) & (width < others)
    more = slice(k, k + rough)
    squares = torch.cat([exact, best.squares[:, more].double()], 1).cummax(1).values
    return squares, torch.cat([index, best.index[:, more]], 1), unsure


class _Best:
    """The nearest candidates of each row of a set, as blocks of distances come in."""

    def __init__(self, distances: Distances, n: int, width: int) -> None:
        import torch

        device = distances.x.device
        self.squares = torch.full((n, width), float("inf"), dtype=distances.dtype, device=device)  # [N,C], ascending
        self.index = torch.zeros((n, width), dtype=torch.int64, device=device)

    def update(self, rows: slice, squares: Tensor, offset: int) -> None:
        """Takes in [A,B]: the squared distances of `rows` to others, the first of which is number `offset`."""
        import torch

        known, width = self.squares[rows], self.squares.shape[1]
        limit = known[:, -1:]  # [A,1]: farther ones change nothing, and they are nearly all
        if bool(limit.isinf().any()):
            self._keep(rows, *_nearest_of(squares, width), offset)
            return
        if squares.is_contiguous():
            i, j = (squares < limit).nonzero(as_tuple=True)
        else:  # a transposed block: looked through as it lies in memory
            j, i = (squares.T < limit.T).nonzero(as_tuple=True)
            i, order = i.sort(stable=True)
            j = j[order]
        count = i.bincount(minlength=len(known))
        most = int(count.max())
        if most > CROWD:
            self._keep(rows, *_nearest_of(squares, width), offset)
        elif most:
            place = torch.arange(len(i), device=i.device) - (count.cumsum(0) - count)[i]
            near = squares.new_full((len(known), most), float("inf"))
            index = self.index.new_zeros((len(known), most))
            near[i, place], index[i, place] = squares[i, j], j
            self._keep(rows, near, index, offset)

    def _keep(self, rows: slice, squares: Tensor, index: Tensor, offset: int) -> None:
        """The nearest of those known and of new ones, [A,C]."""
        import torch

        joined = torch.cat([self.squares[rows], squares], 1)
        index = torch.cat([self.index[rows], index + offset], 1)
        best = joined.topk(self.squares.shape[1], dim=1, largest=False)
        self.squares[rows], self.index[rows] = best.values, index.gather(1, best.indices)


def _nearest_of(squares: Tensor, width: int) -> tuple[Tensor, Tensor]:
    squares = squares.contiguous()  # of a transposed view topk takes six times as long
    best = squares.topk(min(width, squares.shape[1]), dim=1, largest=False)
    return best.values, best.indices
