"""Files of votes from an exported page: what is wrong with one is told in a line, and nothing of it is added."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from command import run_evalkit
from votes_run import write_votes_run

from evalkit.errors import EXIT_CONFIG, DataError
from evalkit.history.registry import find_run
from evalkit.view.ballot import Ballot, Choice
from evalkit.view.vote_export import KEYS, PLANS, export, import_votes
from evalkit.votes.records import read_votes


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The run's folder and the page's."""
    run = write_votes_run(tmp_path_factory.mktemp("export") / "runs")
    made = export(Ballot(find_run(str(run)), Choice(votes=10, repeats=0.2)), run.parent / "page")
    assert made.votes == 10
    return run, made.folder


def sent(exported: tuple[Path, Path], file: Path, **changes: Any) -> Path:
    """A file of two votes, the second of which is changed."""
    (key,) = (exported[0] / KEYS).glob("*.json")
    images = json.loads(key.read_text())["images"]
    left = next(iter(images))
    right = next(name for name in images if images[name][1] == images[left][1] and images[name][0] != images[left][0])
    vote = {"time": "2026-11-28T01:00:00.001Z", "voter": "Eve", "left": left, "right": right, "outcome": "left"}
    votes = [{**vote, "seconds": 2}, {**vote, "seconds": 3.25, "left": right, "right": left} | changes]
    file.write_text(json.dumps({"export": key.stem, "votes": votes}))
    return file


def test_the_page_has_orders_for_its_voters(exported: tuple[Path, Path]) -> None:
    text = (exported[1] / "index.html").read_text()
    data = json.loads(text.split('id="data">')[1].split("</script>")[0])
    assert len(data["plans"]) == PLANS
    assert len({json.dumps(plan) for plan in data["plans"]}) == PLANS
    names = {name for plan in data["plans"] for _, left, right in plan for name in (left, right)}
    assert names == {path.stem for path in (exported[1] / "images").iterdir()}
    pairs = [frozenset(step[1:]) for step in data["plans"][0]]
    assert len(pairs) - len(set(pairs)) == 2
    assert "<b>" not in text.split('id="data">')[1].split("</script>")[0]  # a prompt's
    assert (
        run_evalkit("vote", str(exported[0]), "--export", str(exported[1]), cwd=exported[0]).returncode == EXIT_CONFIG
    )


def test_checks_and_undos_are_worked_out(exported: tuple[Path, Path], tmp_path: Path) -> None:
    file, votes = sent(exported, tmp_path / "sent.json"), tmp_path / "votes.csv"
    assert import_votes(exported[0], file, votes) == (2, 0)
    first, again = read_votes(votes)
    assert [first.check, again.check] == [False, True]
    assert {first.outcome, again.outcome} == {"a", "b"}  # the left one, each time another cell
    undone = sent(exported, tmp_path / "undone.json", outcome="undo", time="2026-11-28T01:00:00.002Z")
    assert import_votes(exported[0], undone, votes) == (1, 1)
    assert read_votes(votes) == [first]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"left": "00"}, "vote 2: it is of images that the export has not"),
        ({"left": None}, "vote 2: 'left' is missing"),
        ({"outcome": "a"}, "vote 2: outcome 'a'"),
        ({"seconds": -1}, "vote 2: 'seconds' is no number"),
        ({"seconds": 10**400}, "vote 2: 'seconds' is no number"),
        ({"time": "noon"}, "vote 2: a vote's time 'noon'"),
        ({"voter": " "}, "a voter's name of 0 characters"),
    ],
)
def test_wrong_files(changes: dict[str, Any], why: str, exported: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=why):
        import_votes(exported[0], sent(exported, tmp_path / "sent.json", **changes), tmp_path / "votes.csv")
    assert not (tmp_path / "votes.csv").exists()


def test_a_file_of_another_run(exported: tuple[Path, Path], tmp_path: Path) -> None:
    file = sent(exported, tmp_path / "sent.json")
    with pytest.raises(DataError, match=r"whose key .* is not here"):
        import_votes(tmp_path, file, tmp_path / "votes.csv")
    file.write_text(json.dumps({"export": "../x", "votes": []}))
    with pytest.raises(DataError, match="no file of votes"):
        import_votes(exported[0], file, tmp_path / "votes.csv")
