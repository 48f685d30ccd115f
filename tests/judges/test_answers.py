"""The store of answers: several writers, kills in the middle of a line, damage, a store on a URL."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evalkit.errors import DataError
from evalkit.judges.answers import Answers, answer_line, parse_answer, verify_file
from evalkit.judges.asker import Answer, Item
from evalkit.judges.place import AnswerPlace
from evalkit.utils.blobs import HeldBlobs

IMAGE = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
JUDGE = {"judge": "x"}


def item(number: int = 0, **changes: object) -> Item:
    return replace(Item((IMAGE,), f"Question {number}?"), **changes)


def test_what_is_asked_is_what_an_answer_is_found_by() -> None:
    items = [
        item(),
        item(1),
        item(repeat=1),
        item(attempt=1),
        item(first_token=True),
        Item((IMAGE + 1,), "Question 0?"),
        Item((IMAGE.reshape(2, 8, 3),), "Question 0?"),
        Item((IMAGE, IMAGE), "Question 0?"),
    ]
    assert len({one.key() for one in items}) == len(items)
    assert item(max_tokens=1).key() == item().key()


def test_several_writers(tmp_path: Path) -> None:
    """Each has a file of its own; a third finds all; another judge none."""
    place = AnswerPlace(tmp_path)
    first, second = Answers(place, JUDGE), Answers(place, JUDGE)
    for number in range(6):
        (first, second)[number % 2].put(item(number), Answer(f"answer {number}\n\u2028", sent=number))
    third = Answers(place, JUDGE)
    assert [third.get(item(number)) for number in range(6)] == [
        Answer(f"answer {number}\n\u2028", sent=number) for number in range(6)
    ]
    assert len(list(tmp_path.rglob("*.jsonl"))) == 2
    assert third.usage() == (6, 2.5, 0)
    assert Answers(place, {"judge": "y"}).get(item()) is None


def test_probabilities_serve_who_does_not_want_them(tmp_path: Path) -> None:
    answers = Answers(AnswerPlace(tmp_path), JUDGE)
    answers.put(item(first_token=True), Answer("Yes", {"Yes": -0.5}))
    answers.put(item(1), Answer("No"))
    assert answers.get(item()) == Answer("Yes", {"Yes": -0.5})
    assert answers.get(item(1, first_token=True)) is None


@settings(max_examples=25, deadline=None)
@given(cut=st.integers(0, 400))
def test_a_line_that_was_cut(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    """However short a kill left the last line, those before it are there, and the next file is whole."""
    place = AnswerPlace(tmp_path_factory.mktemp("cut"))
    answers = Answers(place, JUDGE)
    for number in range(2):
        answers.put(item(number), Answer("yes"))
    (file,) = place.folder.rglob("*.jsonl")
    data = file.read_bytes()
    second = data.index(b"\n") + 1
    file.write_bytes(data[: second + min(cut, len(data) - second - 1)])
    again = Answers(place, JUDGE)
    assert again.get(item()) == Answer("yes")
    assert again.get(item(1)) is None
    again.put(item(1), Answer("no"))
    assert Answers(place, JUDGE).get(item(1)) == Answer("no")


def test_a_damaged_line_is_asked_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    answers = Answers(AnswerPlace(tmp_path), JUDGE)
    answers.put(item(), Answer("yes"))
    (file,) = tmp_path.rglob("*.jsonl")
    whole = file.read_bytes()
    file.write_bytes(whole + whole[:30])  # a kill cut the last line: no fault
    verify_file(file)
    file.write_bytes(whole.replace(b'"yes"', b'"yet"'))
    assert Answers(AnswerPlace(tmp_path), JUDGE).get(item()) is None
    assert "altered, or cut short: this answer is asked for again" in caplog.text
    with pytest.raises(DataError, match=r":1: altered"):
        verify_file(file)


def test_a_store_on_a_url(tmp_path: Path) -> None:
    """What is flushed is there for another machine; what is not is there for this one."""
    blobs = HeldBlobs()
    here = Answers(AnswerPlace(tmp_path / "here", blobs), JUDGE)
    here.put(item(), Answer("yes"))
    here.flush()
    here.put(item(1), Answer("no"))
    there = Answers(AnswerPlace(tmp_path / "there", blobs), JUDGE)
    assert (there.get(item()), there.get(item(1))) == (Answer("yes"), None)
    assert Answers(AnswerPlace(tmp_path / "here", blobs), JUDGE).get(item(1)) == Answer("no")
    here.close()
    assert Answers(AnswerPlace(tmp_path / "there", blobs), JUDGE).get(item(1)) == Answer("no")
    assert AnswerPlace(tmp_path / "third", blobs).record(here.name) is not None


def test_lines_that_are_no_answers() -> None:
    line = answer_line(item(), Answer("yes", {"yes": -1.0}, model="m", about={"x": 1}))
    assert parse_answer(line, "x") == Answer("yes", {"yes": -1.0}, model="m", about={"x": 1})
    for wrong in (b"[]", b"{}", b'"', line.replace(b"-1.0", b'"a"'), line.replace(b'{"x": 1}', b"3")):
        with pytest.raises(DataError, match=r"^x: "):
            parse_answer(wrong, "x")
