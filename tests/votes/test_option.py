"""The option `votes`: where votes lie, what they are called, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from evalkit.errors import ConfigError
from evalkit.votes.option import make_ratings
from evalkit.votes.records import Vote, append_votes

CELLS = ("a", "b", "c")


def no_judge(option: Any, name: str, where: str) -> Any:
    raise AssertionError(f"{where}: nobody asked for a judge")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, cells in (("run/votes.csv", "ab"), ("more.csv", "bc"), ("others.csv", "xy")):
        Path(name).parent.mkdir(exist_ok=True)
        vote = Vote(voter="ann", cell_a=cells[0], cell_b=cells[1], index=0, prompt="", outcome="a")
        append_votes(Path(name), [vote])
    Path("other.txt").write_text("cell,index\n1,2\n")
    return tmp_path


@pytest.mark.parametrize(
    ("option", "found"),
    [
        (None, {}),
        (False, {}),
        (True, {"votes_rating": 1}),
        ("run", {"votes_rating": 1}),
        ("run/votes.csv", {"votes_rating": 1}),
        (["run", "more.csv"], {"votes_rating": 2}),
        ({"people": "run", "judge": ["more.csv", "run"]}, {"people_rating": 1, "judge_rating": 2}),
    ],
)
def test_sources(folder: Path, option: Any, found: dict[str, int]) -> None:
    made = make_ratings(option, CELLS, ["fid"], folder / "run", no_judge)
    assert {name: len(metric.votes) for name, metric in made.items()} == found
    if "judge_rating" in made:
        assert made["judge_rating"].title == "Elo (judge)"
        one, other = (made[name].protocol({"a": "1", "b": "2"}) for name in made)
        assert one["votes"] != other["votes"]
        assert one["constants"] == other["constants"]


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("nowhere.csv", "votes: there is no nowhere.csv: `evalkit vote RUN` makes a run's votes.csv"),
        ({"A b": "run"}, "votes.A b: give the votes a name of small letters"),
        ([], r"votes=\[\]: give a votes.csv"),
        (3, "votes=3: give a votes.csv"),
        ({"people": "others.csv"}, "votes.people: its 1 votes are on no two cells of this run. Choices: a, b, c"),
        ({"others": "run"}, "votes.others: the run has a metric 'others_rating' already"),
        ({"judge": {"items": 3}}, r"votes.judge={'items': 3}: give files of votes, or a judge"),
        ("other.txt", "votes: other.txt:1: no votes.csv"),
    ],
)
@pytest.mark.usefixtures("folder")
def test_what_is_refused(option: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        make_ratings(option, CELLS, ["others_rating"], Path("run"), no_judge)
    assert "\n" not in str(caught.value)
