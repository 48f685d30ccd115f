"""Frechet distance: a case by hand, SciPy's and torch-fidelity's results, degenerate sets, merging in any order."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evalkit.metric import Batch, Sums, standard_error, widest_of
from evalkit.metrics.fid_infinity import FrechetInfinity
from evalkit.metrics.frechet import FrechetDistance
from evalkit.numerics.gaussians import moments, root_trace

ADDRESS = "inception/pool3"


def batch(features: np.ndarray, start: int = 0, total: int | None = None) -> Batch:
    x = torch.from_numpy(np.asarray(features, np.float32))
    n = len(x)
    return Batch(None, torch.arange(start, start + n), total or n, [None] * n, {ADDRESS: x})


def distance(a: np.ndarray, b: np.ndarray) -> float:
    metric = FrechetDistance()
    value = metric.score(generated=metric.observe(batch(a)), reference=metric.observe(batch(b))).value
    assert value is not None
    return value


def normal(n: int, d: int, seed: int, scale: float = 1.0, shift: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    mix = np.random.default_rng(99).standard_normal((d, d)) / d**0.5
    return (rng.standard_normal((n, d)) @ mix * scale + shift).astype(np.float32)


def torch_fidelity(a: np.ndarray, b: np.ndarray) -> float:
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

    stats = [fid_features_to_statistics(torch.from_numpy(x)) for x in (a, b)]
    return float(fid_statistics_to_metric(*stats, verbose=False)["frechet_inception_distance"])


def test_by_hand() -> None:
    """One dimension: {0, 2} has mean 1, variance 2; {1, 5} has mean 3, variance 8. (1-3)^2 + 2 + 8 - 2*4 = 6."""
    assert distance(np.array([[0.0], [2.0]]), np.array([[1.0], [5.0]])) == pytest.approx(6.0, rel=1e-12)


def test_by_hand_two_dimensions() -> None:
    """Independent axes add: x as in the case before, y with equal moments on both sides."""
    a = np.array([[0.0, 0.0], [2.0, 0.0], [0.0, 1.0], [2.0, 1.0]])
    b = np.array([[1.0, 0.0], [5.0, 0.0], [1.0, 1.0], [5.0, 1.0]])
    v1, v2 = 4 / 3, 16 / 3  # ddof=1, N=4
    assert distance(a, b) == pytest.approx(4 + v1 + v2 - 2 * (v1 * v2) ** 0.5, rel=1e-12)


@pytest.mark.parametrize(("n", "m", "d"), [(400, 300, 32), (500, 500, 64), (40, 60, 8)])
def test_equals_scipy_and_torch_fidelity(n: int, m: int, d: int) -> None:
    from scipy.linalg import sqrtm

    a, b = normal(n, d, 1), normal(m, d, 2, scale=1.3, shift=0.2)
    root = np.trace(sqrtm(np.cov(a, rowvar=False) @ np.cov(b, rowvar=False)).real)
    covariances = [torch.from_numpy(np.cov(x, rowvar=False)) for x in (a, b)]
    mine = float(root_trace(*covariances, n - 1, m - 1))
    assert mine == pytest.approx(root, rel=1e-9)
    assert distance(a, b) == pytest.approx(torch_fidelity(a, b), rel=1e-6)


@pytest.mark.parametrize(("n", "m"), [(12, 12), (12, 200), (200, 12), (2, 3)])
def test_fewer_samples_than_dimensions(n: int, m: int) -> None:
    """Singular covariances: still torch-fidelity's value."""
    a, b = normal(n, 64, 3), normal(m, 64, 4, scale=0.8, shift=0.1)
    assert distance(a, b) == pytest.approx(torch_fidelity(a, b), rel=1e-5)


