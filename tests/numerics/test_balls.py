"""Points in one another's balls: float64 brute force, ties, parts, what is kept, and many equal images."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from evalkit.numerics import balls, blockwise, distances
from evalkit.numerics.balls import Held, meet


def features(n: int, d: int, seed: int, gap: float = 0.0) -> Tensor:
    """Two clusters, `gap` to either side of 0."""
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=g) + (2 * torch.randint(2, (n, 1), generator=g) - 1) * gap


def brute(x: Tensor, y: Tensor) -> Tensor:
    """Distances f64 [N,M], from differences."""
    return (x.double()[:, None] - y.double()[None]).square().sum(2).sqrt()


def radii_of(x: Tensor, k: int) -> Tensor:
    return brute(x, x).fill_diagonal_(float("inf")).topk(k, largest=False).values[:, -1]


def check(held: Held | None, inside: Tensor) -> None:
    """`inside`: bool [points, balls]."""
    assert held is not None
    assert torch.equal(held.balls, inside.sum(1))
    assert torch.equal(held.count, inside.sum(0))
    alone = inside.sum(1) == 1
    assert torch.equal(held.only, inside.float().argmax(1).where(alone, torch.tensor(-1)))
    for found, row in zip(held.members.tolist(), inside.T, strict=True):
        named, true = {i for i in found if i >= 0}, set(row.nonzero()[:, 0].tolist())
        assert named <= true
        assert len(named) == min(balls.MEMBERS, len(true))


@pytest.mark.parametrize("size", [16 * 2**20, 3000])
@pytest.mark.parametrize("gap", [0.0, 1e4, 1e6])
@pytest.mark.parametrize(("k", "closed"), [(3, True), (5, False), (2, True), (9, False)])
def test_equals_brute_force(monkeypatch: pytest.MonkeyPatch, size: int, gap: float, k: int, closed: bool) -> None:
    monkeypatch.setattr(blockwise, "BLOCK_BYTES", size)
    x, y = features(90, 8, 1, gap), features(70, 8, 2, gap)
    y[:20] = x[10:30]  # distances that are exactly 0
    parts = torch.rand(90, 4, generator=torch.Generator().manual_seed(3)) < 0.5
    found, d, edge = meet(x, y, k, closed=closed, parts=parts), brute(x, y), 1 + (1e-12 if closed else -1e-12)
    check(found.x_in_y, d < radii_of(y, k) * edge)
    check(found.y_in_x, (d < radii_of(x, k)[:, None] * edge).T)
    assert found.parts is not None
    for s, part in enumerate(parts.T):
        held = (d[part] < radii_of(x[part], k)[:, None] * edge).any(0)
        assert int((held != found.parts[:, s]).sum()) <= 1  # by float32, and of known neighbours alone


def test_ties_at_the_radius_are_decided_in_float64() -> None:
    """A copied set: each radius is a distance of the other set, and in float32 products it may fall on either side."""
    x = features(200, 48, 8) + 5
    order = torch.randperm(200, generator=torch.Generator().manual_seed(1))
    for closed, expected in ((False, 5), (True, 6)):
        held = meet(x[order].clone(), x, 5, closed=closed).x_in_y
        assert held is not None
        assert held.count.tolist() == [expected] * 200


def test_kept_while_the_sets_live_and_only_of_those() -> None:
    x, y, other = features(60, 5, 4), features(60, 5, 5), features(60, 5, 6)
    first = meet(x, y, 3, closed=True)
    assert meet(x, y, 3, closed=True) is first
    assert meet(x, y, 5, closed=False) is not first
    assert meet(x, other, 3, closed=True) is not first
    assert meet(x, y, 3, closed=True, parts=torch.ones(60, 2).bool()) is not first
    y.mul_(2)  # changed in place: what was kept is another set's
    assert meet(x, y, 3, closed=True) is not first
    before = len(balls._kept)
    del x, other
    meet(y, features(20, 5, 7), 2, closed=True)
    assert len(balls._kept) < before


def test_a_set_too_small_has_no_balls() -> None:
    found = meet(features(2, 3, 8), features(30, 3, 9), 3, closed=True)
    assert found.y_in_x is None
    assert found.x_in_y is not None
    with pytest.raises(ValueError, match="more than 3 rows"):
        meet(features(2, 3, 8), features(3, 3, 9), 3, closed=True)


def test_images_that_both_sets_share_many_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of each set is one picture, all its radii 0: pairs grow with N squared, those made again do not."""
    made = []
    plain = distances.Distances._differences
    monkeypatch.setattr(
        distances.Distances, "_differences", lambda self, i, j: made.append(len(i)) or plain(self, i, j)
    )
    for n in (400, 800):
        x, y = features(n, 16, 10), features(n, 16, 11)
        x[: n // 2] = y[: n // 2] = torch.linspace(-1, 1, 16)
        made.clear()
        found = meet(x, y, 3, closed=True)
        assert sum(made) < 60 * n
        check(found.x_in_y, brute(x, y) < radii_of(y, 3) * (1 + 1e-12) + 1e-300)
