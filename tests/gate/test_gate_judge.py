"""The gate judges scores with their uncertainty, and doubt is never a pass."""

from __future__ import annotations

import csv
import json
import logging
import math
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from gate_fakes import CELLS, HALF, METRICS, fid, gate, judged, row, table

from evalkit.errors import ConfigError
from evalkit.gate import Verdict, judge, make_gates
from evalkit.gate.bounds import difference_bounds, needed_n, score_bounds
from evalkit.gate.outputs import to_markdown
from evalkit.metric import cluster_ids
from evalkit.results import render
from evalkit.results.stats import Estimate
from evalkit.results.table import ResultTable, Row

# ---- bounds


@pytest.mark.parametrize(
    ("value", "status"),
    [(10.0, "pass"), (11.7, "pass"), (11.9, "inconclusive"), (12.1, "inconclusive"), (12.3, "fail")],
)
def test_a_maximum_is_held_against_the_one_sided_bound(value: float, status: str) -> None:
    """t(0.95, 99) = 1.6604: with a standard error of 0.1 the bound is 0.166 away."""
    verdict = judged(gate({"metric": "fid", "max": 12, "where": {"model": "a"}}), fid("a", value))
    (result,) = verdict.results
    assert (verdict.status, result.status) == (status, status)
    assert verdict.exit_code == {"pass": 0, "fail": 3, "inconclusive": 4}[status]
    sign = -1 if status == "fail" else 1
    assert result.bound == pytest.approx(value + sign * 0.16604, abs=1e-5)
    assert (result.needed_n is not None) == (status == "inconclusive")


@pytest.mark.parametrize(("value", "status"), [(30.3, "pass"), (30.1, "inconclusive"), (29.7, "fail")])
def test_a_minimum_is_the_other_way_round(value: float, status: str) -> None:
    clip = row("a", "clip", value, 0.1, 100, "higher")
    assert judged(gate({"metric": "clip", "min": 30, "where": {"model": "a"}}), clip).status == status


@pytest.mark.parametrize(
    ("unrelated", "value", "status"), [(0.0, 31, "pass"), (1.0, 31, "inconclusive"), (1.0, 9, "fail")]
)
def test_pairs_that_look_unrelated_are_no_pass(unrelated: float, value: float, status: str) -> None:
    clip = replace(row("a", "clip", value, 0.1, 100, "higher"), details={"unrelated": unrelated})
    (result,) = judged(gate({"metric": "clip", "min": 30, "where": {"model": "a"}}), clip).results
    assert result.status == status
    assert result.reason.startswith("pairs look unrelated (different noise?)") == bool(unrelated)


def test_the_number_of_samples_that_would_decide() -> None:
    """(1.6449 + 0.8416)^2 = 6.1826 squared standard errors by the squared gap: 100 x 6.1826 x (0.1 / 0.1)^2 = 618.3."""
    verdict = judged(gate({"metric": "fid", "max": 12, "where": {"model": "a"}}), fid("a", 11.9))
    assert verdict.results[0].needed_n == 620
    assert "about 620 samples per cell would decide it" in verdict.results[0].reason
    on_the_limit = judged(gate({"metric": "fid", "max": 12, "where": {"model": "a"}}), fid("a", 12.0))
    assert on_the_limit.results[0].needed_n is None
    assert "too near to the limit for any number of samples" in on_the_limit.results[0].reason


def test_with_the_needed_number_of_samples_four_in_five_decide() -> None:
    import numpy as np

    rng = np.random.default_rng(0)
    gates = gate({"metric": "fid", "max": 12, "where": {"model": "a"}})
    n = judged(gates, fid("a", 11.9)).results[0].needed_n
    assert n is not None
    values = 11.9 + rng.normal(0, 0.1 * math.sqrt(100 / n), 1000)
    passed = sum(judged(gates, fid("a", float(v), 0.1 * math.sqrt(100 / n), n=n)).status == "pass" for v in values)
    assert 760 <= passed <= 840


