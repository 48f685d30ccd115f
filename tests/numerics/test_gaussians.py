"""Scatter matrices that merge without cancelling, and what single samples are to the root term."""

from __future__ import annotations

from functools import reduce
from operator import add

import numpy as np
import pytest
import torch

from evalkit.numerics.gaussians import Scatter, Seen, moments, scatter_of


@pytest.mark.parametrize(("mean", "sd"), [(0.0, 1.0), (1e4, 0.01), (3e4, 0.008), (-1e6, 1.0)])
def test_the_scatter_does_not_cancel(mean: float, sd: float) -> None:
    rng = np.random.default_rng(0)
    x = (mean + sd * rng.standard_normal((300, 5))).astype(np.float32)
    parts = [scatter_of(torch.from_numpy(part)) for part in np.split(x, [1, 2, 90, 200])]
    exact = np.cov(x.astype(np.longdouble) - np.longdouble(mean), rowvar=False)
    for order in ([0, 1, 2, 3, 4], [4, 2, 0, 3, 1]):
        merged = reduce(add, (parts[i] for i in order))
        assert isinstance(merged, Scatter)
        found, cov = moments(merged)
        np.testing.assert_allclose(cov, exact.astype(np.float64), rtol=1e-9, atol=1e-9 * exact.max())
        np.testing.assert_allclose(found, x.astype(np.float64).mean(0), rtol=1e-12)


@pytest.mark.parametrize("rank", [6, 4])
def test_without_single_samples(rank: int) -> None:
    """Against the root term of the covariance that is left; one sample alone spans a direction."""
    rng = np.random.default_rng(1)
    x = rng.standard_normal((20, 6)) ** 3 * np.logspace(0, -3, 6)
    x[:, 2] = 0
    x[7, 2] = 5
    y = x - x.mean(0)
    cov2 = np.cov(rng.standard_normal((rank + 1 if rank < 6 else 50, 6)), rowvar=False)

    def root(cov1: np.ndarray) -> float:
        values = np.sort(np.linalg.eigvals(cov1 @ cov2).real)[-rank:]  # the others are 0, but for rounding
        return float(np.sqrt(values.clip(0)).sum())

    cov1 = y.T @ y / 19
    seen = Seen.of(torch.from_numpy(cov1.copy()), torch.from_numpy(cov2.copy()), rank)
    slope, change = seen.without(torch.from_numpy(y), 1 / 19)
    exact = [root(cov1 - np.outer(row, row) / 19) - root(cov1) for row in y]
    np.testing.assert_allclose(change, exact, atol=1e-5 * root(cov1))
    assert float(seen.values.sqrt().sum()) == pytest.approx(root(cov1), rel=1e-8)  # `root` of rounding: 1e-9
    assert float(slope.sum()) / 19 == pytest.approx(root(cov1), rel=1e-6)  # Tr(T S1)
    step = 1e-3
    sides = [[root(cov1 + sign * step * np.outer(row, row)) for sign in (1, -1)] for row in y[:7]]
    np.testing.assert_allclose(slope[:7] / 2, [(up - down) / (2 * step) for up, down in sides], rtol=1e-2)
