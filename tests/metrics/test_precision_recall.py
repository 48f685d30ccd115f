"""Precision, recall, density, coverage: by hand, torch-fidelity's and prdc's results, copies, spreads by simulation."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import peers
import pytest
import torch
from golden import Golden, peer
from hypothesis import given, settings
from hypothesis import strategies as st
from options import score_of

from evalkit.metric import Batch, ReferenceMetric, Rows, Score
from evalkit.metrics.precision_recall import Coverage, Density, Precision, Recall

ALL = (Precision, Recall, Density, Coverage)


def rows(x: np.ndarray, metric: ReferenceMetric, start: int = 0) -> Rows:
    features = {metric.needs[0]: torch.from_numpy(np.asarray(x, np.float32))}
    state: Rows = metric.observe(Batch(None, torch.arange(start, start + len(x)), len(x), [None] * len(x), features))
    return state


def score(metric: ReferenceMetric, generated: np.ndarray, reference: np.ndarray) -> Score:
    return metric.score(generated=rows(generated, metric), reference=rows(reference, metric))


def value(kind: Any, generated: np.ndarray, reference: np.ndarray, **options: Any) -> float:
    found = score(kind(**options), generated, reference).value
    assert found is not None
    return found


def normal(n: int, d: int, seed: int, scale: float = 1.0, shift: float = 0.0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal((n, d)) * scale + shift).astype(np.float32)


def test_by_hand() -> None:
    """Reference 0, 1, 3 on a line: radii of the nearest other are 1, 1, 2. Generated 1.5, 2, 9: radii .5, .5, 7.

    1.5 lies in the balls of 1 and 3; 2 in that of 3, and on the edge of that of 1; 9 in none. The balls of 1 and 3 hold
    some, that of 0 none. Of the reference, 1 lies on the edge of the ball of 1.5, and 3 in that of 9, from 2 to 16.
    """
    reference, generated = np.array([[0.0], [1.0], [3.0]]), np.array([[1.5], [2.0], [9.0]])
    assert value(Precision, generated, reference, k=1) == pytest.approx(2 / 3)
    assert value(Density, generated, reference, k=1) == pytest.approx((2 + 1 + 0) / 3)
    assert value(Density, generated, reference, k=1, closed=True) == pytest.approx((2 + 2 + 0) / 3)
    assert value(Coverage, generated, reference, k=1) == pytest.approx(2 / 3)
    assert value(Recall, generated, reference, k=1) == pytest.approx(2 / 3)
    assert value(Recall, generated, reference, k=1, closed=False) == pytest.approx(1 / 3)


def test_influence_by_hand() -> None:
    """The case above: without 1.5 the ball of 1 holds none (N-1 = 2 of M = 3); the ball of 3 holds two.

    Of the jackknife's squares, (2/3)^2 + 2 (1/3)^2 = 2/3, and of pairs, 1, is 0.4 = (2/3) / (2/3 + 1).
    """
    reference, generated = np.array([[0.0], [1.0], [3.0]]), np.array([[1.5], [2.0], [9.0]])
    assert score(Precision(k=1), generated, reference).influence == (1.0, 1.0, 0.0)
    assert score(Density(k=1), generated, reference).influence == (2.0, 1.0, 0.0)
    coverage = score(Coverage(k=1), generated, reference)
    assert coverage.influence == pytest.approx((2 / 3 * 0.4**0.5, 0, 0))
    assert coverage.stderr == pytest.approx(0.4**0.5 * np.std([2 / 3, 0, 0], ddof=1) / 3**0.5)


@pytest.mark.parametrize(("n", "m", "d"), [(1200, 1200, 64), (300, 500, 8), (100, 60, 2)])
def test_equals_torch_fidelity(n: int, m: int, d: int) -> None:
    from torch_fidelity.metric_prc import prc_features_to_metric

    generated, reference = normal(n, d, 1, 0.9, 0.1), normal(m, d, 2)
    theirs = prc_features_to_metric(torch.from_numpy(generated), torch.from_numpy(reference), verbose=False)
    assert value(Precision, generated, reference) == pytest.approx(theirs["precision"], abs=1e-6)
    assert value(Recall, generated, reference) == pytest.approx(theirs["recall"], abs=1e-6)


@pytest.mark.parametrize(("n", "m", "d", "scale"), [(200, 150, 16, 0.8), (90, 220, 3, 1.2), (150, 150, 300, 1.0)])
def test_equals_the_formulas_of_prdc(n: int, m: int, d: int, scale: float) -> None:
    generated, reference = normal(n, d, 3, scale, 0.2), normal(m, d, 4)
    expected = peers.prdc(reference, generated, 5)
    for kind in ALL:
        found = value(kind, generated, reference, k=5, closed=False)
        assert found == pytest.approx(expected[kind.title], abs=1e-12)


def test_golden(golden: Golden) -> None:
    """The options as they are, against the packages on the same features."""
    from torch_fidelity.metric_prc import prc_features_to_metric

    generated, reference = normal(1200, 64, 30, 1.05, 0.1), normal(1000, 64, 31)
    theirs = prc_features_to_metric(torch.from_numpy(generated), torch.from_numpy(reference), verbose=False)
    for name in ("precision", "recall"):
        found = score_of(name, generated, reference=reference).value
        golden(name, found, theirs[name], abs=1e-6, source=f"{peer('torch-fidelity')}, the same features")
    package = pytest.importorskip("prdc", reason="prdc is not installed")
    theirs = package.compute_prdc(real_features=reference, fake_features=generated, nearest_k=5)
    for name in ("density", "coverage"):
        found = score_of(name, generated, reference=reference).value
        golden(name, found, theirs[name], abs=1e-6, source=f"{peer('prdc')}, the same features")


# N(0, I) against N(0, I) in 1000 dimensions, k = 5, open balls: one draw of 10,000 in prdc's README; with 3000, what
# prdc 0.2 gave. The tolerance is three standard deviations of the difference of two draws: of 3000 seen in 12, and so
# many times smaller with more draws as the root of their number is greater.
README = {"precision": 0.4772, "recall": 0.4705, "density": 1.0555, "coverage": 0.9735}
SMALLER = {"precision": 0.556, "recall": 0.542, "density": 1.053, "coverage": 0.975}
SPREAD = {"precision": 0.05, "recall": 0.057, "density": 0.38, "coverage": 0.036}


@pytest.mark.slow  # by default the package itself says what it gives on fewer and shorter features, see above
@pytest.mark.parametrize("n", [3000, 10_000])
def test_golden_values_of_prdc(n: int, golden: Golden) -> None:
    generated, reference = normal(n, 1000, 5), normal(n, 1000, 6)
    source = f"prdc's {'README' if n > 3000 else 'code'}: N(0, I), another draw of {n:,} x 1000"
    for name, expected in (README if n > 3000 else SMALLER).items():
        found = score_of(name, generated, {"k": 5, "closed": False}, reference=reference).value
        golden(name, found, expected, abs=SPREAD[name] * (3000 / n) ** 0.5, source=source)


def test_a_copied_set() -> None:
    """Density is 1 with open balls and (k+1)/k with closed ones, exactly: ties are decided in float64."""
    x = normal(400, 100, 7, shift=4.0)
    copy = x[np.random.default_rng(8).permutation(400)]
    assert value(Density, copy, x, k=5) == 1.0
    assert value(Density, copy, x, k=5, closed=True) == pytest.approx(6 / 5, rel=1e-12)
    assert value(Precision, copy, x) == value(Recall, copy, x) == value(Coverage, copy, x) == 1.0


def test_sides() -> None:
    """A collapsed generator is precise and recalls little; one that is too wide the other way round."""
    reference = normal(500, 8, 9)
    narrow, wide = normal(500, 8, 10, scale=0.3), normal(500, 8, 11, scale=2.0)
    assert value(Precision, narrow, reference) > 0.95
    assert value(Recall, narrow, reference) < 0.2
    assert value(Precision, wide, reference) < 0.2
    assert value(Recall, wide, reference) > 0.9
    assert value(Coverage, normal(500, 8, 12, 0.01), reference) < 0.1


@pytest.mark.parametrize(
    ("kind", "low", "high"), [(Precision, 0.75, 1.3), (Density, 0.75, 1.3), (Coverage, 0.75, 1.3), (Recall, 0.75, 1.3)]
)
def test_standard_error_against_simulation(kind: Any, low: float, high: float) -> None:
    """Other samples, the same reference; of 60 draws the spread is good to a tenth."""
    reference = normal(300, 8, 13)
    metric = kind()
    scores = [score(metric, normal(300, 8, 100 + i, 0.9, 0.1), reference) for i in range(60)]
    spread = np.std([s.value for s in scores], ddof=1)
    stated = np.mean([s.stderr for s in scores])
    assert low < stated / spread < high


def test_coverage_of_samples_that_all_have_copies() -> None:
    """Without one of them nothing is lost; the bootstrap of the 500 rows spreads by 0.012."""
    g = torch.Generator().manual_seed(0)
    x, y = (torch.randn(n, 6, generator=g).numpy() for n in (250, 600))
    plain, copied = score(Coverage(), x, y), score(Coverage(), np.tile(x, (2, 1)), y)
    assert plain.stderr == pytest.approx(0.022, rel=0.1)
    assert copied.value == plain.value
    assert copied.stderr == pytest.approx(0.012, rel=0.2)
    assert copied.influence is not None
    assert np.std(copied.influence, ddof=1) / 500**0.5 == pytest.approx(copied.stderr)


@pytest.mark.parametrize("gap", [1e3, 1e4])
def test_tight_clusters_far_from_one_another(gap: float) -> None:
    """prdc's formulas in float64: float32 candidates gave density 16 for 0.98, precision 1 for 0.93."""
    rng = np.random.default_rng(0)
    x, y = (rng.standard_normal((400, 8)) + gap * (2 * rng.integers(2, size=(400, 1)) - 1) for _ in range(2))
    x, y = x.astype(np.float32), y.astype(np.float32)
    expected = peers.prdc(y, x, 5)
    assert 0.9 < expected["density"] < 1.1
    for kind in ALL:
        assert value(kind, x, y, k=5, closed=False) == pytest.approx(expected[kind.title], abs=1e-12)


