"""Run against run: what differs, paired differences, Holm, margins, and an exit code that a pipeline can act on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev

import pytest
from many_runs import CELLS, clip_scores, write_run, write_runs

from evalkit.errors import ConfigError
from evalkit.history.compare import IDENTITY, NAME, ONLY, SETTINGS, Change, RunComparison, compare_runs
from evalkit.history.registry import PastRun, read_run
from evalkit.history.text import print_comparison
from evalkit.results.stats import quantile
from evalkit.results.table import ResultTable

NET, GAN = CELLS


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_runs(tmp_path_factory.mktemp("many") / "runs")


def run(store: Path, week: int) -> PastRun:
    return read_run(store / f"week{week:02d}" / "results.json")


def changed(comparison: RunComparison, metric: str, cell: str = NET) -> Change:
    return next(change for change in comparison.changes if (change.metric, change.before) == (metric, cell))


def renamed(past: PastRun, names: dict[str, str], key: str | None = None) -> PastRun:
    """With other names of cells, and other keys."""
    rows = [replace(row, cell=names[row.cell]) for row in past.table.rows if row.cell in names]
    cells = {names[cell]: key or value for cell, value in past.keys.items() if cell in names}
    return replace(past, table=replace(past.table, rows=rows, run={**past.table.run, "cells": cells}))


def test_a_real_worsening_fails_and_is_paired(store: Path) -> None:
    comparison = compare_runs(run(store, 5), run(store, 6))
    change = changed(comparison, "clip_score")
    gaps = [new - old for old, new in zip(clip_scores(5, NET), clip_scores(6, NET), strict=True)]
    error = stdev(gaps) / len(gaps) ** 0.5
    assert change.difference == pytest.approx(fmean(gaps), abs=1e-4)
    assert change.stderr == pytest.approx(error, rel=1e-3)  # unpaired it would be four times that
    assert change.low == pytest.approx(fmean(gaps) - quantile(len(gaps) - 1) * error, abs=1e-3)
    assert change.paired
    assert change.verdict == "worse"
    assert comparison.exit_code == 3
    same = changed(comparison, "clip_score", GAN)
    assert (same.difference, same.p, same.verdict) == (0.0, 1.0, "not distinguishable")


def test_nothing_worse_passes_and_an_improvement_too(store: Path) -> None:
    assert compare_runs(run(store, 7), run(store, 8)).exit_code == 0
    back = compare_runs(run(store, 6), run(store, 5))
    assert changed(back, "clip_score").verdict == "better"
    assert back.exit_code == 0


def test_protocols_are_never_compared(store: Path) -> None:
    comparison = compare_runs(run(store, 4), run(store, 5))
    change = changed(comparison, "fid")
    assert (change.verdict, change.difference, change.p) == ("not comparable", None, None)
    assert change.note == "reference.n is 1000, not 500"
    assert comparison.exit_code == 4
    assert compare_runs(run(store, 4), run(store, 5), metrics=["clip_score"]).exit_code == 0


def test_holm_over_all_scores_of_quality(store: Path) -> None:
    comparison = compare_runs(run(store, 5), run(store, 6))
    counted = [change for change in comparison.changes if not change.cost]
    assert {change.metric for change in counted} == {"fid", "clip_score"}
    smallest = min(counted, key=lambda change: change.p or 0)
    assert smallest.p_holm == pytest.approx((smallest.p or 0) * 4)


def test_costs_decide_only_where_they_are_asked_for(store: Path) -> None:
    change = changed(compare_runs(run(store, 7), run(store, 8)), "latency_p50")
    assert (change.cost, change.status, change.difference) == (True, "", 1.0)
    asked = compare_runs(run(store, 7), run(store, 8), within={"latency_p50": 5})
    assert changed(asked, "latency_p50").status == "inconclusive"  # it has no standard error
    assert asked.exit_code == 4


@pytest.mark.parametrize(
    ("margin", "status", "code"), [(2.0, "pass", 0), (1.0, "inconclusive", 4), (0.0, "inconclusive", 4)]
)
def test_margins(margin: float, status: str, code: int, store: Path) -> None:
    """FID goes from 18 to 17, each ± 1: by 95 % at most 1.36 worse."""
    comparison = compare_runs(run(store, 7), run(store, 8), metrics=["fid"], within={"fid": margin})
    assert changed(comparison, "fid").within == (margin, status)
    assert comparison.exit_code == code


def test_a_margin_forgives_and_condemns(store: Path) -> None:
    forgiven = compare_runs(run(store, 5), run(store, 6), metrics=["clip_score"], within={"clip_score": 7})
    assert changed(forgiven, "clip_score").verdict == "worse"
    assert forgiven.exit_code == 0
    assert compare_runs(run(store, 5), run(store, 6), within={"clip_score": 5}).exit_code == 3


def test_a_score_that_is_gone_never_passes(store: Path) -> None:
    after = run(store, 8)
    rows = [
        replace(row, value=None, note="no prompts") if row.metric == "clip_score" else row for row in after.table.rows
    ]
    comparison = compare_runs(run(store, 7), replace(after, table=replace(after.table, rows=rows)))
    assert changed(comparison, "clip_score").note.endswith("has no value: no prompts")
    assert comparison.exit_code == 4


def test_cells_are_matched_by_identity_name_settings_and_as_asked(store: Path) -> None:
    before, after = run(store, 7), run(store, 8)
    by = {pair.before: pair.by for pair in compare_runs(before, after).pairs}
    assert by == {NET: NAME, GAN: IDENTITY}
    other = renamed(after, {NET: "net-2", GAN: "another"})
    pairs = {pair.before: (pair.after, pair.by) for pair in compare_runs(before, other).pairs}
    assert pairs == {NET: ("net-2", SETTINGS), GAN: ("another", IDENTITY)}
    asked = compare_runs(before, other, cells={NET: "another"})
    assert [(pair.before, pair.after) for pair in asked.pairs] == [(NET, "another")]
    assert asked.left == ([GAN], ["net-2"])
    with pytest.raises(ConfigError, match=r"--cell gan=x: week08 has no cell 'x'"):
        compare_runs(before, other, cells={GAN: "x"})


def test_the_only_cells_are_matched_and_nothing_at_all_is_inconclusive(store: Path) -> None:
    one = renamed(run(store, 7), {NET: "v1"})
    assert [pair.by for pair in compare_runs(one, renamed(run(store, 8), {GAN: "v2"}, "k")).pairs] == [ONLY]
    two = renamed(run(store, 8), {NET: "x", GAN: "y"}, "k")
    rows = [replace(row, seed=5) for row in two.table.rows]
    nothing = compare_runs(run(store, 7), replace(two, table=replace(two.table, rows=rows)))
    assert (nothing.pairs, nothing.exit_code) == ([], 4)


def test_what_differs_in_the_making(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    comparison = compare_runs(run(store, 1), run(store, 4))
    assert comparison.config["model.net.weights"] == ("week1.safetensors", "week4.safetensors")
    assert comparison.versions["torch"] == ("2.15.0", "2.16.0")
    assert comparison.versions["host"] == (None, "farm")
    assert print_comparison(comparison) == comparison.exit_code == 0
    printed = capsys.readouterr().out
    assert "evalkit: 0.1.0 -> 0.2.0" in printed
    assert "none of 4 scores got significantly worse: exit code 0" in printed
    assert json.loads(json.dumps(comparison.to_json()))["exit_code"] == 0


def test_a_damaged_samples_csv_is_told_and_not_used(
    store: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    import logging

    monkeypatch.setattr(logging.getLogger("evalkit"), "propagate", True)
    cut = write_run(tmp_path / "week06", 6)
    (cut / "samples.csv").write_text((cut / "samples.csv").read_text()[:-30])
    change = changed(compare_runs(run(store, 5), read_run(cut / "results.json")), "clip_score")
    assert not change.paired
    assert "are compared unpaired" in caplog.text


def test_wrong_words(store: Path) -> None:
    with pytest.raises(ConfigError, match=r"has no metric 'fidd'\. Did you mean 'fid'"):
        compare_runs(run(store, 7), run(store, 8), metrics=["fidd"])
    with pytest.raises(ConfigError, match="give a margin of 0 or more"):
        compare_runs(run(store, 7), run(store, 8), within={"fid": float("nan")})


def test_the_table_is_left_as_it_was(store: Path) -> None:
    path = store / "week03" / "results.json"
    assert ResultTable.load(path).to_json() == run(store, 3).table.to_json()
