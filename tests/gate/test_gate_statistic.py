"""Rules on statistics of a metric's values per sample: which there are, their bounds, and what counts as a fact."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from gate_fakes import CELLS, DAY, judged, row, table
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from evalkit.errors import ConfigError
from evalkit.gate import Result, judge, make_gates
from evalkit.gate.statistic import in_words, statistic_bounds
from evalkit.metrics.frechet import FrechetDistance
from evalkit.metrics.lpips import Lpips
from evalkit.metrics.psnr import Psnr
from evalkit.numerics.statistics import parse

METRICS: dict[str, Any] = {"psnr": Psnr(), "fid": FrechetDistance(features="x/y"), "within": Lpips(pairs="prompt")}
VALUES = [30.0 + i / 10 for i in range(200)]


def result(rule: dict[str, Any], values: list[float], **more: Any) -> Result:
    """The verdict on cell b; cell a is the run's baseline."""
    gates = make_gates({"g": {"rules": [{"metric": "psnr", "where": {"model": "b"}, **rule}]}}, CELLS, METRICS)
    finite = [value for value in values if math.isfinite(value)]
    score = row("b", "psnr", float(np.mean(finite)), 0.1, len(values), "higher")
    return judged(gates, score, influences={("b", "psnr"): values}, **more).results[0]


def test_one_bad_image_in_200_fails_the_minimum_and_not_the_mean() -> None:
    good, bad = VALUES, [*VALUES[:137], 12.5, *VALUES[138:]]
    rule = {"statistic": "min", "min": 25}
    assert result(rule, good).status == "pass"
    failed = result(rule, bad)
    assert (failed.status, failed.value, failed.counted, failed.bound) == ("fail", 12.5, True, None)
    assert failed.rule == "smallest psnr min 25"
    assert failed.reason == "12.5, that of sample 137; 1 of 200 are beyond the limit; the limit is 25"
    assert result({"min": 35}, bad).status == "pass"
    assert result({"statistic": "max", "max": 49.9}, bad).status == "pass"
    assert result({"statistic": "max", "max": 49.8}, bad).status == "fail"


def test_a_percentile_is_held_against_an_ordered_value() -> None:
    """Of 200 values the median lies between the 88th and the 113th, one-sided at 95 % each; the 1st percentile may lie
    anywhere below the smallest."""
    passed = result({"statistic": "median", "min": 38.7}, VALUES)
    assert (passed.status, passed.bound, passed.value) == ("pass", VALUES[87], pytest.approx(39.95))
    assert result({"statistic": "median", "max": 41.2}, VALUES).bound == VALUES[112]
    assert result({"statistic": "median", "min": 41.3}, VALUES).status == "fail"
    unsure = result({"statistic": "median", "min": 39.5}, VALUES)
    assert (unsure.status, unsure.bound) == ("inconclusive", VALUES[87])
    few = result({"statistic": "p1", "min": 20}, VALUES)
    assert (few.status, few.bound, few.needed_n) == ("inconclusive", None, 300)
    assert "200 values are too few to bound it on that side; the limit is 20; about 300 samples" in few.reason
    assert result({"statistic": "p1", "min": 29}, [*VALUES, *VALUES]).status == "pass"
    assert result({"statistic": "p1", "min": 40}, VALUES).status == "fail"


def test_a_share_beyond_a_threshold_has_the_binomial_bound() -> None:
    passed = result({"statistic": "share_below(25)", "max": 0.02}, VALUES)
    assert (passed.status, passed.value, passed.rule) == ("pass", 0, "share of psnr below 25 max 0.02")
    assert passed.bound == pytest.approx(1 - 0.05 ** (1 / 200))
    assert result({"statistic": "share_below(25)", "max": 0.01}, VALUES).status == "inconclusive"
    assert result({"statistic": "share_above(40)", "min": 0.6}, VALUES).status == "fail"


def test_identical_images_count_as_above_all() -> None:
    """An infinite ratio is above any limit, and stands in no JSON."""
    values = [math.inf] * 150 + VALUES[:50]
    median = result({"statistic": "median", "min": 40}, values)
    assert (median.status, median.value, median.bound) == ("pass", None, None)
    assert result({"statistic": "share_above(45)", "min": 0.6}, values).status == "pass"


