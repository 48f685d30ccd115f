"""MIND: torch-fidelity's values, a shift's closed form, which samples move it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from golden import Golden
from options import metric_of, score_of
from scipy.stats import wasserstein_distance

from evalkit.errors import ConfigError
from evalkit.metrics.mind import transport

SOURCE = "torch-fidelity a51aa64 (newer than 0.4.0), run beforehand, features"


def normal(n: int, d: int, seed: int, shift: float = 0.0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal((n, d)) + shift).astype(np.float32)


def test_golden(golden: Golden) -> None:
    for n, m, expected in ((300, 300, 6.9890894), (350, 260, 7.7926492), (260, 350, 7.8007511)):
        found = score_of("mind", normal(n, 24, 1, 0.3), reference=normal(m, 24, 2))
        golden("mind", found.value, expected, rel=1e-6, source=SOURCE)
        assert found.n == n


def test_a_shift_in_closed_form() -> None:
    """Of two Gaussians a shift of s apart in all D dimensions it is 3 D s^2, and twice the sets' sampling error."""
    x = normal(800, 16, 3)
    found = score_of("mind", x + 1.0, reference=x)
    assert found.value == pytest.approx(3 * 16, rel=0.02)  # over directions: (u.1)^2 has mean 1
    assert score_of("mind", x, reference=x).value == 0


def test_a_lines_transport() -> None:
    """By SciPy's quantiles; the potential's change is what the distance changes by when a sample is moved."""
    a, b = (torch.from_numpy(normal(200, 1, seed)) for seed in (4, 5))
    distance, potential = transport(a, b * 1.5)
    ranks = (np.sort(a.numpy(), 0) - np.sort(1.5 * b.numpy(), 0)).astype(np.float64)
    assert float(distance) == pytest.approx(float(np.square(ranks).mean()), rel=1e-6)
    assert float(distance) ** 0.5 >= wasserstein_distance(a[:, 0].numpy(), 1.5 * b[:, 0].numpy())
    assert float(potential.mean()) == pytest.approx(0, abs=1e-9)
    weights = np.ones(200)
    weights[7] += 0.05  # a sample that counts a little more: quantiles of the weighted set
    grid = (np.arange(200_000) + 0.5) / 200_000
    order = np.argsort(a[:, 0].numpy())
    heavier = a[order, 0].numpy()[np.searchsorted(np.cumsum(weights[order]) / weights.sum(), grid)]
    other = np.sort(1.5 * b[:, 0].numpy())[(grid * 200).astype(int)]
    changed = float(np.square((heavier - other).astype(np.float64)).mean())
    assert changed - float(distance) == pytest.approx(float(potential[7]) * 0.05 / weights.sum(), rel=0.1)


def test_the_standard_error_is_that_of_redrawing() -> None:
    y = normal(300, 8, 6)
    found = [score_of("mind", normal(300, 8, 100 + i, 0.4), {"directions": 32}, None, reference=y) for i in range(60)]
    spread = np.std([score.value for score in found], ddof=1)
    assert np.mean([score.stderr for score in found]) == pytest.approx(spread, rel=0.3)


def test_options() -> None:
    with pytest.raises(ConfigError, match="directions=0: must be 1 or more"):
        metric_of("mind", directions=0)
