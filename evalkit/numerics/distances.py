"""Squared distances between two sets of features, in blocks: never an N x M matrix, and never a wrong comparison.

They come from `|x|^2 + |y|^2 - 2 x.y`, a float32 matrix product, after a common mean is taken off: it errs by at most
27 eps of |x|^2 + |y|^2 (measured up to D = 8192, and along one axis that outweighs all others). Where that could change
an answer (which neighbour is the k-th, which side of a radius a point lies on) the distance is computed again in
float64, from the features' differences; where that is so of many pairs of a block (tight clusters far from one
another), its product is made again in float64 first.

Features are enlarged or reduced by a power of two, exactly, so that no square overflows or vanishes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar

from evalkit.numerics.blockwise import finite_mean, room, row_blocks
from evalkit.numerics.threads import in_parallel

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Result = TypeVar("Result")

PAIR_BYTES = 2**21  # of differences in float64: what stays in a core's cache
ROUNDING = 64  # in eps of |x|^2 + |y|^2: nearer to a radius than this, a distance is computed again
MANY = 64  # beyond one pair in so many, a product in float64 costs less than the pairs one by one


class Distances:
    """Of the rows of x, f32 [N,D], to those of y, f32 [M,D], squared and times `scale` squared.

    Raises:
        ValueError: features that are not finite.
    """

    def __init__(self, x: Tensor, y: Tensor, dtype: torch.dtype | None = None) -> None:
        import torch

        self.x, self.y, self.dtype = x, y, dtype or torch.float32
        centre = finite_mean(x)  # f64 [D]
        self.centre = centre if y is x else (centre + finite_mean(y)) / 2
        ends = [end for side in {id(x): x, id(y): y}.values() for end in torch.aminmax(side)]
        largest = max(abs(float(end)) for end in ends)
        self.scale = 2.0 ** -torch.tensor(largest).frexp().exponent.item() if not 1e-9 < largest < 1e9 else 1.0
        self.unsure = ROUNDING * torch.finfo(self.dtype).eps

    def rows(self, side: Tensor, part: slice) -> tuple[Tensor, Tensor]:
        """Some rows of x or y less the centre, scaled, [B,D], and their squared norms, [B]."""
        import torch

        rows = side[part].to(self.dtype)
        rows = torch.add((-self.centre * self.scale).to(self.dtype), rows, alpha=self.scale)
        return rows, torch.linalg.vector_norm(rows, dim=1).square_()

    def blocks(self, function: Callable[[Block], Result]) -> Iterator[Result]:
        """The function of each block, in order, several at once; where y is x, of those on and above the diagonal."""
        on_cpu, square = self.x.device.type == "cpu", self.x is self.y

        def every() -> Iterator[tuple[slice, tuple[Tensor, Tensor], slice]]:
            columns = row_blocks(self.y)
            for part in row_blocks(self.x):
                a = self.rows(self.x, part)
                yield from ((part, a, other) for other in columns if not square or other.start >= part.start)

        def block(at: tuple[slice, tuple[Tensor, Tensor], slice]) -> Result:
            part, a, other = at
            b = a if square and other == part else self.rows(self.y, other)
            return function(Block(self, part, other, _squares(a, b), (a[1], b[1])))

        return in_parallel(block, every()) if on_cpu else map(block, every())

    def exact(self, i: Tensor, j: Tensor) -> Tensor:
        """f64 [P], of the pairs (x[i], y[j]), from their differences; of equal rows, each kind once."""
        import torch

        if len(i) > 16 * (len(self.x) + len(self.y)):
            of_x, of_y = self._kinds
            kinds, place = torch.unique(of_x[i] * len(of_y) + of_y[j], return_inverse=True)
            first = torch.empty_like(kinds)
            first[place] = torch.arange(len(i), device=i.device)  # any pair of each kind
            if len(kinds) < len(i) // 2:
                return self._differences(i[first], j[first])[place]
        return self._differences(i, j)

    def _differences(self, i: Tensor, j: Tensor) -> Tensor:
        import torch

        step = max(1, room(self.x) * PAIR_BYTES // (8 * max(self.x.shape[1], 1)))
        squares = torch.empty(len(i), dtype=torch.float64, device=self.x.device)

        def some(start: int) -> None:
            part = slice(start, start + step)
            gaps = self.y.index_select(0, j[part]).double().sub_(self.x.index_select(0, i[part]).double())
            squares[part] = torch.linalg.vector_norm(gaps, dim=1)

        starts = range(0, len(i), step)
        for _ in in_parallel(some, starts) if self.x.device.type == "cpu" else map(some, starts):
            pass
        return squares.mul_(self.scale).square_()

    @cached_property
    def _kinds(self) -> tuple[Tensor, Tensor]:
        """Which rows are equal: numbers i64 [N] and [M], below N + M, by two hashes of 64 bits."""
        import torch

        generator = torch.Generator().manual_seed(0)
        factors = torch.randint(-(2**62), 2**62, (2, self.x.shape[1]), generator=generator).to(self.x.device) * 2 + 1
        parts = [part for side in (self.x, self.y) for part in torch.split(side, 256)]
        bits = ((part.float() + 0.0).view(torch.int32).long() for part in parts)  # -0.0 is 0.0
        hashes = torch.cat([torch.stack([(b * factor).sum(1) for factor in factors], 1) for b in bits])  # i64 [N+M,2]
        kinds = torch.unique(hashes, dim=0, return_inverse=True)[1]
        return kinds[: len(self.x)], kinds[len(self.x) :]


@dataclass(frozen=True)
class Block:
    """One block of squared distances from rows of x to rows of y, and what it takes to compute some of them again."""

    of: Distances
    rows: slice
    columns: slice
    squares: Tensor  # f32 (or f64) [A,B]
    norms: tuple[Tensor, Tensor]  # squared, f32 (or f64) [A] and [B]

    def margin(self, i: Tensor, j: Tensor) -> Tensor:
        """f64 [P], how much the distances of these pairs may be off."""
        margin: Tensor = self.of.unsure * (self.norms[0][i].double() + self.norms[1][j])
        return margin

    @property
    def widest(self) -> float:
        """The largest margin of all."""
        return self.of.unsure * float(self.norms[0].max() + self.norms[1].max())

    def exact(self, i: Tensor, j: Tensor) -> Tensor:
        """f64 [P]: those of these pairs once more, in float64."""
        return self.of.exact(i + self.rows.start, j + self.columns.start)

    def in_float64(self) -> Block:
        import torch

        finer = Distances.__new__(Distances)
        finer.__dict__ |= self.of.__dict__ | {
            "dtype": torch.float64,
            "unsure": ROUNDING * torch.finfo(torch.float64).eps,
        }
        a, b = finer.rows(self.of.x, self.rows), finer.rows(self.of.y, self.columns)
        return Block(finer, self.rows, self.columns, _squares(a, b), (a[1], b[1]))


def _squares(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> Tensor:
    """Squared distances [A,B] of two centred blocks."""
    import torch

    return torch.addmm(b[1][None, :], a[0], b[0].T, alpha=-2).add_(a[1][:, None]).clamp_(min=0)
