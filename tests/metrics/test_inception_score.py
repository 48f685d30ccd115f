"""Inception Score: cases by hand, torch-fidelity's results, merging in any order."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evalkit.metric import Batch, Rows
from evalkit.metrics.inception_score import InceptionScore

ADDRESS = "inception/logits_unbiased"


def batch(logits: np.ndarray, start: int = 0, total: int | None = None) -> Batch:
    x = torch.from_numpy(np.asarray(logits, np.float32))
    n = len(x)
    return Batch(None, torch.arange(start, start + n), total or n, [None] * n, {ADDRESS: x})


def random_logits(n: int, classes: int = 12, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal((n, classes)) * 3).astype(np.float32)


def test_no_information_is_one() -> None:
    metric = InceptionScore()
    score = metric.score(generated=metric.observe(batch(np.zeros((30, 7)))))
    assert score.value == pytest.approx(1.0, abs=1e-12)
    assert score.details["std"] == pytest.approx(0.0, abs=1e-12)


def test_certain_and_balanced_is_the_number_of_classes() -> None:
    metric = InceptionScore(splits=1)
    logits = np.eye(5)[np.arange(40) % 5] * 1000
    assert metric.score(generated=metric.observe(batch(logits))).value == pytest.approx(5.0, rel=1e-12)


def test_by_hand() -> None:
    """p = (3/4, 1/4) and (1/4, 3/4): the marginal is even, KL = 3/4 ln 3/2 + 1/4 ln 1/2 for both."""
    metric = InceptionScore(splits=1)
    logits = np.log(np.array([[0.75, 0.25], [0.25, 0.75]]))
    expected = np.exp(0.75 * np.log(1.5) + 0.25 * np.log(0.5))
    assert metric.score(generated=metric.observe(batch(logits))).value == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("n", [10, 11, 47, 500])
def test_equals_torch_fidelity(n: int) -> None:
    from torch_fidelity.metric_isc import isc_features_to_metric

    logits = random_logits(n)
    metric = InceptionScore()
    score = metric.score(generated=metric.observe(batch(logits)))
    theirs = isc_features_to_metric(torch.from_numpy(logits))
    assert score.value == pytest.approx(theirs["inception_score_mean"], rel=1e-12)
    assert score.details["std"] == pytest.approx(theirs["inception_score_std"], rel=1e-9, abs=1e-12)
    assert score.n == n


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 39), max_size=5), st.randoms(use_true_random=False))
def test_merges_in_any_order_to_the_same_bits(cuts: list[int], rng: object) -> None:
    logits = random_logits(40)
    metric = InceptionScore()
    edges = sorted({0, 40, *cuts})
    parts = [metric.observe(batch(logits[i:j], i, 40)) for i, j in pairwise(edges)]
    rng.shuffle(parts)  # type: ignore[attr-defined]
    merged: Rows = parts[0]
    for part in parts[1:]:
        merged = merged + part
    assert metric.score(generated=merged) == metric.score(generated=metric.observe(batch(logits)))


def test_contract() -> None:
    metric = InceptionScore(features="digits/logits", splits=4)
    assert metric.min_samples == 4
    assert metric.needs == ("digits/logits",)
    assert metric.constants() == {"estimator": "inception score", "splits": 4, "shuffle": "RandomState(2020)"}
