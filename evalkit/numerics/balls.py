"""Which points of two sets lie in one another's k-nearest-neighbour balls, in one pass over their distances.

What precision, recall, density and coverage ask for is collected at once, by block: they are made of the same pairs,
and the product that gives the distances is what costs. A pair counts as float64 has it (`evalkit.numerics.distances`).
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING

from evalkit.numerics.blockwise import full_float32, room
from evalkit.numerics.distances import MANY, Block, Distances
from evalkit.numerics.neighbours import EQUAL, nearest_others

if TYPE_CHECKING:
    from torch import Tensor

MEMBERS = 8  # points of a ball that are named
CHUNK = 2**17  # pairs at a time
USUAL = ((3, True), (5, False))  # k, closed: what the metrics' defaults ask for, made in the same pass


@dataclass(frozen=True)
class Held:
    """The balls around the rows of a set that hold the points of another one.

    Attributes:
        balls: i64 [points], the number of balls that hold each point.
        count: i64 [balls], the number of points in each ball.
        members: i64 [balls, MEMBERS], which those are: the first of them, -1 where there are fewer.
        only: i64 [points], the ball that alone holds a point, -1 where there is none or more than one.
    """

    balls: Tensor
    count: Tensor
    members: Tensor
    only: Tensor


@dataclass(frozen=True)
class Meeting:
    """Points x in the balls of y, and y in those of x; either is none where the set has no k-th neighbours.

    Attributes:
        x_in_y, y_in_x: see `Held`.
        parts: bool [M,S], whether the balls of each part of x, radii and all, hold each y (by float32); none where no
            parts were given.
    """

    x_in_y: Held | None
    y_in_x: Held | None
    parts: Tensor | None


def meet(x: Tensor, y: Tensor, k: int, *, closed: bool, parts: Tensor | None = None) -> Meeting:
    """How the points of two sets lie in one another's balls.

    Args:
        x: f32 [N,D].
        y: f32 [M,D].
        k: which neighbour's distance is a ball's radius.
        closed: whether a point at exactly the radius (relatively to 1e-12) lies in a ball.
        parts: bool [N,S], parts of x, by halves or so; none: of no interest. Where a part leaves so few of a row's
            nearest that the k-th is not known, the farthest that is counts.

    What is found is kept for as long as x and y live: several metrics ask.

    Raises:
        ValueError: neither set has more than k rows, or features that are not finite.
    """
    versions = [None if s.is_inference() else s._version for s in (x, y)]  # a count of the changes in place
    _kept[:] = [entry for entry in _kept if entry[0]() is not None and entry[1]() is not None]
    for one, other, known, known_parts, found in _kept:
        if one() is not x or other() is not y or known != versions or (k, closed) not in found:
            continue
        if parts is None or (known_parts is not None and parts.equal(known_parts)):
            return found[k, closed]
    if max(len(x), len(y)) <= k:
        raise ValueError(
            f"balls of {k} neighbours among {len(x)} and {len(y)} rows: one set must have more than {k} rows"
        )
    found = _meet(x, y, list(dict.fromkeys([(k, closed), *USUAL])), parts)
    _kept.append((weakref.ref(x), weakref.ref(y), versions, parts, found))
    return found[k, closed]


_kept: list[
    tuple[weakref.ref[Tensor], weakref.ref[Tensor], list[int | None], Tensor | None, dict[tuple[int, bool], Meeting]]
] = []


def ranks_needed(k: int) -> int:
    """Neighbours among which the k-th of a half is, but in 4 of 1,000 rows."""
    return 4 * k + 3


def _meet(x: Tensor, y: Tensor, kinds: list[tuple[int, bool]], parts: Tensor | None) -> dict[tuple[int, bool], Meeting]:
    distances = Distances(x, y if y is not x else y.view_as(y))
    rough = max(ranks_needed(k) for k, _ in kinds) if parts is not None else 0
    of_x, of_y = _Side(x, len(y), kinds, distances.scale, rough), _Side(y, len(x), kinds, distances.scale)
    shares = None if parts is None else _Parts(of_x, len(y), kinds, parts)
    with full_float32():
        for found in distances.blocks(lambda block: _close(block, of_x, of_y)):
            _count(*found, of_x, of_y, shares)
    inside = [{kind: counter.held() for kind, counter in side.counters.items()} for side in (of_y, of_x)]
    held = {} if shares is None else shares.held
    return {kind: Meeting(inside[0].get(kind), inside[1].get(kind), held.get(kind)) for kind in kinds}


class _Side:
    """The balls around the rows of one set, and the other set's points in them."""

    def __init__(self, x: Tensor, points: int, kinds: list[tuple[int, bool]], scale: float, rough: int = 0) -> None:
        """Of the balls, those of kinds that the set is large enough for; `rough`: see `nearest_others`."""
        import torch

        self.counters = {kind: _Counter(points, len(x), x) for kind in kinds if kind[0] < len(x)}
        self.outer = torch.full((len(x),), -float("inf"), dtype=torch.float64, device=x.device)  # squared
        if not self.counters:
            return
        most = max(k for k, _ in self.counters)
        distance, self.index = nearest_others(x, most, max(0, rough - most))
        self.squares = (distance * scale).square()  # f64 [N,C], ascending
        self.outer = self.squares[:, -1]  # of the widest ball

    def radii(self, kind: tuple[int, bool]) -> Tensor:
        """f64 [N], squared."""
        return self.squares[:, kind[0] - 1]


