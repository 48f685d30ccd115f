"""votes.csv: what is written is read, whatever the texts, the tears of a crash, and the processes that write."""

from __future__ import annotations

import multiprocessing
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evalkit.errors import DataError, StoreError
from evalkit.votes import records
from evalkit.votes.records import HEADS, Followed, Vote, append_vote, append_votes, read_lines, read_votes, standing

TEXTS = st.text(st.characters(codec=None), max_size=20) | st.sampled_from(["=1+1", "'=x", 'a"b,c\n\\n', "\\u0041", "'"])
VOTES = st.builds(
    Vote,
    voter=TEXTS.filter(bool),
    cell_a=TEXTS.map("a{}".format),
    cell_b=TEXTS.map("b{}".format),
    index=st.integers(0, 10**6),
    prompt=TEXTS,
    outcome=st.sampled_from(["a", "b", "tie", "both_bad", "undo"]),
    left=st.sampled_from(["a", "b"]),
    seconds=st.integers(0, 10**7).map(lambda ms: ms / 1000),
    check=st.booleans(),
)


def a_vote(**changes: Any) -> Vote:
    made = Vote(voter="Ann", cell_a="ldm", cell_b="gan", index=3, prompt="a red 3", outcome="a")
    return replace(made, **changes)


@settings(deadline=None, max_examples=40)
@given(votes=st.lists(VOTES, max_size=5))
def test_any_text_comes_back(votes: list[Vote]) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "votes.csv"
        append_votes(path, votes)
        for vote in votes:
            append_vote(path, vote)
        assert read_lines(path) == votes * 2
        assert path.read_bytes().count(b"\n") == 1 + 2 * len(votes)  # a line per vote, whatever is in it


@settings(deadline=None, max_examples=50)
@given(before=st.lists(VOTES, max_size=2), torn=VOTES, after=st.lists(VOTES, max_size=2), share=st.floats(0, 1))
def test_a_torn_write_spoils_no_other_vote(before: list[Vote], torn: Vote, after: list[Vote], share: float) -> None:
    """The file ends anywhere within the last write, its header too; the next votes are whole."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "votes.csv"
        if before:
            append_votes(path, before)
        start = path.stat().st_size if before else 0
        append_vote(path, torn)
        data = path.read_bytes()
        end = start + round(share * (len(data) - start))
        path.write_bytes(data[:end])
        whole = len(data) - end <= 1  # but for the line's end
        followed = Followed(path)
        assert followed.votes() == read_votes(path)
        for vote in after:
            append_vote(path, vote)
            assert followed.votes() == read_votes(path)
        assert read_lines(path) == [*before, *([torn] if whole else []), *after]
        assert path.read_bytes().startswith(data[:end])  # nothing is taken out


def test_a_torn_line_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "votes.csv"
    append_votes(path, [a_vote(index=index) for index in range(2)])
    path.write_bytes(path.read_bytes()[:-9])
    assert [vote.index for vote in read_votes(path)] == [0]
    assert "votes.csv:3: left out" in caplog.text


def test_an_undo_voids_the_voters_last_vote_on_the_item() -> None:
    def cast(voter: str, outcome: str, index: int) -> Vote:
        return a_vote(voter=voter, outcome=outcome, index=index)

    votes = [cast("Ann", "a", 1), cast("Bob", "b", 2), cast("Ann", "tie", 3), cast("Ann", "undo", 3)]
    votes += [cast("Ann", "undo", 3), cast("Ann", "undo", 2), cast("Ann", "both_bad", 4), cast("Ann", "b", 1)]
    votes += [replace(cast("Ann", "undo", 1), cell_a="gan", cell_b="ldm")]  # the same two cells
    assert [(vote.voter, vote.index, vote.outcome) for vote in standing(votes)] == [
        ("Ann", 1, "a"),
        ("Bob", 2, "b"),
        ("Ann", 4, "both_bad"),
    ]


def test_what_was_read_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "votes.csv"
    followed = Followed(path)
    assert followed.votes() == []
    append_votes(path, [a_vote(index=index) for index in range(5)])
    assert [vote.index for vote in followed.votes()] == [0, 1, 2, 3, 4]
    parsed: list[tuple[int, int]] = []
    parse = records.parse
    monkeypatch.setattr(records, "parse", lambda data, *rest: parsed.append((len(data), rest[1])) or parse(data, *rest))
    append_vote(path, a_vote(index=3, outcome="undo"))
    append_vote(path, a_vote(index=5))
    assert [vote.index for vote in followed.votes() + followed.votes()] == [0, 1, 2, 4, 5] * 2
    assert [first for _, first in parsed] == [7]
    path.unlink()
    append_vote(path, a_vote(index=9))
    assert [vote.index for vote in followed.votes()] == [9]


def _write(path: Path, voter: str) -> None:
    for index in range(40):
        append_vote(path, a_vote(voter=voter, index=index))


def test_processes_write_at_once(tmp_path: Path) -> None:
    path = tmp_path / "votes.csv"
    fork = multiprocessing.get_context("fork")
    workers = [fork.Process(target=_write, args=(path, f"voter {number}")) for number in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    votes = read_votes(path)
    assert len(votes) == 160
    for number in range(4):
        assert [vote.index for vote in votes if vote.voter == f"voter {number}"] == list(range(40))
    assert path.read_text().count("time,") == 1


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("cell,index\na,0\n", "1: no votes.csv"),
        ("{heads}\nnow,Ann,a,b,0,p,a,a,1.0,0\n", "2: a vote's time 'now'"),
        ("{heads}\n2026-11-01,Ann,a,b,0,p,left,a,1.0,0\n", "2: a vote's outcome 'left'"),
        ("{heads}\n2026-11-01,Ann,a,b,x,p,a,a,1.0,0\n", "2: index or seconds is no number"),
        ("{heads}\n2026-11-01,Ann,a,a,0,p,a,a,1.0,0\n", "2: a vote between 'a' and itself"),
        ("{heads}\n2026-11-01,Ann,a,b,0,p,a,a,inf,0\n", "2: a vote's index"),
    ],
)
def test_wrong_files_are_told(text: str, why: str, tmp_path: Path) -> None:
    path = tmp_path / "votes.csv"
    path.write_text(text.format(heads=",".join(HEADS)))
    with pytest.raises(DataError, match=why):
        read_votes(path)
    if "no votes" in why:
        with pytest.raises(DataError, match="move it"):
            append_vote(path, a_vote())
    with pytest.raises(DataError, match="no such file"):
        read_votes(tmp_path / "gone.csv")
    with pytest.raises(StoreError, match="gone"):
        append_vote(tmp_path / "gone" / "votes.csv", a_vote())


def test_a_spreadsheet_may_have_saved_it(tmp_path: Path) -> None:
    path = tmp_path / "votes.csv"
    append_vote(path, a_vote())
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    append_vote(path, a_vote(index=4))
    assert [vote.index for vote in read_votes(path)] == [3, 4]
