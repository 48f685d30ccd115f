"""Statistics of pairs' values: by hand, against numpy, and refused names."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalkit.numerics.statistics import NAMES, parse, statistic

VALUES = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=300)


def test_by_hand() -> None:
    values = [3.0, 1.0, 2.0, 10.0]
    assert [statistic(name, values) for name in ("mean", "median", "min", "max")] == [4.0, 2.5, 1.0, 10.0]
    assert statistic("p1", values) == pytest.approx(1.03)
    assert statistic("p99", values) == pytest.approx(9.79)
    assert (statistic("share_above(2)", values), statistic("share_below( 2.0 )", values)) == (0.5, 0.25)


@given(VALUES)
def test_equals_numpy(values: list[float]) -> None:
    for name, percent in (("median", 50), ("p1", 1), ("p99", 99), ("min", 0), ("max", 100)):
        assert statistic(name, values) == pytest.approx(float(np.percentile(values, percent)), rel=1e-9, abs=1e-6)


@given(VALUES, st.floats(-1e6, 1e6))
def test_ordered_and_complementary(values: list[float], threshold: float) -> None:
    found = [statistic(name, values) for name in ("min", "p1", "median", "p99", "max")]
    assert all(a <= b or math.isclose(a, b) for a, b in itertools.pairwise(found))
    beyond = [statistic(f"{share}({threshold!r})", values) for share in ("share_above", "share_below")]
    assert sum(beyond) == pytest.approx(1 - values.count(threshold) / len(values))


def test_infinite_values_give_no_nan() -> None:
    values = [1.0] + [math.inf] * 4
    assert [statistic(name, values) for name in ("min", "median", "p99", "max")] == [1.0, math.inf, math.inf, math.inf]


@pytest.mark.parametrize("name", ["p5", "share_above", "share_above()", "share_above(x)", "share_below(nan)", ""])
def test_refused_in_one_line(name: str) -> None:
    with pytest.raises(ValueError, match=r"share_above\(|share_below\(|no statistic"):
        parse(name)


def test_values_that_are_none() -> None:
    with pytest.raises(ValueError, match="no values"):
        statistic("mean", [])
    with pytest.raises(ValueError, match="1 of 2 values are NaN"):
        statistic("mean", [1.0, math.nan])


def test_names_come_back() -> None:
    for name in NAMES:
        assert str(parse(name.replace("T", "30"))) == name.replace("T", "30")
