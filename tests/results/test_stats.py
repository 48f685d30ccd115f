"""Differences, intervals, and Holm's correction, by hand and against SciPy."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from evalkit.metric import by_cluster
from evalkit.results.stats import Estimate, difference, holm, interval, stderr_of_mean, two_sided


def test_paired_by_hand() -> None:
    found = difference((3.0, 9.0), (2.0, 9.0), [[1.0, 2.0, 3.0, 6.0], [0.0, 1.0, 2.0, 1.0]])
    # The differences 1, 1, 1, 5 have variance 4, so the standard error is sqrt(4 / 4).
    assert (found.value, found.stderr, found.paired) == (1.0, 1.0, True)
    assert found.low == pytest.approx(1 - 3.182446, abs=1e-6)  # t(0.975, 3)
    assert found.high == pytest.approx(1 + 3.182446, abs=1e-6)
    assert found.p == pytest.approx(0.3910022, abs=1e-6)


def test_independent_scores_add_their_variances() -> None:
    found = difference((10.0, 3.0), (4.0, 4.0))
    assert (found.value, found.stderr, found.paired) == (6.0, 5.0, False)


def test_without_a_standard_error_there_is_only_the_difference() -> None:
    found = difference((10.0, None), (4.0, 1.0))
    assert (found.value, found.stderr, found.low, found.p) == (6.0, None, None, None)


def test_pairing_takes_away_what_both_share() -> None:
    rng = np.random.default_rng(0)
    common = rng.normal(0, 10, 400)
    a, b = common + rng.normal(0.5, 1, 400), common + rng.normal(0, 1, 400)
    alone = difference((a.mean(), a.std() / 20), (b.mean(), b.std() / 20))
    paired = difference((a.mean(), a.std() / 20), (b.mean(), b.std() / 20), [a.tolist(), b.tolist()])
    assert paired.stderr is not None
    assert alone.stderr is not None
    assert paired.stderr < 0.15 * alone.stderr
    assert paired.p == pytest.approx(scipy_stats.ttest_rel(a, b).pvalue, rel=1e-6)


def test_without_any_spread_nothing_is_certain() -> None:
    """Two samples of 1 against two of 0 come about by chance in 1 of 3 cases; all of two differ alike in 1 of 2."""
    assert difference((1.0, 1.0), (1.0, 1.0), [[1.0, 2.0], [1.0, 2.0]]).p == 1.0
    found = difference((1.0, 0.0), (0.0, 0.0), [[1.0, 1.0], [0.0, 0.0]])
    assert found.p == pytest.approx(scipy_stats.fisher_exact([[2, 0], [0, 2]]).pvalue) == pytest.approx(1 / 3)
    assert (found.low, found.high) == (None, None)
    unpaired = difference((1.0, 0.0), (0.0, 0.0), counts=(4, 6))
    assert unpaired.p == pytest.approx(scipy_stats.fisher_exact([[4, 0], [0, 6]]).pvalue)
    shift = difference((2.0, 1.0), (1.0, 1.0), [[2.0, 3.0], [1.0, 2.0]])
    assert shift.p == pytest.approx(scipy_stats.binomtest(2, 2).pvalue)
    many = difference((2.0, 1.0), (1.0, 1.0), [[i + 1.1 for i in range(40)], [i + 0.1 for i in range(40)]])
    assert many.p == pytest.approx(scipy_stats.binomtest(40, 40).pvalue)
    assert two_sided(1.959964, 1.0) == pytest.approx(0.05, abs=1e-6)


def test_holm_by_hand() -> None:
    assert holm([0.01, None, 0.04, 0.03]) == [pytest.approx(0.03), None, pytest.approx(0.06), pytest.approx(0.06)]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1, allow_subnormal=False), min_size=1, max_size=12))
def test_holm_properties(ps: list[float]) -> None:
    adjusted = holm(ps)
    assert all(a is not None and p <= a <= 1 for a, p in zip(adjusted, ps, strict=True))
    assert adjusted[ps.index(min(ps))] == pytest.approx(min(1.0, min(ps) * len(ps)))
    order = sorted(range(len(ps)), key=lambda i: ps[i])
    assert all(adjusted[i] <= adjusted[j] for i, j in itertools.pairwise(order))  # type: ignore[operator]
    assert not any(math.isnan(a) for a in adjusted if a is not None)


@pytest.mark.parametrize(("ones", "n"), [(0, 40), (1, 40), (99, 100), (100, 100), (300, 560)])
def test_the_interval_of_a_share_is_wilsons(ones: int, n: int) -> None:
    each = [1.0] * ones + [0.0] * (n - ones)
    share = Estimate(ones / n, stderr_of_mean(each), n, each)
    expected = scipy_stats.binomtest(ones, n).proportion_ci(method="wilson")
    assert interval(share) == pytest.approx((expected.low, expected.high), abs=1e-9)
    if ones:  # of zeros alone nothing tells a share from a percentage
        percent = Estimate(100 * ones / n, 0.0, n, [100 * x for x in each])
        assert interval(percent) == pytest.approx((100 * expected.low, 100 * expected.high), abs=1e-7)


def test_a_share_over_prompts_rests_on_as_many_samples_as_its_error_says() -> None:
    """Four equal samples of each of 25 prompts are no more than 25; where all agree, too."""
    each = [float(i // 4 < 20) for i in range(100)]
    ids = [i // 4 for i in range(100)]
    clustered = Estimate(0.8, stderr_of_mean(by_cluster(each, ids).tolist()), 100, each, ids)
    found, alone = interval(clustered), scipy_stats.binomtest(20, 25).proportion_ci(method="wilson")
    assert found is not None
    assert found == pytest.approx((alone.low, alone.high), abs=0.02)  # here t of 24 degrees, there the normal
    certain = interval(Estimate(1.0, 0.0, 100, [1.0] * 100, ids))
    assert certain is not None
    assert certain[0] == pytest.approx(25 / (25 + scipy_stats.t.ppf(0.975, 24) ** 2))