@pytest.mark.parametrize(("value", "status"), [(12.0, "pass"), (12.001, "fail")])
@pytest.mark.parametrize("stderr", [None, 0.0])
def test_without_a_standard_error_a_bound_is_judged_by_its_value_and_says_so(
    value: float, status: str, stderr: float | None
) -> None:
    verdict = judged(gate({"metric": "fid", "max": 12, "where": {"model": "a"}}), fid("a", value, stderr))
    assert verdict.status == status
    assert "judged by its value" in verdict.results[0].reason


def test_a_share_that_is_all_ones_is_not_taken_as_certain() -> None:
    """None of 100 failed: up to 1 - 0.05^(1/100) = 2.95 % may."""
    precision = row("a", "precision", 1.0, 0.0, 100, "higher")
    ones = {("a", "precision"): [1.0] * 100}
    for limit, status in ((0.97, "pass"), (0.98, "inconclusive")):
        gates = gate({"metric": "precision", "min": limit, "where": {"model": "a"}})
        (result,) = judged(gates, precision, influences=ones).results
        assert result.status == status
        assert result.bound == pytest.approx(0.05 ** (1 / 100))
    assert result.needed_n == 150  # log(0.05) / log(0.98) = 148.3


def test_a_percentage_is_a_share_too() -> None:
    bounds = score_bounds(Estimate(75.0, 4.35, 100, [100.0] * 75 + [0.0] * 25))
    assert bounds is not None
    assert (bounds.low, bounds.high) == pytest.approx((66.88, 81.94), abs=0.05)  # Clopper-Pearson of 75 in 100


def test_skewness_moves_the_bounds() -> None:
    tail = [0.0] * 90 + [1.0] * 8 + [10.0, 12.0]
    mean, n = sum(tail) / 100, 100
    stderr = math.sqrt(sum((x - mean) ** 2 for x in tail) / 99 / n)
    plain, skewed = score_bounds(Estimate(mean, stderr, n)), score_bounds(Estimate(mean, stderr, n, tail))
    assert plain is not None
    assert skewed is not None
    assert skewed.high - mean > plain.high - mean  # a long tail to the right may be undersampled
    assert mean - skewed.low < mean - plain.low


def test_a_known_difference_needs_no_samples() -> None:
    bounds = difference_bounds(Estimate(5.0, 0.3, 100), Estimate(5.0, 0.3, 100), same=True)
    assert bounds is not None
    assert (bounds.low, bounds.high) == (0, 0)
    assert needed_n(bounds, 0.0) is None


# ---- what can not be judged is no pass


@pytest.mark.parametrize(
    ("rows", "status", "reason"),
    [
        ([], "inconclusive", "the score is missing: there is none in the results"),
        ([fid("a", None, None, note="no prompt")], "inconclusive", "the score is missing: no prompt"),
        ([fid("a", None, None, note="the computation gave nan", broken=True)], "fail", "the computation gave nan"),
        ([fid("a", math.nan)], "fail", "the score is nan: not a finite number"),
        ([fid("a", -math.inf)], "fail", "the score is -inf: not a finite number"),
    ],
)
def test_missing_and_broken_scores_never_pass(rows: list[Row], status: str, reason: str) -> None:
    for rule in ({"max": 12}, {"min": -1e9}, {"no_worse_than": {"baseline": "b", "margin": 1e9}}):
        verdict = judged(gate({"metric": "fid", "where": {"model": "a"}, **rule}), *rows, fid("b", 5.0))
        assert (verdict.status, verdict.results[0].value) == (status, None)
        assert reason in verdict.results[0].reason
        json.dumps(verdict.to_json(), allow_nan=False)


NO_WORSE = {"metric": "fid", "no_worse_than": {"baseline": "b", "margin": 1}, "where": {"model": "a"}}