@pytest.mark.parametrize(("n", "m"), [(30, 40), (40, 30), (30, 500)])
def test_singular_covariances_give_the_exact_value(n: int, m: int) -> None:
    """Tr((S1 S2)^(1/2)) is the sum of singular values of A B', with A and B the centred rows over sqrt(N-1)."""
    a, b = normal(n, 200, 13), normal(m, 200, 14, scale=1.01)
    rows = [(x - x.mean(0, dtype=np.float64)) / (len(x) - 1) ** 0.5 for x in (a, b)]
    root = np.linalg.svd(rows[0] @ rows[1].T, compute_uv=False).sum()
    shift = np.square(a.mean(0, dtype=np.float64) - b.mean(0, dtype=np.float64)).sum()
    exact = shift + np.square(rows[0]).sum() + np.square(rows[1]).sum() - 2 * root
    assert distance(a, b) == pytest.approx(exact, rel=1e-7)


@pytest.mark.parametrize(("n", "m"), [(150, 150), (150, 1000), (1000, 150), (201, 201)])
def test_a_steep_spectrum_is_exact_too(n: int, m: int) -> None:
    """Variances from 1 to 1e-14, as of real features: the roots of small eigenvalues count, rounding does not."""
    fall = np.logspace(0, -7, 200)
    mix = np.linalg.qr(np.random.default_rng(98).standard_normal((200, 200)))[0]
    a, b = (np.random.default_rng(seed).standard_normal((k, 200)) * fall @ mix for seed, k in ((15, n), (16, m)))
    rows = [(x - x.mean(0)) / (len(x) - 1) ** 0.5 for x in (a, b)]
    exact = np.linalg.svd(rows[0] @ rows[1].T, compute_uv=False).sum()
    covariances = [torch.from_numpy(x.T @ x) for x in rows]
    by_columns = [x.T.contiguous().T for x in covariances]  # as a published .npz may hold them
    assert float(root_trace(*covariances, n - 1, m - 1)) == pytest.approx(exact, rel=1e-11)
    assert float(root_trace(*by_columns, n - 1, m - 1)) == pytest.approx(exact, rel=1e-11)


def test_dead_dimensions() -> None:
    """A feature that is always zero (a dead ReLU) makes the covariance singular at any N."""
    a, b = normal(300, 16, 5), normal(300, 16, 6, scale=1.2)
    a[:, 3] = b[:, 3] = b[:, 7] = 0
    assert distance(a, b) == pytest.approx(torch_fidelity(a, b), rel=1e-6)
    constant = np.zeros_like(a)
    trace = float(np.trace(np.cov(a, rowvar=False)) + np.square(a.mean(0, dtype=np.float64)).sum())
    assert distance(a, constant) == pytest.approx(trace, rel=1e-6)


@pytest.mark.parametrize("n", [20, 500])
def test_identical_sets(n: int) -> None:
    a = normal(n, 48, 7)
    assert 0 <= distance(a, a) < 1e-6


def test_symmetric() -> None:
    a, b = normal(100, 24, 8), normal(90, 24, 9, scale=2)
    assert distance(a, b) == pytest.approx(distance(b, a), rel=1e-9)


def test_moments() -> None:
    a = normal(50, 6, 10, shift=30.0)
    mean, cov = moments(FrechetDistance().observe(batch(a)))
    np.testing.assert_allclose(mean, a.mean(0, dtype=np.float64), rtol=1e-12)
    np.testing.assert_allclose(cov, np.cov(a.astype(np.float64), rowvar=False), rtol=1e-9, atol=1e-9)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 39), max_size=5), st.randoms(use_true_random=False))
def test_merges_in_any_order(cuts: list[int], rng: object) -> None:
    a, b = normal(40, 5, 11), normal(40, 5, 12)
    metric = FrechetDistance()
    edges = sorted({0, 40, *cuts})
    parts = [metric.observe(batch(a[i:j], i, 40)) for i, j in pairwise(edges)]
    rng.shuffle(parts)  # type: ignore[attr-defined]
    merged: Sums = parts[0]
    for part in parts[1:]:
        merged = merged + part
    whole = metric.score(generated=metric.observe(batch(a)), reference=metric.observe(batch(b))).value
    assert metric.score(generated=merged, reference=metric.observe(batch(b))).value == pytest.approx(whole, rel=1e-9)


def test_contract() -> None:
    metric = FrechetDistance(features="digits/features")
    assert metric.needs == ("digits/features",)
    assert metric.better == "lower"
    assert metric.constants()["ddof"] == 1