class _Parts:
    """Which y the balls of parts of x hold. A ball's radius is known by its rank among the row's neighbours in x."""

    def __init__(self, of_x: _Side, m: int, kinds: list[tuple[int, bool]], parts: Tensor) -> None:
        import torch

        self.ranks: dict[tuple[int, bool], Tensor] = {}  # i16 [N,S]: 0 in parts that the row is not of
        for kind in of_x.counters:
            ranks = torch.zeros(parts.shape, dtype=torch.int16, device=parts.device)
            for s, part in enumerate(parts.T):
                known = part[of_x.index].cumsum(1)  # i64 [N,C]
                ranks[:, s] = ((known < kind[0]).sum(1).clamp(max=known.shape[1] - 1) + 1) * part
            self.ranks[kind] = ranks
        self.held = {kind: parts.new_zeros((m, parts.shape[1])) for kind in self.ranks}

    def add(self, squares: Tensor, of_x: _Side, i: Tensor, j: Tensor) -> None:
        """Takes in pairs, their squared distances f64 [P] within x's outermost radii, i and j i64 [P]."""
        import torch

        for kind, ranks in self.ranks.items():
            rank = torch.searchsorted(of_x.squares[i], squares[:, None], right=not kind[1]) + 1  # i64 [P,1]
            pair, s = (rank <= ranks[i]).nonzero(as_tuple=True)
            self.held[kind][j[pair], s] = True


class _Counter:
    """Points in balls of one kind, as pairs come in."""

    def __init__(self, points: int, balls: int, like: Tensor) -> None:
        import torch

        self.balls, self.sums, self.count = (
            torch.zeros(size, dtype=torch.int64, device=like.device) for size in (points, points, balls)
        )
        self.members = torch.full((balls, MEMBERS), -1, dtype=torch.int64, device=like.device)

    def add(self, point: Tensor, ball: Tensor) -> None:
        """i64 [P] each."""
        import torch

        self.balls += point.bincount(minlength=len(self.balls))
        self.sums.index_add_(0, point, ball)
        open_ = (self.count < MEMBERS)[ball].nonzero()[:, 0]  # the others' points are not named
        before = self.count.clone()
        self.count += ball.bincount(minlength=len(self.count))
        ball, order = ball[open_].sort(stable=True)
        found = ball.bincount(minlength=len(self.count))
        place = before[ball] + torch.arange(len(ball), device=ball.device) - (found.cumsum(0) - found)[ball]
        named = place < MEMBERS
        self.members[ball[named], place[named]] = point[open_[order[named]]]

    def held(self) -> Held:
        return Held(self.balls, self.count, self.members, self.sums.where(self.balls == 1, self.sums.new_tensor(-1)))


def _close(block: Block, of_x: _Side, of_y: _Side) -> tuple[Tensor, Tensor, Tensor]:
    """A block's pairs that may lie in a ball: i and j, i64 [P]; their squared distances by float64, f64 [P]."""
    outer = of_x.outer[block.rows], of_y.outer[block.columns]  # f64 [A], [B]
    i, j, squares, unsure = _pairs(block, outer, of_x, of_y)
    if len(unsure) > block.squares.numel() // MANY:
        block = block.in_float64()
        i, j, squares, unsure = _pairs(block, outer, of_x, of_y)
    squares[unsure] = block.exact(i[unsure], j[unsure])
    return i + block.rows.start, j + block.columns.start, squares


def _count(i: Tensor, j: Tensor, squares: Tensor, of_x: _Side, of_y: _Side, shares: _Parts | None) -> None:
    """Counts the pairs that lie in a ball."""
    for part in _chunks(i):
        points, near = (i[part], j[part]), squares[part]
        for kind, counter in of_y.counters.items():
            inside = _inside(near, of_y.radii(kind)[points[1]], kind[1])
            counter.add(points[0][inside], points[1][inside])
        for kind, counter in of_x.counters.items():
            inside = _inside(near, of_x.radii(kind)[points[0]], kind[1])
            counter.add(points[1][inside], points[0][inside])
        if shares is not None:
            own = near <= of_x.outer[points[0]]
            shares.add(near[own], of_x, points[0][own], points[1][own])


def _pairs(
    block: Block, outer: tuple[Tensor, Tensor], of_x: _Side, of_y: _Side
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The pairs that may lie in a ball: i and j i64 [P], within the block; f64 [P]; which of them rounding decides."""
    import torch

    limits = [(o + block.widest).to(block.squares.dtype) for o in outer]
    close = block.squares <= limits[0][:, None]
    close |= block.squares <= limits[1][None, :]
    i, j = close.nonzero(as_tuple=True)
    squares = block.squares[i, j].double()
    unsure = []
    for part in _chunks(i):
        margin = block.margin(i[part], j[part])
        near = torch.zeros_like(margin, dtype=torch.bool)
        for side, points, offset in ((of_x, i[part], block.rows.start), (of_y, j[part], block.columns.start)):
            for k in {kind[0] for kind in side.counters}:
                near |= (squares[part] - side.squares[points + offset, k - 1]).abs() <= margin
        unsure.append(near.nonzero()[:, 0] + part.start)
    return i, j, squares, torch.cat(unsure) if unsure else i


def _chunks(pairs: Tensor) -> list[slice]:
    step = room(pairs) * CHUNK
    return [slice(start, start + step) for start in range(0, len(pairs), step)]


def _inside(squares: Tensor, radii: Tensor, closed: bool) -> Tensor:
    """bool [P]: whether points lie in balls of squared radii, f64 [P]."""
    return squares <= radii * (1 + EQUAL) if closed else squares < radii * (1 - EQUAL)
