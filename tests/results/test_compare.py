"""Comparisons of cells: what is compared with what, which are the best, and what is never ranked together."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from test_table import row

from evalkit.results import render, terminal
from evalkit.results.compare import compare, rename_apart
from evalkit.results.table import ResultTable

RNG = np.random.default_rng(0)
SHARED = RNG.normal(0, 5, 200)


def scores(**means: float) -> tuple[list[Any], dict[tuple[str, str], list[float]]]:
    """Rows of a mean over 200 samples that share most of their spread, and their influences."""
    rows, influences = [], {}
    for cell, mean in means.items():
        values = SHARED + RNG.normal(0, 0.3, 200)
        values += mean - values.mean()
        rows.append(row(cell, "clip", mean, stderr=float(values.std(ddof=1) / 200**0.5), better="higher"))
        influences[cell, "clip"] = values.tolist()
    return rows, influences


def test_cells_of_one_seed_are_paired_and_others_are_not() -> None:
    rows, influences = scores(a=30.0, b=30.5, c=30.5)
    pairing = {"a": "x", "b": "x", "c": "y"}
    found, _ = compare(rows, baseline="a", influences=influences, pairing=pairing)
    b, c = found
    assert (b.cell, b.baseline, b.paired, b.verdict) == ("b", "a", True, "better")
    assert (c.cell, c.paired, c.verdict) == ("c", False, "not distinguishable")
    assert b.stderr < 0.1 * c.stderr
    assert b.difference == pytest.approx(0.5)


def test_the_best_are_all_that_are_not_significantly_worse() -> None:
    rows, influences = scores(a=30.0, b=29.99, c=25.0)
    found, best = compare(rows, baseline=None, influences=influences, pairing=dict.fromkeys("abc", "x"))
    assert best == {"clip": ["a", "b"]}
    assert {c.cell: c.verdict for c in found} == {"b": "not distinguishable", "c": "worse"}
    assert all(c.baseline == "a" for c in found)


def test_holm_is_within_a_metric() -> None:
    rows, influences = scores(a=30.0, **{f"c{i}": 30.05 for i in range(9)})
    found, _ = compare(rows, baseline="a", influences=influences, pairing={r.cell: "x" for r in rows})
    raw, corrected = [c.p for c in found], [c.p_holm for c in found]
    assert min(corrected) == pytest.approx(min(1.0, 9 * min(raw)))


@pytest.mark.parametrize("count", [3, 10, 20])
def test_of_equal_cells_hardly_ever_is_one_worse_than_the_best(count: int) -> None:
    """The best is picked from the same data: of 10 equal cells 16 % of runs called one worse, of 20 24 %."""
    rng = np.random.default_rng(count)
    draws, false, lost = 400, 0, 0
    for _ in range(draws):
        values = {f"c{i}": value for i, value in enumerate(rng.normal(size=count))}
        rows = [row(cell, "clip", value, stderr=1.0, better="higher") for cell, value in values.items()]
        found, best = compare(rows, baseline=None, influences={}, pairing={})
        false += any(c.verdict == "worse" for c in found)
        lost += "c0" not in best["clip"]  # of equal cells any may be the truly best
    most = draws * 0.05 + 3 * (draws * 0.05 * 0.95) ** 0.5
    assert false <= most
    assert lost <= most


def test_without_standard_errors_there_is_no_verdict_but_still_a_best() -> None:
    rows = [row("a", value=3.0), row("b", value=2.0)]
    found, best = compare(rows, baseline="a", influences={}, pairing={})
    assert [(c.cell, c.verdict, c.stderr) for c in found] == [("b", "", None)]
    assert best == {"fid": ["b"]}


@pytest.mark.parametrize(
    "other",
    [
        {"n": 50},
        {"n": 100, "features": {"inception/pool3": {"resize": "clean"}}},
        {"n": 100, "features": {"inception/pool3": {"weights": "1234"}}},
        {"n": 100, "reference": {"digest": "5678"}},
    ],
    ids=["N", "resize", "weights", "reference"],
)
def test_other_protocols_are_never_ranked_together(other: dict[str, Any]) -> None:
    rows = [row("a", value=3.0), row("b", value=4.0), row("cheat", value=1.0, protocol=other)]
    found, best = compare(rows, baseline="cheat", influences={}, pairing={})
    assert found == []
    found, best = compare(rows, baseline=None, influences={}, pairing={})
    assert {c.cell for c in found} | {c.baseline for c in found} == {"a", "b"}
    assert best == {"fid": ["a"]}
    table = ResultTable({"name": "t"}, rows, comparisons=found, best=best)
    assert "1.00 †" in render.to_markdown(table)
    notes = [note for note in table.footnotes() if "cheat is not comparable" in note]
    assert len(notes) == 1
    assert str(next(iter(other.values()))) in notes[0] or "digest" in notes[0] or "pool3" in notes[0]


def test_earlier_cells_of_the_same_name_are_told_apart() -> None:
    assert [r.cell for r in rename_apart([row("a"), row("b")], {"a"}, "prev")] == ["a (prev)", "b"]


def test_comparisons_are_shown(tmp_path: Any) -> None:
    rows, influences = scores(a=30.0, b=29.99, c=25.0)
    found, best = compare(rows, baseline="a", influences=influences, pairing=dict.fromkeys("abc", "x"))
    table = ResultTable({"name": "t"}, rows, comparisons=found, best=best)
    text = render.comparisons_to_markdown(table)
    assert "worse (paired)" in text
    assert "not distinguishable (paired)" in text
    assert "< 0.0001" in text
    assert terminal.comparisons_to_rich(table).row_count == 2
    render.write(table, tmp_path)
    assert ResultTable.load(tmp_path / "results.json") == ResultTable(
        {"name": "t"}, tuple(rows), (), tuple(found), best
    )
