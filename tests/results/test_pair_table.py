"""The statistics of pairs as the terminal, Markdown and pairs.csv have them, also of many cells."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pytest
from test_table import row

from evalkit.metric import Score
from evalkit.metrics.lpips import Lpips
from evalkit.metrics.psnr import Psnr
from evalkit.results import pair_table, render, terminal
from evalkit.results.table import ResultTable, Row
from evalkit.scoring.pair_details import with_statistics


def psnr(cell: str, *values: float, **details: float) -> Row:
    same = [value == 100 for value in values]
    score = with_statistics(Psnr(), Score(sum(values) / len(values), len(values)), values, same, 30.0)
    about: dict[str, Any] = {"label": "PSNR", "better": "higher", "n": len(values), "note": score.note}
    return row(cell, "psnr", score.value, details={**score.details, **details}, **about)


def lpips(cell: str, *values: float) -> Row:
    score = with_statistics(Lpips(), Score(sum(values) / len(values), len(values)), values)
    return row(cell, "lpips", score.value, label="LPIPS", details=score.details)


def shown(table: ResultTable, capsys: pytest.CaptureFixture[str]) -> list[str]:
    terminal.print_results(table, Path("runs/t"), against_baseline=False, report=True)
    return capsys.readouterr().out.splitlines()


def test_the_terminal_has_a_line_per_cell(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        row("base", "psnr", None, label="PSNR", better="higher", note="this is the baseline"),
        psnr("a", 100, 40, 50, 20.25, unrelated=0, shuffled_mean=9.0),
        lpips("a", 0.0, 0.5, 0.25, 0.0125),
        psnr("b", 9, 8, 10, 9, unrelated=1, shuffled_mean=9.0),
    ]
    lines = shown(ResultTable({"name": "t"}, rows), capsys)
    start = lines.index(next(line for line in lines if line.startswith("pairs")))
    a, b = (next(line for line in lines[start:] if line.startswith(f"│ {key} │")) for key in "BC")
    assert a.split("│")[2].split() == ["52.56", "45.00", "20.25", "20.84", "25%"]
    assert a.split("│")[3].split() == ["0.1906", "0.1313", "0.5000", "0.4925"]
    assert a.split("│")[4].strip() == "1 of 4"
    assert b.split("│")[2].split() == ["?", "9.00", "9.00", "8.00", "8.03", "100%"]
    assert any("? pairs look unrelated" in line for line in lines)
    assert any("median  worst     p1    <30" in line for line in lines)
    assert any(", pairs.csv" in line for line in lines)


@pytest.mark.parametrize("cells", [20, 300])
def test_many_cells_stay_readable(cells: int, capsys: pytest.CaptureFixture[str]) -> None:
    names = [f"a_model-with_a_long_name-{number}" for number in range(cells)]
    rows = [psnr(name, 100, 40 + number % 7, 50) for number, name in enumerate(names)]
    rows += [lpips(name, 0.1, 0.2) for name in names]
    rows[cells // 2] = psnr(names[cells // 2], 9, 10, unrelated=1)
    lines = shown(ResultTable({"name": "t"}, rows), capsys)
    assert len(lines) <= 80
    assert max(map(len, lines)) <= 120
    start = lines.index(next(line for line in lines if line.startswith("pairs")))
    assert sum(line.startswith("│") for line in lines[start:]) == terminal.MOST_PAIRS
    assert any("│ ? " in line for line in lines[start:])
    assert any(f"{cells - terminal.MOST_PAIRS} more cells: pairs.csv" in line for line in lines)
    noted = [line for line in lines if "are identical" in line]
    assert len(noted) == 1
    assert "the like of" in " ".join(lines)


def test_markdown_and_csv() -> None:
    rows = [psnr("a", 100, 40, 50, 20.25, unrelated=1, shuffled_mean=9.0, unrelated_p=0.4), lpips("a", 0.5, 0.25)]
    table = ResultTable({"name": "t"}, rows)
    text = render.to_markdown(table)
    assert "| PSNR ↑ | a | 4 | 52.56 ? | 45.00 | 20.25 | p1 20.84 | 25 % < 30 | 1 | 9.00 |" in text
    assert "| LPIPS ↓ | a | 2 | 0.3750 | 0.3750 | 0.5000 | p99 0.4975 | – | – | – |" in text
    first, second = csv.DictReader(io.StringIO(pair_table.to_csv(table)))
    assert (first["threshold"], first["share_beyond"], first["identical"]) == ("30", "0.25", "1.0")
    assert (first["unrelated"], first["unrelated_p"], float(first["p1"])) == ("1", "0.4", rows[0].details["p1"])
    assert (second["metric"], second["identical"], second["threshold"]) == ("lpips", "", "")


def test_without_pairs_there_is_no_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = ResultTable({"name": "t"}, [row("a", details={"pairs": 3.0})])
    assert "pairs" not in "\n".join(shown(table, capsys))
    assert "Pairs" not in render.to_markdown(table)
    render.write(table, tmp_path)
    assert not (tmp_path / "pairs.csv").exists()
