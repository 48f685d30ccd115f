"""Vendi Score: the README's golden values, by hand, the n x n definition, collapse, spread by simulation."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import peers
import pytest
import torch
from golden import Golden
from hypothesis import given, settings
from hypothesis import strategies as st
from options import score_of

from evalkit.metric import Batch, Rows, Score
from evalkit.metrics.vendi import Vendi, similarities, vendi_of


def rows(x: np.ndarray, start: int = 0) -> Rows:
    features = {"inception/pool3": torch.from_numpy(np.asarray(x, np.float32))}
    return Vendi().observe(Batch(None, torch.arange(start, start + len(x)), len(x), [None] * len(x), features))


def score(x: np.ndarray, order: float = 1.0) -> Score:
    return Vendi(order=order).score(generated=rows(x))


def value(x: np.ndarray, order: float = 1.0) -> float:
    found = score(x, order).value
    assert found is not None
    return found


def normal(n: int, d: int, seed: int, shift: float = 0.0) -> np.ndarray:
    scales = np.linspace(1, 0.2, d)
    return ((np.random.default_rng(seed).standard_normal((n, d)) + shift) * scales).astype(np.float32)


def of_kernel(k: np.ndarray) -> float:
    return vendi_of(torch.linalg.eigvalsh(torch.from_numpy(k) / len(k)), 1.0)


def test_golden_values_of_the_readme(golden: Golden) -> None:
    """With its kernel exp(-|a - b|) on 0, 0, 10, 10, 20, 20, where it cuts digits off; and its matrix of three."""
    samples = np.array([0.0, 0, 10, 10, 20, 20])
    found = of_kernel(np.exp(-np.abs(samples[:, None] - samples)))
    golden("vendi, of a kernel", found, 2.9999, abs=1e-4, source="Vendi-Score's README: 0, 0, 10, 10, 20, 20")
    matrix = np.array([[1.0, 0.9, 0.0], [0.9, 1.0, 0.0], [0.0, 0.0, 1.0]])
    golden("vendi, of a kernel", of_kernel(matrix), 2.1573, abs=5e-5, source="Vendi-Score's README: a matrix of three")


def test_golden(golden: Golden) -> None:
    x = normal(80, 10, 8, 0.3)
    source = "the definition by the N x N matrix in float64, Gaussian features"
    golden("vendi", score_of("vendi", x).value, peers.vendi(x), rel=1e-9, source=source)


@pytest.mark.parametrize("order", [0.0, 0.5, 1.0, 2.0, math.inf])
def test_by_hand(order: float) -> None:
    """Four directions at right angles, each as often: 4 of any order. Lengths play no part; copies add nothing."""
    x = np.repeat(np.eye(4) * [[1], [2], [3], [40]], 5, axis=0)
    assert value(x, order) == pytest.approx(4, rel=1e-6)
    assert value(np.tile([[1.0, 2.0, 3.0]], (30, 1)), order) == pytest.approx(1, rel=1e-6)


def test_orders_by_hand() -> None:
    """Two directions, 3 to 1: eigenvalues 3/4 and 1/4."""
    x = np.eye(2)[[0, 0, 0, 1] * 3]
    entropy = 0.75 * math.log(4 / 3) + 0.25 * math.log(4)
    assert value(x) == pytest.approx(math.exp(entropy), rel=1e-6)
    assert value(x, 0.5) == pytest.approx((math.sqrt(0.75) + math.sqrt(0.25)) ** 2, rel=1e-6)
    assert value(x, 2.0) == pytest.approx(1 / (9 / 16 + 1 / 16), rel=1e-6)
    assert value(x, math.inf) == pytest.approx(4 / 3, rel=1e-6)
    assert value(x, 0.0) == pytest.approx(2, rel=1e-6)
    assert value(x, 1.001) == pytest.approx(value(x), rel=1e-3)


@pytest.mark.parametrize("order", [0.3, 1.0, 2.0, math.inf])
@pytest.mark.parametrize(("n", "d"), [(80, 10), (15, 10), (10, 10), (10, 80)])
def test_both_matrices_equal_the_definition(n: int, d: int, order: float) -> None:
    """The n x n matrix of float64 cosines, whichever is used."""
    x = normal(n, d, 1, 0.3)
    assert value(x, order) == pytest.approx(peers.vendi(x, order), rel=1e-9)
    assert similarities(torch.from_numpy(x)).shape == (min(n, d),) * 2


def test_collapse_is_seen() -> None:
    diverse = normal(300, 20, 2)
    collapsed = diverse[np.arange(300) % 3] + normal(300, 20, 3) * np.float32(0.01)
    assert value(collapsed) < 3.2
    assert value(diverse) > 3 * value(collapsed)


@pytest.mark.parametrize("order", [0.5, 1.0, 2.0, math.inf])
def test_standard_error_against_simulation(order: float) -> None:
    scores = [score(normal(200, 16, 100 + i, 0.5), order) for i in range(100)]
    spread = np.std([s.value for s in scores], ddof=1)
    assert 0.8 < np.mean([s.stderr for s in scores]) / spread < 1.25


def test_influences_are_what_the_score_loses_without_a_sample() -> None:
    x = normal(40, 9, 20) ** 3
    x[5] = 0
    lost = [39 * (value(x) - value(np.delete(x, i, axis=0))) for i in range(40)]
    np.testing.assert_allclose(score(x).influence, lost, atol=1e-5 * np.abs(lost).max())


def test_errors_of_heavy_tails() -> None:
    """Sparse features at n = 2 d: the slope alone has 0.8 of the true spread."""
    rng = np.random.default_rng(21)
    threshold = np.linspace(0, 1.5, 24)
    scores = [score(np.maximum(rng.standard_normal((48, 24)) - threshold, 0.0) + 0.01) for _ in range(400)]
    values, errors = np.asarray([(s.value, s.stderr) for s in scores]).T
    assert 0.93 <= (np.abs(values - values.mean()) <= 1.96 * errors).mean() <= 0.985
    assert 0.93 <= errors.mean() / values.std() <= 1.2


def test_too_few_samples_for_a_standard_error() -> None:
    found = score(normal(31, 16, 4))
    assert found.stderr is None
    assert found.note == "no standard error: N = 31 is below 2 d = 32"
    assert score(normal(32, 16, 4)).stderr is not None
    assert score(normal(64, 16, 4), order=0).note == "no standard error: a rank has none"


def test_empty_features_do_no_harm() -> None:
    x = normal(50, 8, 5)
    x[3] = 0
    found = score(x)
    assert found.value is not None
    assert math.isfinite(found.value)
    assert 1 < found.value < 8


@settings(max_examples=20, deadline=None)
@given(n=st.integers(2, 40), d=st.integers(1, 40), order=st.sampled_from([0.0, 0.5, 1.0, 2.0, math.inf]))
def test_between_one_and_the_number_of_samples(n: int, d: int, order: float) -> None:
    found = value(normal(n, d, n * 41 + d), order)
    assert 1 - 1e-6 <= found <= min(n, d) + 1e-6


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(1, 39), max_size=4), st.randoms(use_true_random=False))
def test_merges_in_any_order(cuts: list[int], rng: object) -> None:
    x = normal(40, 5, 6)
    parts = [rows(x[i:j], i) for i, j in pairwise(sorted({0, 40, *cuts}))]
    rng.shuffle(parts)  # type: ignore[attr-defined]
    merged = parts[0]
    for part in parts[1:]:
        merged = merged + part
    assert Vendi().score(generated=merged) == score(x)


def test_contract() -> None:
    metric = Vendi(features="digits/features", order=math.inf)
    assert metric.needs == ("digits/features",)
    assert metric.title == "Vendi q=inf"
    assert Vendi().title == "Vendi"
    assert metric.constants() == {
        "estimator": "exp of Renyi entropy of eigenvalues",
        "order": "inf",
        "kernel": "cosine",
    }
    with pytest.raises(ValueError, match="order=-1"):
        Vendi(order=-1)