@pytest.mark.parametrize(
    ("baseline", "reason"),
    [
        ([], "the baseline's score is missing"),
        ([fid("b", None, None, note="broken")], "the baseline's score is missing: broken"),
        ([fid("b", math.nan)], "the baseline's score is nan"),
        ([fid("b", 9.0, None)], "without a standard error of both"),
        ([fid("b", 9.0, protocol={"n": 50}, protocol_hash="x")], "not comparable with the baseline: n is 100, not 50"),
        (
            [fid("b", 9.0, protocol={"n": 100, "reference": {"digest": "1"}}, protocol_hash="x")],
            "reference.digest is None, not 1",
        ),
    ],
)
def test_what_cannot_be_compared_is_inconclusive_however_good(baseline: list[Row], reason: str) -> None:
    verdict = judged(gate(NO_WORSE), fid("a", 1.0), *baseline)
    assert (verdict.status, verdict.exit_code) == ("inconclusive", 4)
    assert reason in verdict.results[0].reason


def test_a_latency_no_worse_than_another_is_inconclusive() -> None:
    rows = [row(name, "latency_p50", 5.0, None, 100, "lower") for name in "ab"]
    rule = {"metric": "latency_p50", "no_worse_than": "b", "where": {"model": "a"}}
    assert judged(gate(rule), *rows).status == "inconclusive"


# ---- against a baseline


@pytest.mark.parametrize(("value", "status"), [(9.5, "pass"), (9.9, "inconclusive"), (10.4, "fail")])
def test_no_worse_than_unpaired(value: float, status: str) -> None:
    """hypot(0.1, 0.1) x 1.66 = 0.235 about the limit of 9 + 1."""
    (result,) = judged(gate(NO_WORSE), fid("a", value), fid("b", 9.0)).results
    assert (result.status, result.paired, result.limit) == (status, False, 10.0)
    assert result.difference == pytest.approx(value - 9.0)
    sign = -1 if status == "fail" else 1
    assert result.bound == pytest.approx(value + sign * 0.23482, abs=1e-4)