def test_one_bimodal_feature() -> None:
    rng = np.random.default_rng(1)
    x, y = (rng.standard_normal((400, 64)).astype(np.float32) for _ in range(2))
    x[:, 0], y[:, 0] = (3e3 * (2 * rng.integers(2, size=400) - 1) for _ in range(2))
    assert value(Density, x, y) == pytest.approx(peers.prdc(y, x, 5)["density"], abs=1e-12)


def test_too_few_samples_for_recalls_standard_error() -> None:
    found = score(Recall(), normal(59, 4, 14), normal(80, 4, 15))
    assert found.stderr is None
    assert found.note == "no standard error: N = 59 is below 60"
    assert score(Recall(), normal(60, 4, 14), normal(80, 4, 15)).stderr is not None


def test_smallest_sets() -> None:
    for kind in ALL:
        metric = kind(k=3)
        n, m = metric.min_samples, metric.min_reference
        assert 0 <= (score(metric, normal(n, 4, 16), normal(m, 4, 17)).value or 0) < 10


def test_the_reference_is_not_confused_with_another() -> None:
    """Radii are kept from cell to cell: another reference must not meet the radii of the one before."""
    generated, one, other = normal(100, 4, 18), normal(100, 4, 19), normal(100, 4, 20, scale=0.2)
    metric = Precision()
    first, second = score(metric, generated, one).value, score(metric, generated, other).value
    assert first != second
    assert second == value(Precision, generated, other)
    assert score(metric, generated, one).value == first


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(1, 39), max_size=4), st.randoms(use_true_random=False), st.sampled_from(ALL))
def test_merges_in_any_order(cuts: list[int], rng: object, kind: Any) -> None:
    generated, reference = normal(40, 5, 21), normal(50, 5, 22)
    metric = kind()
    parts = [rows(generated[i:j], metric, i) for i, j in pairwise(sorted({0, 40, *cuts}))]
    rng.shuffle(parts)  # type: ignore[attr-defined]
    merged = parts[0]
    for part in parts[1:]:
        merged = merged + part
    other = rows(reference, metric)
    whole = metric.score(generated=rows(generated, metric), reference=other)
    assert metric.score(generated=merged, reference=other) == whole


def test_contract() -> None:
    metric = Precision(features="digits/features")
    assert metric.needs == ("digits/features",)
    assert (metric.min_samples, metric.min_reference) == (2, 4)
    assert metric.constants() == {
        "estimator": "share of generated samples in the reference's balls",
        "k": 3,
        "comparison": "<=",
    }
    recall = Recall(k=7)
    assert (recall.min_samples, recall.min_reference) == (8, 2)
    assert Density().constants()["comparison"] == "<"
    with pytest.raises(ValueError, match="k=0"):
        Coverage(k=0)
