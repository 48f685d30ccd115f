"""Agreement and kappa: a published example, scikit-learn, the spread over draws; exact bounds by their meaning."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evalkit.numerics.agreement import agreement, confusion, kappa
from evalkit.numerics.binomial import clopper_pearson


def items(table: list[list[int]]) -> tuple[list[int], list[int]]:
    """Two raters' classes of items that make such a table."""
    cells = [(i, j) for i, row in enumerate(table) for j, count in enumerate(row) for _ in range(count)]
    return [i for i, _ in cells], [j for _, j in cells]


def test_published_example() -> None:
    # Fleiss, Statistical Methods for Rates and Proportions (1981), table 13.1: kappa 0.676, standard error 0.088
    first, second = items([[75, 1, 4], [5, 4, 1], [0, 0, 10]])
    found = kappa(first, second, 3)
    assert found is not None
    assert found.value == pytest.approx(0.676, abs=5e-4)
    assert found.low is not None
    assert found.high is not None
    assert (found.high - found.low) / 2 / 1.96 == pytest.approx(0.088, abs=1e-3)
    assert agreement([i == j for i, j in zip(first, second, strict=True)]).value == 0.89


def test_by_hand() -> None:
    # 20 yes/yes, 5 yes/no, 10 no/yes, 15 no/no: 0.7 seen, 0.5 by chance
    first, second = items([[20, 5], [10, 15]])
    assert confusion(first, second, 2).tolist() == [[20, 5], [10, 15]]
    found = kappa(first, second, 2)
    assert found is not None
    assert found.value == pytest.approx(0.4)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=2, max_size=60))
def test_equals_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    sklearn = pytest.importorskip("sklearn.metrics")
    first, second = (list(side) for side in zip(*pairs, strict=True))
    for weights in ("none", "quadratic"):
        found = kappa(first, second, 4, weights)
        if found is None:
            assert len({*first, *second}) == 1
            continue
        peer = sklearn.cohen_kappa_score(first, second, labels=range(4), weights=weights.replace("none", "") or None)
        assert found.value == pytest.approx(peer, abs=1e-9)


def test_error_is_the_spread_over_draws() -> None:
    rng = np.random.default_rng(0)
    values, reach = [], []
    for _ in range(600):
        truth = rng.integers(0, 5, 150)
        judged = np.clip(truth + rng.integers(-1, 2, 150), 0, 4)
        found = kappa(truth.tolist(), judged.tolist(), 5, "quadratic")
        assert found is not None
        assert found.low is not None
        values.append(found.value)
        reach.append(found.value - found.low)
    assert np.mean(reach) / 1.96 == pytest.approx(np.std(values, ddof=1), rel=0.1)


def test_items_of_one_image_count_as_one() -> None:
    first, second = items([[20, 5], [10, 15]])
    thrice = [c for c in range(50) for _ in range(3)]
    once = kappa(first, second, 2)
    tripled = kappa([i for i in first for _ in range(3)], [j for j in second for _ in range(3)], 2, "none", thrice)
    assert once is not None
    assert tripled is not None
    assert (tripled.low, tripled.high) == pytest.approx((once.low, once.high))
    same = [i == j for i, j in zip(first, second, strict=True)]
    wide, alone = agreement([each for each in same for _ in range(3)], thrice), agreement(same)
    assert wide.low == pytest.approx(alone.low, abs=0.01)
    assert agreement([True] * 6, [0, 0, 0, 1, 1, 1]).low == pytest.approx(agreement([True] * 2).low)


def test_one_class_alone_has_no_kappa_and_perfect_agreement_no_interval() -> None:
    assert kappa([1, 1], [1, 1], 2) is None
    found = kappa([0, 1, 1], [0, 1, 1], 2)
    assert found is not None
    assert (found.value, found.low) == (1.0, None)
    assert agreement([True] * 30).low == pytest.approx(0.025 ** (1 / 30))


@pytest.mark.parametrize(("count", "n"), [(0, 10), (3, 10), (10, 10)])
def test_exact_bounds_by_their_meaning(count: int, n: int) -> None:
    from scipy.stats import binom

    low, high = clopper_pearson(count, n)
    if count:
        assert 1 - binom.cdf(count - 1, n, low) == pytest.approx(0.025)
    if count < n:
        assert binom.cdf(count, n, high) == pytest.approx(0.025)
    assert (low == 0) == (count == 0)
    assert (high == 1) == (count == n)
