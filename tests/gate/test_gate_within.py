"""`within`: two one-sided tests, on either side of the baseline."""

from __future__ import annotations

import random
import re
from typing import Any

import pytest
from gate_fakes import CELLS, METRICS, gate, judged, row

from evalkit.errors import ConfigError
from evalkit.gate import Result, make_gates

PAIRED = {"pairing": {"a": "x", "b": "x"}}


def result(gap: float, margin: Any = 0.5, *, n: int = 100, spread: float = 1.0, **more: Any) -> Result:
    """The verdict on cell b, whose values lie `gap` above a's on average, by a standard error of `spread` / sqrt(n)."""
    rng = random.Random(0)
    noise = [rng.gauss(0, 1) for _ in range(n)]
    mean = sum(noise) / n
    sd = (sum((x - mean) ** 2 for x in noise) / (n - 1)) ** 0.5
    old = [30 + 5 * rng.gauss(0, 1) for _ in range(n)]
    new = [x + gap + spread * (e - mean) / sd for x, e in zip(old, noise, strict=True)]
    rule = {"metric": "clip", "within": {"baseline": "a", "margin": margin}, "where": {"model": "b"}}
    rows = [row(name, "clip", sum(v) / n, 0.5, n, "higher") for name, v in (("a", old), ("b", new))]
    influences = {("a", "clip"): old, ("b", "clip"): new}
    return judged(gate(rule), *rows, influences=influences, **{**PAIRED, **more}).results[0]


@pytest.mark.parametrize(
    ("gap", "status"),
    {
        0.0: "pass",
        0.3: "pass",
        -0.3: "pass",
        0.4: "inconclusive",
        -0.6: "inconclusive",
        0.7: "fail",
        -0.7: "fail",
    }.items(),
)
def test_better_and_worse_than_the_margin_alike(gap: float, status: str) -> None:
    """The standard error is 0.1, each bound about 0.166 away."""
    found = result(gap)
    assert (found.status, found.kind, found.paired) == (status, "within", True)
    assert found.difference == pytest.approx(gap)
    assert found.baseline_value is not None
    assert found.limit is not None
    if gap:  # the nearer edge is the one that decides
        assert found.limit - found.baseline_value == pytest.approx(0.5 if gap > 0 else -0.5)
    told = re.search(r"(\S+) ± 0.1 \(paired\), (\S+) to (\S+) with 95 % confidence on each side", found.reason)
    assert told is not None
    low, high = float(told[2]), float(told[3])
    assert (low, high) == (pytest.approx(gap - 0.166, abs=0.01), pytest.approx(gap + 0.166, abs=0.01))
    assert (status == "pass") == (low >= -0.5 and high <= 0.5)
    assert found.bound is not None
    assert found.bound - found.baseline_value in (pytest.approx(low, abs=1e-3), pytest.approx(high, abs=1e-3))


def test_a_relative_margin_is_of_the_baselines_value() -> None:
    found = result(0.0, "1%")
    assert found.status == "pass"
    assert found.rule == "clip within 1% of a"
    assert "the margin is 1% of it, 0.3" in found.reason
    assert result(0.0, "0.4%").status == "inconclusive"
    assert result(-2.0, "1%").status == "fail"


def test_between_the_edges_both_tests_must_pass_in_the_samples_that_it_would_take() -> None:
    found = result(0.0, 0.1)
    assert found.status == "inconclusive"
    assert found.needed_n is not None
    assert result(0.0, 0.1, n=found.needed_n).status == "pass"
    assert 850 <= found.needed_n <= 870  # 100 (0.1 (1.645 + 1.282) / 0.1)^2: 90 % for each, 80 % for both
    assert (result(0.1, 0.1).needed_n, result(0.12, 0.1).needed_n) == (None, 16000)


def test_unpaired_scores_are_held_against_their_own_errors() -> None:
    found = result(0.0, pairing={})
    assert (found.status, found.paired) == ("inconclusive", False)


def test_another_protocol_or_no_standard_error_decides_nothing() -> None:
    rule = {"metric": "fid", "within": {"baseline": "a", "margin": 1}, "where": {"model": "b"}}
    rows = [row("a", "fid", 10.0, 0.1, 100, "lower"), row("b", "fid", 10.0, 0.1, 200, "lower")]
    assert "not comparable with the baseline" in judged(gate(rule), *rows).results[0].reason
    rows = [row("a", "fid", 10.0, None, 100, "lower"), row("b", "fid", 10.0, None, 100, "lower")]
    assert "without a standard error of both" in judged(gate(rule), *rows).results[0].reason


def test_the_runs_baseline_is_the_rules_where_it_names_none() -> None:
    rules = [{"metric": "fid", "within": {"margin": "2%"}}, {"metric": "fid", "no_worse_than": {"margin": 1}}]
    made = make_gates({"g": {"rules": rules}}, CELLS, METRICS, baseline="a")["g"].rules
    assert [rule.text for rule in made] == ["fid within 2% of a", "fid no worse than a by more than 1"]
    assert made[0].cells == ("b", "c")


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"baseline": "a"}, "within.margin: no two scores are within 0"),
        ({"baseline": "a", "margin": 0}, "within.margin: no two scores are within 0"),
        ("a", "within.margin: no two scores are within 0"),
        ({"margin": 1}, "within.baseline is not set"),
        ({"baseline": "a", "margin": "0,2%"}, "is no margin"),
    ],
)
def test_a_rule_without_a_margin_or_a_baseline_is_refused(option: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        gate({"metric": "fid", "within": option})
    assert message in str(caught.value)
