"""What a run prints: the verdict first, no score broken at 120 columns, 80 lines at most whatever the grid."""

from __future__ import annotations

import functools
import random
import re
from pathlib import Path
from typing import Any

import pytest
from test_table import row

from evalkit.results import terminal
from evalkit.results.compare import compare
from evalkit.results.table import ResultTable, Row

METRICS = [f"metric_number_{i} [extractor]" for i in range(9)]


def grid(cells: int, metrics: int = 5, settings: int = 3, **more: Any) -> ResultTable:
    """A grid of cells with several settings, scored with standard errors; latencies as well."""
    rng = random.Random(0)
    rows: list[Row] = []
    for number in range(cells):
        name = f"stable_diffusion_xl-dpmpp_2m-guidance_scale_{number}"
        about = {"settings": {f"a_long_setting_{i}": rng.randrange(9) for i in range(settings)}, **more}
        scores = [(f"m{i}", METRICS[i % 9], rng.uniform(1000, 9999), 12.5) for i in range(metrics)]
        scores += [("latency_p50", "latency p50 [ms]", rng.uniform(10, 99), None)]
        rows += [row(name, m, v, model=name[:19], label=label, stderr=e, **about) for m, label, v, e in scores]
    comparisons, best = compare(rows, baseline=rows[0].cell, influences={}, pairing={})
    run = {"name": "t", "baseline": rows[0].cell}
    return ResultTable(run, tuple(rows), comparisons=comparisons, best=best)


large_grid = functools.cache(grid)  # a thousand cells compared take a second


def shown(table: ResultTable, capsys: pytest.CaptureFixture[str], *, baseline: bool = False) -> list[str]:
    terminal.print_results(table, Path("runs/t"), against_baseline=baseline, report=True)
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize(("cells", "metrics"), [(2, 1), (9, 8), (9, 30), (1000, 5), (1000, 40), (30, 12)])
@pytest.mark.parametrize("baseline", [False, True])
def test_at_120_columns_no_score_is_broken_and_80_lines_are_enough(
    capsys: pytest.CaptureFixture[str], cells: int, metrics: int, baseline: bool
) -> None:
    table = large_grid(cells, metrics)
    lines = shown(table, capsys, baseline=baseline)
    assert max(map(len, lines)) <= 120
    assert len(lines) <= 80
    assert re.match(
        r"stable_diffusion_xl.* (is|are each) the best, or not distinguishable from it, by", " ".join(lines[:3])
    )
    text = "\n".join(lines)
    for first in table.rows[: min(metrics, 2) if cells < 30 else 0]:
        assert f"{first.value:.0f} ± 12" in text  # of the first cell, on one line
    assert not re.search(r"│\s+(±|\d+ ±)\s+│", text)
    if cells == 1000:
        assert re.search(r"\.\.\. \d{3} more of 1,000 cells", text)
        assert "table.md, table.csv and report.html hold all" in " ".join(text.split())
    if metrics == 8:
        assert text.count("latency") == 1
        assert all(f"metric_number_{i}" in text for i in range(8))


def test_the_best_cells_are_shown_where_not_all_are(capsys: pytest.CaptureFixture[str]) -> None:
    table = grid(300, 1)
    (best, *_) = table.best["m0"]
    row_of_best = next(r for r in table.rows if r.cell == best and r.metric == "m0")
    assert any(f"{row_of_best.value:.0f} ± 12" in line for line in shown(table, capsys))


def test_notes_are_grouped(capsys: pytest.CaptureFixture[str]) -> None:
    table = grid(20, 4, note="3 prompts were cut")
    lines = shown(table, capsys)
    noted = " ".join(lines).split("results:")[0].split("3 prompts were cut")
    assert len(noted) == 2  # once, for four metrics and twenty cells
    assert "and 16 more" in noted[1]


def test_the_headline_tells_by_how_much_and_how_surely(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [row("a", value=1.0, stderr=0.1), row("b", value=1.1, stderr=0.1), row("c", value=3.0, stderr=0.1)]
    comparisons, best = compare(rows, baseline=None, influences={}, pairing={})
    lines = shown(ResultTable({"name": "t"}, rows, comparisons=comparisons, best=best), capsys)
    assert lines[0].startswith("a and b are each the best, or not distinguishable from it, by the one metric")
    gap = r"FID: a has 1\.00 ± 0\.10, with 1 not distinguishable from it; next is c, \+2\.00, 95 % interval \[1\.\d+, 2"
    assert re.match(gap, lines[1])


def test_names_are_no_markup_and_no_escapes(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [row(name, model=name, note="x\x1b[31m") for name in ("a[/b]c", "\x1b[2Jd")]
    text = "\n".join(shown(ResultTable({"name": "a[/b]c"}, rows), capsys))
    assert "a[/b]c" in text
    assert "\x1b" not in text
