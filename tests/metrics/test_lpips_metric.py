"""LPIPS between pairs and the diversity made of it: by hand, on given features."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from evalkit.metric import Batch
from evalkit.metrics.lpips import Lpips, LpipsDiversity


def batch(phi: Tensor) -> Batch:
    n = len(phi)
    return Batch(torch.zeros(n, 3, 4, 4).byte(), torch.arange(n), n, ["a text"] * n, {"lpips_alex/phi": phi})


def test_by_hand() -> None:
    """(3, 4) apart: 25; equal rows: 0."""
    first, second = torch.tensor([[3.0, 4.0], [1.0, 1.0]]), torch.tensor([[0.0, 0.0], [1.0, 1.0]])
    found = Lpips().distance(batch(first), batch(second))
    assert found.dtype == torch.float64
    assert found.tolist() == [25.0, 0.0]


def test_summed_in_float64() -> None:
    """A million small differences: a float32 sum, one by one, would stop growing."""
    n = 1_000_000
    found = LpipsDiversity().distance(batch(torch.full((1, n), 1e-3)), batch(torch.zeros(1, n)))
    assert float(found) == pytest.approx(1.0, rel=1e-6)


def test_contract() -> None:
    assert (Lpips().pairs, Lpips().better, Lpips().title) == ("baseline", "lower", "LPIPS")
    diversity = LpipsDiversity(max_pairs=7, seed=3)
    assert (diversity.pairs, diversity.better, diversity.title) == ("prompt", "higher", "LPIPS diversity")
    assert (diversity.max_pairs, diversity.seed) == (7, 3)
    assert LpipsDiversity(features="lpips_vgg/phi").needs == ("lpips_vgg/phi",)
