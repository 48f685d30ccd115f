"""Inception Score: cases by hand, torch-fidelity's results, merging in any order."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import peers
import pytest
import torch
from golden import Golden, peer
from hypothesis import given, settings
from hypothesis import strategies as st
from options import score_of

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


@pytest.mark.parametrize("n", [10, 11, 47])
def test_equals_torch_fidelity(n: int) -> None:
    from torch_fidelity.metric_isc import isc_features_to_metric

    logits = random_logits(n)
    metric = InceptionScore()
    score = metric.score(generated=metric.observe(batch(logits)))
    theirs = isc_features_to_metric(torch.from_numpy(logits))
    assert score.value == pytest.approx(theirs["inception_score_mean"], rel=1e-12)
    assert score.details["std"] == pytest.approx(theirs["inception_score_std"], rel=1e-9, abs=1e-12)
    assert score.n == n


def test_golden(golden: Golden) -> None:
    """Both options on many logits; of 12,000, ADM's has splits of 5000, 5000 and 2000."""
    from torch_fidelity.metric_isc import isc_features_to_metric

    logits = random_logits(500)
    found, theirs = score_of("is", logits), isc_features_to_metric(torch.from_numpy(logits))
    source = f"{peer('torch-fidelity')}, the same logits"
    golden("is", found.value, theirs["inception_score_mean"], rel=1e-12, source=source)
    golden("is, std", found.details["std"], theirs["inception_score_std"], rel=1e-9, source=source)
    logits = random_logits(12_000)
    expected, source = peers.inception_score_adm(logits, 5000), "ADM's code written out, the same logits"
    golden("is_adm", score_of("is_adm", logits).value, expected, rel=1e-9, source=source)


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
    assert metric.min_samples == 2
    assert metric.needs == ("digits/logits",)
    assert metric.constants() == {"estimator": "inception score", "splits": 4, "shuffle": "RandomState(2020)"}
    adm = InceptionScore(split_size=5000, shuffle=False)
    assert adm.constants() == {"estimator": "inception score", "split_size": 5000, "shuffle": None}
    assert adm.min_samples == 2
    for wrong in ({"splits": 0}, {"split_size": 1}):
        with pytest.raises(ValueError, match="give 1 split or more, of 2 samples or more"):
            InceptionScore(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(("n", "size"), [(60, 20), (47, 20), (30, 5000)])
def test_equals_adm(n: int, size: int) -> None:
    logits = random_logits(n, classes=6)
    metric = InceptionScore(split_size=size, shuffle=False)
    score = metric.score(generated=metric.observe(batch(logits)))
    assert score.value == pytest.approx(peers.inception_score_adm(logits, size), rel=1e-9)
    assert score.details["splits"] == -(-n // size)


def test_a_class_that_no_sample_has() -> None:
    metric = InceptionScore(splits=1)
    logits = np.eye(5)[np.arange(40) % 4] * 1000
    assert metric.score(generated=metric.observe(batch(logits))).value == pytest.approx(4.0, rel=1e-12)


@pytest.mark.parametrize("row", [[0.3, 1.7, -2.0], [1000.0, 0.0, -1000.0], [0.1] * 10, [-3.3, 8.25, 1e-3, 7.7]])
@pytest.mark.parametrize("n", [7, 30, 333])
def test_equal_predictions_give_exactly_1(row: list[float], n: int) -> None:
    """Rounding gave 0.9999999999999999, less than the least that there is."""
    metric = InceptionScore(splits=2)
    score = metric.score(generated=metric.observe(batch(np.tile(row, (n, 1)))))
    assert (score.value, score.details["std"]) == (1.0, 0.0)


@pytest.mark.parametrize(("n", "splits"), [(2, 1), (5, 2), (9, 4), (10, 10), (11, 10)])
def test_fewer_samples_than_splits(n: int, splits: int) -> None:
    """torch-fidelity's splits are empty there, and its score is NaN."""
    metric = InceptionScore()
    score = metric.score(generated=metric.observe(batch(random_logits(n, classes=3))))
    assert score.value is not None
    assert 1 <= score.value <= 3
    assert score.details["splits"] == splits


def test_influence_is_the_derivative() -> None:
    """More of one sample moves the score by its influence: compared with copies of it in the set."""
    logits = random_logits(300, classes=4)
    metric = InceptionScore(splits=1, shuffle=False)
    score = metric.score(generated=metric.observe(batch(logits)))
    assert score.value is not None
    assert score.influence is not None
    for i in (0, 7, 99):
        many = np.concatenate([np.repeat(logits, 100, axis=0), np.repeat(logits[i : i + 1], 30, axis=0)])
        more = metric.score(generated=metric.observe(batch(many)))
        assert more.value is not None
        share = 30 / (300 * 100 + 30)  # of sample i, beyond its own
        assert (more.value - score.value) / share == pytest.approx(score.influence[i], rel=0.01, abs=0.005)


def test_influence_is_in_the_order_of_the_samples() -> None:
    """The shuffle is undone: with one split it plays no part."""
    logits = random_logits(60, classes=4)
    shuffled, plain = (InceptionScore(splits=1, shuffle=shuffle) for shuffle in (True, False))
    found = [metric.score(generated=metric.observe(batch(logits))) for metric in (shuffled, plain)]
    assert found[0].influence == pytest.approx(found[1].influence, rel=1e-9)
    assert found[0].stderr == pytest.approx(found[1].stderr, rel=1e-9)


@pytest.mark.parametrize(("n", "splits"), [(300, 1), (500, 10)])
def test_standard_error_by_simulation(n: int, splits: int) -> None:
    """Over 100 draws the stated error is 0.7 to 1.4 of the true spread."""
    rng = np.random.default_rng(1)
    metric = InceptionScore(splits=splits)
    found = []
    for _ in range(100):
        logits = rng.standard_normal((n, 10))
        logits[np.arange(n), rng.choice(10, n, p=np.arange(1, 11) / 55)] += np.abs(rng.standard_normal(n)) * 5
        found.append(metric.score(generated=metric.observe(batch(logits))))
    assert all(score.stderr is not None for score in found)
    stated = np.mean([score.stderr for score in found if score.stderr is not None])
    assert 0.7 < stated / np.std([score.value for score in found], ddof=1) < 1.4


def test_no_standard_error_with_more_classes_than_samples() -> None:
    metric = InceptionScore()
    score = metric.score(generated=metric.observe(batch(random_logits(50, classes=40))))
    assert score.value is not None
    assert score.stderr is None
    assert score.influence is None
    assert score.note is not None
    assert "fewer samples than classes" in score.note
