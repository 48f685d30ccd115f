"""The leaderboard: a cell once per protocol, ranks by what is surely better, protocols never in one table."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from many_runs import CELLS, write_runs
from report_runs import HOSTILE, HOSTILE_MARK, Page

from evalkit.errors import ConfigError
from evalkit.history import board
from evalkit.history.board import make_boards
from evalkit.history.board_page import make_page, write_board
from evalkit.history.registry import PastRun, Registry
from evalkit.history.scored import Scored

NET, GAN = CELLS


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    return Registry.read(write_runs(tmp_path_factory.mktemp("many") / "runs"))


def test_protocols_stand_apart_and_a_cell_counts_once(registry: Registry) -> None:
    boards = make_boards(registry, ["fid"])
    assert [len(each.entries) for each in boards] == [6, 5]
    assert [each.differs for each in boards] == ["", "reference.n is 1000, not 500"]
    gan = boards[0].entries[-1]
    assert (gan.row.cell, gan.run.name, gan.runs, gan.rank) == (GAN, "week04", 5, 6)
    values = [entry.row.value or 0.0 for entry in boards[0].entries]
    assert values == sorted(values)


def test_ranks_and_ties(registry: Registry) -> None:
    (clip,) = make_boards(registry, ["clip_score"])
    ranks = [entry.rank for entry in clip.entries]
    assert ranks == [1] * 6 + [7] + [8] * 3  # six weeks of before, the GAN, three weeks of after
    assert clip.entries[0].ties == (1, 2, 3, 4, 5)
    assert clip.entries[6].ties == ()
    (latency,) = make_boards(registry, ["latency_p50"])
    assert {entry.rank for entry in latency.entries} == {None}  # it has no standard error


def test_of_very_many_samples_scores_are_compared_unpaired(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(board, "MOST_WORK", 100)
    (clip,) = make_boards(registry, ["clip_score"])
    assert not clip.paired
    assert "compared unpaired" in make_page(registry, [clip], Path("board.html"), "x")


def test_unpaired_ranks_are_those_of_one_pair_after_the_other(registry: Registry) -> None:
    scores = [
        Scored(run, row) for run in registry.runs for row in run.table.rows if row.metric in ("clip_score", "fid")
    ]
    still = [
        replace(each, row=replace(each.row, stderr=0.0, value=50.0 + number)) for number, each in enumerate(scores[:3])
    ]
    known = [*scores, *still]
    assert np.allclose(board._unpaired_ps(known), board._paired_ps(known), rtol=1e-9, atol=1e-300)


def test_a_long_table_is_cut_on_the_page_alone(registry: Registry, tmp_path: Path) -> None:
    run = registry.runs[0]
    row = run.table.rows[0]
    rows = [replace(row, cell=f"c{number:03d}", value=float(number)) for number in range(130)]
    many = replace(registry, runs=(replace(run, table=replace(run.table, rows=rows)),))
    page, beside = write_board(many, make_boards(many), tmp_path / "board.html", "x")
    assert page.read_text().count('<th scope="row">') == 100
    assert "The best 100 of 130 entries" in Page(page).text
    assert len(json.loads(beside.read_text())["boards"][0]["entries"]) == 130


def test_the_json_next_to_it(registry: Registry, tmp_path: Path) -> None:
    page, beside = write_board(registry, make_boards(registry), tmp_path / "board.html", "Ours")
    data = json.loads(beside.read_text())
    assert (page.name, beside.name, data["title"], len(data["runs"])) == ("board.html", "board.json", "Ours", 9)
    assert [each["metric"] for each in data["boards"]] == ["fid", "fid", "clip_score", "latency_p50"]
    entry = data["boards"][0]["entries"][0]
    assert (entry["run"], entry["rank"], entry["value"], entry["stderr"]) == ("week04", 1, 16.0, 1.0)
    assert len(data["passed_over"]) == 2
    text = Page(page).text
    assert "Passed over" in text
    assert "schema 99 is not known here" in text


def test_no_text_of_a_run_is_obeyed(registry: Registry, tmp_path: Path) -> None:
    def spoiled(run: PastRun, number: int) -> PastRun:
        text = HOSTILE[number % len(HOSTILE)]
        rows = [
            replace(row, cell=row.cell + text, model=text, label=text, settings={text: text}) for row in run.table.rows
        ]
        return replace(run, name=text, table=replace(run.table, rows=rows, run={"made": {"git": text}}))

    runs = tuple(spoiled(run, number) for number, run in enumerate(registry.runs))
    nasty = replace(registry, runs=runs, passed_over=HOSTILE)
    page = Page(write_board(nasty, make_boards(nasty), tmp_path / "board.html", HOSTILE[0])[0])
    assert HOSTILE_MARK not in {tag for tag, _ in page.tags}
    assert len(page.named("script")) == 1
    assert not page.named("img")
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert "\x1b" not in page.source


def test_wrong_words(registry: Registry, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Did you mean 'fid'"):
        make_boards(registry, ["fidd"])
    with pytest.raises(ConfigError, match="no run is below it"):
        make_boards(Registry.read(tmp_path))