def test_common_seeds_are_paired() -> None:
    """The influences differ by +-0.1 alone: the standard error is 0.01, where unpaired it is 0.14."""
    influences = {("b", "fid"): HALF, ("a", "fid"): [x + 0.1 * (-1) ** (i // 2) for i, x in enumerate(HALF)]}
    rows = fid("a", 9.95), fid("b", 9.0)
    paired = judged(gate(NO_WORSE), *rows, influences=influences, pairing={"a": "p", "b": "p"})
    apart = judged(gate(NO_WORSE), *rows, influences=influences, pairing={"a": "p", "b": "q"})
    assert (paired.status, paired.results[0].paired) == ("pass", True)
    assert paired.results[0].stderr == pytest.approx(0.01, rel=0.01)
    assert (apart.status, apart.results[0].paired) == ("inconclusive", False)


def test_the_direction_is_the_metrics() -> None:
    rule = {"metric": "clip", "no_worse_than": {"baseline": "b", "margin": 1}, "where": {"model": "a"}}
    for value, status in ((50.0, "pass"), (29.5, "pass"), (28.9, "inconclusive"), (28.5, "fail")):
        rows = [row("a", "clip", value, 0.1, 100, "higher"), row("b", "clip", 30.0, 0.1, 100, "higher")]
        (result,) = judged(gate(rule), *rows).results
        assert (result.status, result.limit) == (status, 29.0)


@pytest.mark.parametrize(
    ("better", "baseline", "limit"),
    [
        ("lower", 10.0, 10.5),
        ("higher", 10.0, 9.5),
        ("lower", -10.0, -9.5),
        ("higher", -10.0, -10.5),
        ("lower", 0.0, 0.0),
    ],
)
def test_a_relative_margin_is_of_the_baselines_size(better: str, baseline: float, limit: float) -> None:
    rule = {"metric": "fid", "no_worse_than": {"baseline": "b", "margin": "5%"}, "where": {"model": "a"}}
    for shift, status in ((-0.4, "pass"), (0.05, "inconclusive"), (0.4, "fail")):
        worse = shift if better == "lower" else -shift
        rows = [row("a", "fid", limit + worse, 0.1, 100, better), row("b", "fid", baseline, 0.1, 100, better)]
        (result,) = judged(gate(rule), *rows).results
        assert (result.status, result.limit) == (status, pytest.approx(limit))
        assert f"{'better' if shift < -0.5 else ''}" in result.reason


def test_the_reason_says_by_how_much_worse() -> None:
    (result,) = judged(gate(NO_WORSE), fid("a", 9.9), fid("b", 9.0)).results
    assert result.reason == (
        "9.9 against the baseline's 9: worse by 0.9 ± 0.14 (unpaired); worse by at most 1.13 with 95 % confidence; "
        "the margin is 1; about 1,300 samples per cell would decide it (4 times in 5, were this the true value)"
    )


# ---- against an earlier run


def write_run(folder: Path, *rows: Row, influences: dict[str, list[float]] | None = None, **run: Any) -> str:
    render.write(ResultTable({"name": "prev", **run}, rows), folder)
    if influences:
        with (folder / "samples.csv").open("w", newline="") as file:
            lines = csv.writer(file)
            lines.writerow(["cell", "index", "file", "prompt", "category", "fid.influence"])
            for name, values in influences.items():
                lines.writerows([name, i, "f", f'{i} "b",\nc', None, f"{x:.6g}"] for i, x in enumerate(values))
    return str(folder / "results.json")


def against(path: str, **more: Any) -> dict[str, Any]:
    return gate({"metric": "fid", "where": {"model": "a"}, "no_worse_than": {"baseline": path, "margin": 1, **more}})


def test_an_earlier_run_is_paired_by_its_samples(tmp_path: Path) -> None:
    path = write_run(tmp_path, fid("a", 9.0), influences={"a": HALF}, pairing={"a": "p"})
    new = {("a", "fid"): [x + 0.1 * (-1) ** (i // 2) for i, x in enumerate(HALF)]}
    known = {"influences": new, "clusters": {"a": cluster_ids([f'{i} "b",\nc' for i in range(100)])}}
    (result,) = judged(against(path), fid("a", 9.95), pairing={"a": "p"}, **known).results
    assert (result.status, result.paired, result.baseline) == ("pass", True, f"{path}: a")
    assert result.stderr == pytest.approx(0.01, rel=0.01)
    (result,) = judged(against(path), fid("a", 9.95), influences=new, pairing={"a": "other prompts"}).results
    assert (result.status, result.paired) == ("inconclusive", False)
    (result,) = judged(against(path), fid("a", 9.95), pairing={"a": "another seed"}, **known).results
    assert (result.status, result.paired) == ("pass", True)  # by the prompts that both have


def test_an_earlier_run_without_its_samples_is_compared_unpaired(tmp_path: Path) -> None:
    path = write_run(tmp_path, fid("a", 9.0), pairing={"a": "p"})
    more = {"influences": {("a", "fid"): HALF}, "pairing": {"a": "p"}}
    for given in (path, str(tmp_path)):  # the file, or its folder
        (result,) = judged(against(given), fid("a", 9.1), **more).results
        assert (result.status, result.paired) == ("pass", False)


def test_samples_of_another_count_are_not_used(tmp_path: Path) -> None:
    path = write_run(tmp_path, fid("a", 9.0), influences={"a": HALF[:50]}, pairing={"a": "p"})
    more = {"influences": {("a", "fid"): HALF}, "pairing": {"a": "p"}}
    assert judged(against(path), fid("a", 9.1), **more).results[0].paired is False


def test_the_same_cell_again_passes_at_no_margin(tmp_path: Path) -> None:
    """Nothing changed, so nothing was made anew: six digits of samples.csv must not make that uncertain."""
    each = [math.sin(i) for i in range(100)]
    path = write_run(tmp_path, fid("a", 9.0), influences={"a": each}, pairing={"a": "p"}, cells={"a": "key"})
    gates = against(path, margin=0)
    more = {"influences": {("a", "fid"): each}, "pairing": {"a": "p"}}
    assert judged(gates, fid("a", 9.0), run={"cells": {"a": "key"}}, **more).status == "pass"
    assert judged(gates, fid("a", 9.0), run={"cells": {"a": "another"}}, **more).status == "inconclusive"


def test_a_cell_of_an_earlier_run_can_be_named(tmp_path: Path) -> None:
    path = write_run(tmp_path, fid("old", 9.0))
    assert judged(against(path, cell="old"), fid("a", 9.1)).status == "pass"
    for more, message in (({}, "has no cell 'a'; name one with cell: NAME"), ({"cell": "odl"}, "Did you mean 'old'?")):
        with pytest.raises(ConfigError) as caught:
            against(path, **more)
        assert message in str(caught.value)
    with pytest.raises(ConfigError, match="has no clip of old"):
        gate({"metric": "clip", "no_worse_than": {"baseline": path, "cell": "old"}})


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": 99}', '{"schema": 1, "rows": []}'])
def test_a_file_that_is_no_result_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(ConfigError, match=r"gate\.g\.rules\[0\]\.no_worse_than\.baseline: .*results\.json: "):
        against(str(tmp_path / "results.json"))


def test_another_n_is_said_when_the_run_is_planned(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("evalkit").addHandler(caplog.handler)
    try:
        against(write_run(tmp_path, fid("a", 9.0, n=50)))
    finally:
        logging.getLogger("evalkit").removeHandler(caplog.handler)
    assert "the baseline's fid is of 50 samples, a has 100: they cannot be compared" in caplog.text


# ---- images that are counted


def test_blanked_and_duplicate_images_are_counted() -> None:
    images = {name: {"count": 100, "warnings": {"blanked": 3} if name == "a" else {}} for name in "abc"}
    findings = tuple(
        {"kind": kind, "where": "b", "count": 2, "of": 100} for kind in ("duplicates", "near_duplicates", "size")
    )
    rows = [fid(name, 1.0) for name in "abc"]
    gates = gate(
        {"metric": "blanked", "max": 0.02},
        {"metric": "duplicates", "max": 0.02},
        {"metric": "near_duplicates", "max": 0},
    )
    results = judged(gates, *rows, run={"images": images}, lint=findings).results
    assert [r.status for r in results] == ["fail", "pass", "pass", "pass", "pass", "pass", "pass", "fail", "pass"]
    assert results[0].reason == "3 of 100 images, counted; the limit is 0.02"
    assert results[0].value == 0.03
    missing = judged(gates, *rows, run={})
    assert {r.status for r in missing.results} == {"inconclusive"}


# ---- the verdict


def test_the_worst_result_is_the_verdict() -> None:
    rule = {"metric": "fid", "max": 12}
    good, bad, unclear = fid("a", 1.0), fid("b", 20.0), fid("c", 12.1)
    assert judged(gate(rule), good, bad, unclear).status == "fail"
    assert judged(gate(rule), good, fid("b", 1.0), unclear).status == "inconclusive"
    assert judged(gate(rule), good, fid("b", 1.0), fid("c", 1.0)).status == "pass"
    verdict = judged(gate(rule), good, bad, unclear)
    assert verdict.counts == {"fail": 1, "inconclusive": 1, "pass": 1}


def test_several_gates_are_judged_together() -> None:
    options = {name: {"rules": [{"metric": "fid", "max": limit}]} for name, limit in (("low", 1), ("high", 50))}
    verdict = judge(
        table(*(fid(n, 9.0) for n in "abc")), make_gates(options, CELLS, METRICS), influences={}, pairing={}
    )
    assert verdict.gates == ["low", "high"]
    assert (verdict.status, verdict.counts) == ("fail", {"fail": 3, "pass": 3})


def test_a_waived_failure_does_not_fail_and_is_shown() -> None:
    waiver = {"metric": "fid", "where": {"model": "b"}, "reason": "see #12", "until": "2025-06-15"}  # its last day
    rows = fid("a", 1.0), fid("b", 20.0), fid("c", 1.0)
    verdict = judged(gate({"metric": "fid", "max": 12}, waivers=[waiver]), *rows)
    assert (verdict.status, verdict.counts) == ("pass", {"waived": 1, "pass": 2})
    (waived,) = (r for r in verdict.results if r.waived)
    assert (waived.cell, waived.status, waived.waived) == ("b", "fail", {"reason": "see #12", "until": "2025-06-15"})
    assert "waived until 2025-06-15: see #12" in to_markdown(verdict)
    other = judged(gate({"metric": "fid", "max": 12}, waivers=[waiver]), fid("a", 20.0), *rows[1:])
    assert (other.status, other.counts) == ("fail", {"fail": 1, "waived": 1, "pass": 1})


def test_an_expired_waiver_never_counts_and_is_said() -> None:
    waiver = {"metric": "fid", "reason": "see #12", "until": date(2025, 6, 14)}
    verdict = judged(gate({"metric": "fid", "max": 12}, waivers=[waiver]), *(fid(n, 20.0) for n in "abc"))
    assert (verdict.status, verdict.exit_code) == ("fail", 3)
    assert verdict.notes == ("the waiver of fid (see #12) expired on 2025-06-14: it does not count",)
    assert "expired on 2025-06-14" in to_markdown(verdict)


def test_a_waiver_that_nothing_needs_is_said() -> None:
    waiver = {"metric": "fid", "reason": "see #12", "until": "2025-07-01"}
    verdict = judged(gate({"metric": "fid", "max": 12}, waivers=[waiver]), *(fid(n, 1.0) for n in "abc"))
    assert verdict.status == "pass"
    assert verdict.notes == ("the waiver of fid (see #12) is not needed: all that it covers passes",)


def test_a_verdict_survives_the_results_file() -> None:
    waiver = {"metric": "fid", "where": {"model": "b"}, "reason": "x", "until": "2025-07-01"}
    rules = {"metric": "fid", "max": 12}, {"metric": "fid", "no_worse_than": {"baseline": "a", "margin": "5%"}}
    verdict = judged(gate(*rules, waivers=[waiver]), fid("a", 11.9), fid("b", 20.0), fid("c", math.nan))
    assert Verdict.from_json(json.loads(json.dumps(verdict.to_json(), allow_nan=False))) == verdict


@pytest.mark.parametrize(("count", "n"), [(0, 20), (1, 20), (19, 20), (20, 20), (37, 100), (4990, 5000)])
def test_the_bounds_of_a_share_are_scipys(count: int, n: int) -> None:
    from scipy.stats import binomtest

    bounds = score_bounds(Estimate(count / n, 0.01, n, [1.0] * count + [0.0] * (n - count)))
    assert bounds is not None
    expected = binomtest(count, n).proportion_ci(0.90)  # two-sided at 90 %: 95 % to each side
    assert (bounds.low, bounds.high) == pytest.approx((expected.low, expected.high), abs=1e-9)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cell,index,fid.influence\na,0\n", r"samples\.csv:2: 2 cells where the header has 3: it is cut off"),
        ("cell,index,fid.influence\na,0,0.5\na,1,x\n", r"samples\.csv:3: fid is no number: 'x'"),
        ("index,fid.influence\n0,1\n", r"samples\.csv: it has no column 'cell'"),
    ],
)
def test_a_baseline_whose_samples_are_cut_off_is_refused(tmp_path: Path, text: str, message: str) -> None:
    render.write(table(fid("a", 9.0)), tmp_path)
    (tmp_path / "samples.csv").write_text(text)
    with pytest.raises(ConfigError, match=message):
        against(str(tmp_path / "results.json"))
