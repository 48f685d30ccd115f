"""The file of questions: what is read, and which lines are refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalkit.errors import DataError
from evalkit.judges.questions import Question, read_questions, weighted_mean, with_parents

GOOD = {"id": "a", "text": "Is it {prompt}?"}


def write(folder: Path, *rows: object) -> Path:
    file = folder / "questions.jsonl"
    file.write_text("".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows))
    return file


def test_what_is_read(tmp_path: Path) -> None:
    full = {"id": 2, "text": "B?", "way": "yes_no", "answer": "no", "parents": ["a"], "tags": ["ink"], "weight": 2}
    rows = {"prompt": " a red seven", "category": "digits", "questions": [GOOD, full]}
    questions = read_questions(write(tmp_path, rows, "\n", rows, {"prompt": "x", "questions": ["Is it x?"]}))
    assert list(questions) == ["a red seven", "x"]
    assert questions["a red seven"][1] == Question("2", "B?", "yes_no", "no", ("a",), ("ink",), 2)
    assert questions["a red seven"][0].of("a red seven") == "Is it a red seven?"
    assert questions["x"] == (Question("q", "Is it x?"),)


WRONG = [
    ("{", ":1: not JSON"),
    ([1], ":1: an object with prompt and questions"),
    ({"prompt": " ", "questions": [GOOD]}, ":1: prompt: a text"),
    ({"prompt": "x", "questions": []}, ":1: questions: a list"),
    ({"prompt": "x", "questions": [{"id": "a"}]}, r":1: questions\[0\].text: a text"),
    ({"prompt": "x", "questions": [{**GOOD, "wieght": 1}]}, "no such key. Did you mean 'weight'"),
    ({"prompt": "x", "questions": [{**GOOD, "weight": 0}]}, "weight=0: a number above 0"),
    ({"prompt": "x", "questions": [{**GOOD, "tags": "ink"}]}, "tags: a list of texts"),
    ({"prompt": "x", "questions": [GOOD, GOOD]}, "the id 'a' is there twice"),
    ({"prompt": "x", "questions": [{**GOOD, "parents": ["b"]}]}, "has a parent 'b', which is not there"),
    ({"prompt": "x", "questions": [{**GOOD, "parents": ["a"]}]}, "the parents of 'a' form a circle"),
    ("\n", "no questions: the file is empty"),
]


@pytest.mark.parametrize(("row", "message"), WRONG)
def test_what_is_refused(tmp_path: Path, row: object, message: str) -> None:
    with pytest.raises(DataError, match=message) as refused:
        read_questions(write(tmp_path, row))
    assert "\n" not in str(refused.value)


def test_a_prompt_with_two_lists_and_no_file(tmp_path: Path) -> None:
    one, other = ({"prompt": "x", "questions": [{**GOOD, "text": text}]} for text in "AB")
    with pytest.raises(DataError, match=":2: other questions of a prompt that a line before has"):
        read_questions(write(tmp_path, one, other))
    with pytest.raises(DataError, match="questions cannot be read: No such file"):
        read_questions(tmp_path / "none.jsonl")


@given(st.lists(st.integers(0, 1), min_size=4, max_size=4))
def test_parents(values: list[int]) -> None:
    """a <- b <- c, and d <- a, c: what rests on a 0 counts 0, whatever was answered and whatever the order."""
    d, c, b, a = (
        Question(name, "?", parents=tuple(parents)) for name, parents in zip("dcba", ("ac", "b", "a", ""), strict=True)
    )
    chain = [values[3], values[2] * values[3], values[1] * values[2] * values[3]]
    assert with_parents([d, c, b, a], values) == [values[0] * chain[2], *chain[::-1]]


def test_weights() -> None:
    assert weighted_mean([Question("a", "?"), Question("b", "?", weight=3)], [1.0, 0.0]) == 0.25