def test_samples_of_one_prompt_count_as_what_they_are_worth() -> None:
    """Eight of each of 25 prompts, all alike: a share of 25."""
    values = [10.0] * 16 + [30.0] * 184
    clusters = {"b": [i // 8 for i in range(200)]}
    rule = {"statistic": "share_below(20)", "max": 0.15}
    assert result(rule, values).status == "pass"
    assert result(rule, values, clusters=clusters).status == "inconclusive"
    median = {"statistic": "median", "min": 38.7}
    assert (result(median, VALUES).status, result(median, VALUES, clusters=clusters).status) == ("pass", "inconclusive")
    each = {"b": list(range(200))}
    assert result(median, VALUES, clusters=each).bound == result(median, VALUES).bound


def test_a_rule_by_value_is_judged_by_it_and_tells_what_the_bound_says() -> None:
    gates = make_gates({"g": {"rules": [{"metric": "fid", "min": 23, "max": 24, "by": "value"}]}}, CELLS[:1], METRICS)
    low, high = judged(gates, row("a", "fid", 23.1, 0.1, 100, "lower")).results
    assert (low.kind, low.status, low.stderr, low.bound) == ("max", "pass", 0.1, None)
    assert (high.kind, high.status) == ("min", "pass")
    assert "23.1, judged by its value as the rule asks (± 0.1: between 22.934 and 23.266" in high.reason
    assert high.reason.endswith("which would decide nothing); the limit is 23")
    assert [r.status for r in judged(gates, row("a", "fid", 22.9, 0.1, 100, "lower")).results] == ["pass", "fail"]


def test_another_number_of_samples_says_nothing() -> None:
    gates = make_gates({"g": {"rules": [{"metric": "fid", "max": 24, "samples": 5000}]}}, CELLS[:1], METRICS)
    (smoke,) = judged(gates, row("a", "fid", 3.0, 0.1, 20, "lower")).results
    assert (smoke.status, smoke.value) == ("inconclusive", 3.0)
    assert smoke.reason == "of 20 samples, where 5,000 are asked for: that says nothing"
    assert judged(gates, row("a", "fid", 3.0, 0.1, 5000, "lower")).status == "pass"


def test_the_runs_baseline_has_no_score_of_pairs() -> None:
    gates = make_gates({"g": {"rules": [{"metric": "psnr", "min": 30}]}}, CELLS, METRICS, baseline="a")
    assert gates["g"].rules[0].cells == ("b", "c")


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"metric": "fid", "statistic": "min", "max": 1}, "rules[0].statistic: fid has no value per sample"),
        ({"metric": "within", "statistic": "min", "max": 1}, "rules[0].statistic: within has no value per sample"),
        ({"metric": "nfe", "statistic": "p99", "max": 1}, "rules[0].statistic: nfe has no value per sample"),
        ({"metric": "psnr", "statistic": "p98", "max": 1}, "rules[0].statistic: there is no statistic 'p98': give one"),
        ({"metric": "psnr", "statistic": "share_below(x)", "max": 1}, "T must be a finite number"),
        (
            {"metric": "psnr", "statistic": "share_below(9)", "max": 5},
            "a share_below(9) is from 0 to 1: give such a limit",
        ),
        ({"metric": "psnr", "by": "eye", "max": 1}, "rules[0].by: 'eye'. Choices: bound, value."),
        ({"metric": "psnr", "samples": 0, "max": 1}, "rules[0].samples=0: give a whole number >= 1"),
        ({"metric": "fid", "by": "value", "no_worse_than": "a"}, "rules[0].by: it goes with max and min"),
        (
            {"metric": "psnr", "statistic": "p1", "within": {"baseline": "b", "margin": 1}},
            "rules[0].statistic: it goes",
        ),
        ({"metric": "psnr", "min": 1, "where": {"model": "a"}}, "compares the cells with a, and the rule selects that"),
        ({"metric": "psnr", "within": {"margin": 1}}, "compares the cells with a, which has no score of its own"),
    ],
)
def test_what_no_rule_can_be_is_one_line(rule: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_gates({"g": {"rules": [rule]}}, CELLS, METRICS, baseline="a")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@given(st.integers(2, 400), st.sampled_from(["median", "p1", "p99"]), st.sampled_from([0.95, 0.99]))
def test_the_ordered_values_are_the_tightest_that_hold(n: int, name: str, confidence: float) -> None:
    """By scipy's binomial distribution: the k-th of n values lies above the quantile q with P(B(n, q) < k)."""
    bounds = statistic_bounds(parse(name), [float(i) for i in range(1, n + 1)], None, confidence)
    assert bounds is not None
    q = {"median": 0.5, "p1": 0.01, "p99": 0.99}[name]
    low = 0 if math.isinf(bounds.low) else int(bounds.low)
    high = n + 1 if math.isinf(bounds.high) else int(bounds.high)
    error = 1 - confidence + 1e-9
    assert low == 0 or binom.cdf(low - 1, n, q) <= error
    assert binom.cdf(low, n, q) > error - 2e-9
    assert high == n + 1 or binom.sf(high - 1, n, q) <= error
    assert binom.sf(high - 2, n, q) > error - 2e-9


def test_words() -> None:
    names = ("mean", "median", "min", "max", "p1", "p99", "share_above(0.5)")
    assert [in_words(parse(name), "lpips") for name in names] == [
        *("lpips", "median lpips", "smallest lpips", "largest lpips"),
        *("1st percentile of lpips", "99th percentile of lpips", "share of lpips above 0.5"),
    ]


def test_without_values_per_sample_nothing_is_said() -> None:
    gates = make_gates({"g": {"rules": [{"metric": "psnr", "statistic": "min", "min": 3}]}}, CELLS[:1], METRICS)
    rows = table(row("a", "psnr", 30.0, 0.1, 100, "higher"))
    (missing,) = judge(rows, gates, influences={}, pairing={}, today=DAY).results
    assert (missing.status, missing.reason) == ("inconclusive", "there is no value per sample to take it of")
