"""The report's section on votes: ratings, win rates, groups, needs, voters; and a file that cannot be read."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from report_runs import write_run

from evalkit.report.page import make_page
from evalkit.report.ratings import RatingView, make_ratings
from evalkit.report.run_folder import Run
from evalkit.results.ratings import read_ratings, write_ratings
from evalkit.results.table import ResultTable
from evalkit.votes.metric import Rated, VotesRating
from evalkit.votes.ratings import rate, scores
from evalkit.votes.records import Vote


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run of three cells with 90 votes of two voters, who like the first cell best."""
    out = write_run(tmp_path / "run")
    table = ResultTable.load(out / "results.json")
    rng, votes = random.Random(0), []
    for number in range(90):
        first, second = rng.sample(range(3), 2)
        outcome = "tie" if number % 6 == 0 else "a" if rng.random() < 0.5 + 0.2 * (second - first) else "b"
        about = {"voter": "ann<b>" if number % 2 else "bob", "index": number % 30, "prompt": "", "outcome": outcome}
        votes.append(Vote(cell_a=table.cells[first], cell_b=table.cells[second], **about))  # type: ignore[arg-type]
    found = rate(votes, table.cells, lambda cell, index: -1 - index)
    assert found is not None
    given = scores(found, {cell: [-1 - i for i in range(30)] for cell in table.cells})
    metric = VotesRating("votes", votes)
    rows = [
        replace(r, metric="votes_rating", label=metric.title, better="higher", protocol={"together": {}},
                protocol_hash="votes", note=None, value=s.value, stderr=s.stderr, n=30, details=dict(s.details),
                low=(s.value or 0) - 90, high=(s.value or 0) + 90)
        for r in table.rows if r.metric == table.columns[0].metric for s in [given[r.cell]]
    ]  # fmt: skip
    (out / "results.json").write_text(json.dumps(replace(table, rows=[*table.rows, *rows]).to_json()))
    write_ratings(SimpleNamespace(ratings={"votes_rating": Rated(metric, found, 2)}), out)  # type: ignore[arg-type]
    return out


def test_what_the_page_shows(folder: Path) -> None:
    run = Run.open(folder)
    views = make_ratings(run)
    assert isinstance(views, list)
    (view,) = views
    assert isinstance(view, RatingView)
    assert [line.rank for line in view.lines] == [1, 2, 3]
    assert [line.cell for line in view.lines] == run.table.cells
    assert all(line.ends is not None and line.ends[0] < line.at < line.ends[1] for line in view.lines)
    top, *_, last = view.matrix
    assert top[1][0] is None
    assert top[1][2] is not None
    assert top[1][2].kind == "better"
    assert last[1][0] is not None
    shares = [int(tile.share.removesuffix(" %")) for tile in (top[1][2], last[1][0])]
    assert sum(shares) == pytest.approx(100, abs=1)
    assert [voter[:2] for voter in view.voters] == [["bob", "45"], ["ann<b>", "45"]]
    page = make_page(run, "mark")
    for text in (
        '<h2 id="ratings-h">Votes</h2>',
        'href="#ratings"',
        "90 votes by 2 voters on 30 prompts",
        "ann&lt;b&gt;",
    ):
        assert text in page
    assert "2 votes are on cells or samples that this run has not" in page
    about = read_ratings(folder / "ratings.json")[0]
    told = {frozenset((gap["better"], gap["worse"])): gap["told_apart"] for gap in about["gaps"]}
    letters = {line.cell: set(line.letters) for line in view.lines}
    for pair, apart in told.items():
        one, other = pair
        assert apart == (not letters[one] & letters[other])


def test_a_run_without_votes_and_a_file_that_is_damaged(folder: Path) -> None:
    file = folder / "ratings.json"
    digest = Run.open(folder).digest
    file.write_text(file.read_text().replace("bob", "bab"))
    run = Run.open(folder)
    assert run.digest != digest
    assert "ratings.json cannot be read" in str(make_ratings(run))
    assert "ratings.json cannot be read" in make_page(run, "mark")
    file.unlink()
    run = Run.open(folder)
    assert make_ratings(run) is None
    assert 'id="ratings"' not in make_page(run, "mark")
