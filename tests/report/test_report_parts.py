"""What the report's parts say: the first screen, the gate, the table, plots, images and the heat map."""

from __future__ import annotations

import base64
import csv
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from report_runs import Page, RunOptions, change, finding, gate, set_apart, write_run

from evalkit.report import write_report
from evalkit.report.categories import HeatMap, make_maps
from evalkit.report.plots import make_plots, pareto
from evalkit.report.run_folder import Run
from evalkit.report.summary import warnings
from evalkit.report.tables import make_gate, make_table
from evalkit.results import render
from evalkit.results.compare import compare
from evalkit.results.headline import headline, winners
from evalkit.results.table import ResultTable


@pytest.fixture(autouse=True)
def _without_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages without plots, which saves two seconds each; tests of plots call `make_plots` themselves."""
    monkeypatch.setattr("evalkit.report.plots.make_plots", lambda run: [])


def page(out: Path) -> Page:
    return Page(write_report(out))


# -- the first screen


def test_winners_ties_and_the_next_with_its_interval(tmp_path: Path) -> None:
    out = write_run(tmp_path / "a")
    table = ResultTable.load(out / "results.json")
    rows = [replace(row, stderr=4.0) if row.metric == "fid_x" else row for row in table.rows]
    comparisons, best = compare(rows, baseline=None, influences={}, pairing={})
    change(out, **replace(table, rows=rows, comparisons=comparisons, best=best).to_json())
    run = Run.open(out)
    found = {winner.column.metric: winner for winner in winners(run.table)}
    fid = found["fid_x"]
    assert (run.keys[fid.best], [run.keys[c] for c in fid.ties], fid.next) == ("A", ["B", "C"], None)  # 10, 15, 20 ± 4
    recall = found["recall_x"]
    assert recall.next is not None
    assert (run.keys[recall.best], recall.ties, run.keys[recall.next.cell]) == ("A", [], "B")
    assert recall.next.difference == "-0.1000"
    assert recall.next.interval == "[-0.158, -0.0422]"  # t(0.975, 29) * hypot(0.02, 0.02)
    assert recall.next.verdict == "worse"
    said = headline(run.table, winners(run.table))
    assert [run.keys[cell] for cell in said.cells] == ["A"]
    assert (said.most, said.total, said.left_out) == (3, 4, ["FID"])  # FID tells nothing apart


def test_the_best_is_held_against_the_baseline(tmp_path: Path) -> None:
    run = Run.open(write_run(tmp_path / "a", RunOptions(baseline=True)))
    gaps = {winner.column.metric: winner.gap for winner in winners(run.table)}
    assert gaps["fid_x"] is not None
    assert (gaps["fid_x"].difference, gaps["fid_x"].verdict) == ("-5.00", "better")
    assert gaps["fid_x"].interval == "[-7.89, -2.11]"
    verdicts = headline(run.table, winners(run.table)).verdicts
    assert "FID" in verdicts["better"]
    assert "precision" in verdicts["worse"]


def test_scores_of_another_protocol_are_not_ranked(tmp_path: Path) -> None:
    out = write_run(tmp_path / "a", RunOptions(cells=4))
    set_apart(out, "fid_x", 3, value=0.1)
    run = Run.open(out)
    fid = next(w for w in winners(run.table) if w.column.metric == "fid_x")
    assert run.keys[fid.best] == "A"  # not D, whose 0.1 rests on something else
    assert fid.apart == 1
    scores = {run.keys[e.cell]: e.scores[0] for e in make_table(run).entries}
    assert scores["D"].apart
    assert scores["D"].mark == ""
    assert scores["A"].mark == "best"
    assert any("D stand apart" in w.text for w in warnings(run))
    assert any(
        "FID of net-ddim-guidance_scale_9.0-num_inference_steps_8 is not comparable" in note
        for note in make_table(run).notes
    )


def test_warnings_name_small_n_missing_values_notes_and_lint(tmp_path: Path) -> None:
    out = write_run(tmp_path / "a", RunOptions(notes=("Warning: A: 3 of 30 images blanked.",), lint=(finding(),)))
    data = json.loads((out / "results.json").read_text())
    gone = next(row for row in data["rows"] if row["metric"] == "recall_x")
    gone |= {"value": None, "stderr": None, "note": "no reference"}
    change(out, rows=data["rows"])
    texts = [(w.text, w.severe) for w in warnings(Run.open(out))]
    assert texts[0] == ("A cell: 4 files are equal", True)  # the gravest first
    assert ("A: 3 of 30 images blanked.", False) in texts
    assert ("No recall for A.", False) in texts
    assert any(text.startswith("FID at N = 30 is biased upwards") for text, _ in texts)


@pytest.mark.parametrize("status", ["pass", "fail", "inconclusive"])
def test_the_gates_verdict_stands_first_and_in_full(tmp_path: Path, status: str) -> None:
    out = write_run(tmp_path / "a", RunOptions(gate=gate(status=status)))
    view = make_gate(Run.open(out))
    assert view is not None
    assert [result["status"] for result in view.results][-1] == "pass"
    values = {result["status"]: result["value"] for result in view.results}
    assert values["inconclusive"] in ("10.00", "10.00 ± 1.00")  # of no_worse_than the error is the difference's
    shown = page(out)
    assert shown.text.index(f"Gate: {status}") < shown.text.index("Best by each metric")
    assert "Waived until 2030-01-31: later" in shown.text
    assert "About 900 samples per cell would decide it." in shown.text
    assert "a waiver has expired" in shown.text


@pytest.mark.parametrize("odd", [{"status": "pass"}, {"status": "odd", "results": [{}, {"limit": None}]}])
def test_a_gate_of_another_version_is_shown_as_far_as_it_goes(tmp_path: Path, odd: dict[str, Any]) -> None:
    out = write_run(tmp_path / "a")
    change(out, gate=odd)
    assert f"Gate: {odd['status']}" in page(out).text


def test_no_gate_is_said(tmp_path: Path) -> None:
    assert "No gate was asked for." in page(write_run(tmp_path / "a")).text


# -- table, plots, side by side, categories


def test_the_exports_are_those_of_the_run(tmp_path: Path) -> None:
    run = Run.open(write_run(tmp_path / "a"))
    view = make_table(run)
    assert base64.b64decode(view.csv.partition(",")[2]).decode() == render.to_csv(run.table)
    assert (view.markdown, view.latex) == (render.to_markdown(run.table), render.to_latex(run.table))
    assert "\\toprule" in view.latex
    assert [head for _, head, _ in view.filters] == [
        "guidance_scale",
        "num_inference_steps",
    ]  # what tells the cells apart


def test_only_plots_that_the_data_allow(tmp_path: Path) -> None:
    groups = {group.title: group for group in make_plots(Run.open(write_run(tmp_path / "a")))}
    titles = [plot.title for plot in groups["Trade-offs"].plots]
    assert titles == [
        "FID against latency p50 [ms]",
        "FID against NFE",
        "FID against CLIP score along guidance",
        "precision against recall",
    ]
    assert len(groups["Against N"].plots) == 1
    assert len(groups["Along guidance_scale"].plots) == len(groups["Along num_inference_steps"].plots) == 5
    assert [text for _, text in groups["Along num_inference_steps"].legend] == ["net ddim guidance_scale 4"]
    one = Run.open(write_run(tmp_path / "b", RunOptions(cells=1)))
    assert [group.title for group in make_plots(one)] == ["Against N"]


def test_the_pareto_front_by_hand(tmp_path: Path) -> None:
    row = ResultTable.load(write_run(tmp_path / "a") / "results.json").rows[0]
    cost = [replace(row, value=v) for v in (1.0, 2.0, 3.0, 3.0)]
    good = [replace(row, value=v, better="higher") for v in (5.0, 5.0, 9.0, 8.0)]
    assert pareto(list(zip(cost, good, strict=True))) == [0, 2]


def test_points_carry_tooltips_and_labels_and_text_stays_text(tmp_path: Path) -> None:
    text = "<b>$x$</b>"
    groups = make_plots(
        Run.open(write_run(tmp_path / "a", RunOptions(text=lambda t: t if t == "ddim" else f"{t} {text}")))
    )
    svg = str(groups[0].plots[0].svg)
    assert svg.count("<title>") == 3
    assert "&lt;b&gt;$x$&lt;/b&gt;" in svg
    assert 'role="img"' in svg
    assert "var(--s1)" in svg
    assert not re.search('#[0-9a-f]{6}[;"]', svg)  # every colour is the page's
    assert "<style" not in svg


@pytest.mark.parametrize("samples", [True, False])
def test_the_heat_map_by_hand(tmp_path: Path, samples: bool) -> None:
    out = write_run(tmp_path / "a")
    if not samples:
        (out / "samples.csv").unlink()
    with (out / "categories.csv").open(newline="") as file:
        means = {(x["cell"], x["category"]): (float(x["mean"]), float(x["stderr"])) for x in csv.DictReader(file)}
    run = Run.open(out)
    maps = make_maps(run)
    assert not isinstance(maps, str)
    found: HeatMap = maps[0]
    assert [name for name, _ in found.categories] == ["animals", "people"]
    cells = run.table.cells
    assert [cell for cell, _ in found.lines] == cells  # the best first, here A
    tile = found.lines[2][1][0]
    assert tile is not None
    (a, sa), (b, sb) = means[cells[2], "animals"], means[cells[0], "animals"]
    assert tile.value == render.format_value(a - b)
    assert (tile.kind, tile.clear, tile.share) == ("worse", True, tile.share)
    if not samples:  # nothing is known to be paired
        assert tile.stderr == f"± {render.format_value((sa**2 + sb**2) ** 0.5)}"