@pytest.mark.parametrize("kind", [FrechetDistance, FrechetInfinity])
def test_the_title_is_the_options_or_the_subclass_own(kind: type[FrechetDistance] | type[FrechetInfinity]) -> None:
    class Named(kind):  # type: ignore[misc, valid-type]
        title = "of the subclass"

    assert kind().title == kind(title=None).title == kind.title
    assert [kind(title="sFID").title, Named(title="sFID").title] == ["sFID"] * 2
    assert Named().title == "of the subclass"


@pytest.mark.parametrize(("mean", "sd", "expected"), [(1e4, 0.01, 8.876e-4), (3e4, 0.008, 5.608e-4)])
def test_features_far_from_zero(mean: float, sd: float, expected: float) -> None:
    """Two passes over the features (`FrechetInfinity`) give the value too; `expected` is one draw's, by its size."""
    rng = np.random.default_rng(0)
    a, b = ((mean + sd * rng.standard_normal((2000, 8))).astype(np.float32) for _ in range(2))
    moved = [x.astype(np.float64) - mean for x in (a, b)]
    covariances = [torch.from_numpy(np.cov(x, rowvar=False)) for x in moved]
    gap = np.square(moved[0].mean(0) - moved[1].mean(0)).sum() + float(sum(c.trace() for c in covariances))
    exact = gap - 2 * float(root_trace(*covariances, 1999, 1999))
    assert distance(a, b) == pytest.approx(exact, rel=1e-6)


@pytest.mark.parametrize("ddof", [0, 1])
def test_influences_are_what_the_score_loses_without_a_sample(ddof: int) -> None:
    x, y = normal(36, 16, 20) ** 3, normal(300, 16, 21)
    metric = FrechetDistance(ddof=ddof)
    reference = metric.observe(batch(y))

    def value(rows: np.ndarray) -> float:
        found = metric.score(generated=metric.observe(batch(rows)), reference=reference).value
        assert found is not None
        return found

    lost = [35 * (value(x) - value(np.delete(x, i, axis=0))) for i in range(36)]
    influence = metric.influence(generated=metric.observe(batch(x)), reference=reference)
    assert callable(influence)
    parts = torch.cat([influence(batch(x[:10])), influence(batch(x[10:]))])  # f64 [36,2]
    np.testing.assert_allclose(parts[:, 0], lost, atol=1e-5 * np.abs(lost).max())
    assert widest_of(parts).tolist() == max(parts.unbind(1), key=lambda each: float(each.std())).tolist()


@pytest.mark.parametrize(("n", "d"), [(192, 64), pytest.param(256, 64, marks=pytest.mark.slow)])
def test_errors_of_heavy_tails(n: int, d: int) -> None:
    """Sparse features, of kurtosis 10 to 250: the slope alone covers 80 to 90 %."""
    rng = np.random.default_rng(4)
    threshold = np.linspace(0, 1.8, d)
    mix = np.eye(d) + 0.5 * rng.standard_normal((d, d)) / d**0.5
    mix /= np.linalg.norm(mix, axis=0)

    def features(size: int, scale: float) -> np.ndarray:
        active = np.maximum(scale * rng.standard_normal((size, d)) @ mix - threshold, 0)
        return np.asarray(active**1.3 * np.exp(threshold / 2) + 0.02 * rng.standard_normal((size, d)))

    metric = FrechetDistance()
    reference = metric.observe(batch(features(5000, 1.0)))
    found = []
    for _ in range(400):
        x = batch(features(n, 0.9))
        state = metric.observe(x)
        influence = metric.influence(generated=state, reference=reference)
        assert callable(influence)
        each = influence(x)  # f64 [N,2]
        value = metric.score(generated=state, reference=reference).value
        found.append((value, *(standard_error(v) for v in (widest_of(each), each[:, 1]))))
    values, errors, slopes = np.asarray(found).T
    off = np.abs(values - values.mean())
    assert 0.93 <= (off <= 1.96 * errors).mean() <= 0.99
    assert 0.95 <= errors.mean() / values.std() <= 1.25
    assert (off <= 1.96 * slopes).mean() < 0.93, "the slope would have done"
