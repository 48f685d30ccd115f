"""A judge against known answers: by hand, files that are refused, and the judge who knows the digits' truth."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evalkit.data.codec import encode_png
from evalkit.errors import ConfigError, DataError
from evalkit.judges.calibration import KnownItems, compare, in_words, read_items
from evalkit.judges.questions import Question

OWN = Question("q", 'Does it show "{prompt}"?')


def write(folder: Path, rows: list[dict[str, Any]]) -> Path:
    """A file of items, and an image of its own colour per name."""
    for row in rows:
        shade = sum(map(ord, str(row.get("image")))) % 256
        (folder / str(row.get("image"))).write_bytes(encode_png(np.full((8, 8, 3), shade, np.uint8)))
    file = folder / "known.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def known(folder: Path, answers: list[Any], way: str = "yes_no", question: str = "Is it?") -> KnownItems:
    rows = [{"image": f"{i}.png", "question": question, "answer": answer} for i, answer in enumerate(answers)]
    return read_items(write(folder, rows), None, way, "extractor.judge.calibration")


def test_yes_and_no_by_hand(tmp_path: Path) -> None:
    items = known(tmp_path, ["yes"] * 25 + ["No"] * 25)
    values = [1.0] * 20 + [0.0] * 5 + [0.9] * 10 + [0.2] * 15  # of yes; also probabilities
    found = compare("judge:x", items, values)
    assert (found.classes, found.columns, found.table) == (("yes", "no"), ("yes", "no"), ((20, 5), (10, 15)))
    assert found.agreement.value == 0.7
    assert found.kappa is not None
    assert found.kappa.value == pytest.approx(0.4)
    assert [share.value for share in found.right] == [0.8, 0.6]
    assert found.right[0].low == pytest.approx(0.593, abs=1e-3)  # Clopper and Pearson, 20 of 25
    words = in_words(found.to_json())
    assert words.startswith("judge:x agrees with 35 of 50 known answers (known.jsonl): 70.0 % (55.4 to 82.1 %)")
    assert "kappa 0.40 (0.15 to 0.65)" in words


def test_unread_answers_are_shown_and_never_right(tmp_path: Path) -> None:
    found = compare("j", known(tmp_path, ["yes", "no", "yes"]), [None, 0.0, 1.0])
    assert found.columns == ("yes", "no", "unread")
    assert found.table == ((1, 0, 1), (0, 1, 0))
    assert (found.unread, found.agreement.value) == (1, pytest.approx(2 / 3))
    assert in_words(found.to_json()).endswith("; 1 could not be read")


def test_grades_near_the_right_one_are_nearly_right(tmp_path: Path) -> None:
    items = known(tmp_path, [1, 2, 3, 4, 5], "rubric_5")
    near, far = (compare("j", items, [float(v) for v in values]) for values in ((2, 2, 3, 4, 4), (5, 2, 3, 4, 1)))
    assert near.agreement.value == far.agreement.value == 0.6
    assert near.kappa is not None
    assert far.kappa is not None
    assert near.kappa.value == pytest.approx(1 - 0.4 / (2 + 0.8))  # mean squared difference, seen over expected
    assert far.kappa.value == pytest.approx(1 - 6.4 / (2 + 2))
    unread = compare("j", items, [1.0, 2.0, 3.0, 4.0, None])
    assert unread.columns[-1] == "unread"
    assert unread.table[-1] == (0, 0, 0, 0, 0, 1)


def test_texts(tmp_path: Path) -> None:
    found = compare("j", known(tmp_path, ["OPEN", "SALE"], "ocr"), [1.0, 0.97])
    assert (found.kind, found.columns, found.kappa) == ("texts", ("OPEN", "SALE", "another"), None)
    assert found.table == ((1, 0, 0), (0, 0, 1))


def test_items_of_one_image_widen_the_interval(tmp_path: Path) -> None:
    rows = [{"image": f"{i % 10}.png", "question": f"Is it {i}?", "answer": "yes"} for i in range(40)]
    items = read_items(write(tmp_path, rows), None, "yes_no", "x")
    values = [float(i % 10 < 7) for i in range(40)]  # right or wrong by image
    found = compare("j", items, values)
    assert (found.items, found.images, found.agreement.value) == (40, 10, 0.7)
    assert found.agreement.worth == pytest.approx(9, abs=1.01)
    assert found.agreement.low is not None
    assert found.agreement.low < 0.4


def test_a_judges_own_question_and_prompts(tmp_path: Path) -> None:
    rows = [{"image": "a.png", "prompt": "a cat", "answer": "yes"}, {"image": "b.png", "prompt": "b", "answer": "no"}]
    items = read_items(write(tmp_path, rows), OWN, "yes_probability", "x")
    assert [item.question.of(item.prompt) for item in items.items] == ['Does it show "a cat"?', 'Does it show "b"?']
    assert {item.question.way for item in items.items} == {"yes_probability"}
    items.check()
    before = items.digest
    (tmp_path / "a.png").write_bytes(encode_png(np.zeros((4, 4, 3), np.uint8)))
    assert items.digest != before
    (tmp_path / "a.png").unlink()
    with pytest.raises(DataError, match=r"item 1: there is no image .*a\.png"):
        items.check()


ITEM = {"image": "a.png", "question": "Is it?", "answer": "yes"}


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ({"answr": "no"}, r"known\.jsonl:2\.answr: an item has no such key\. Did you mean 'answer'"),
        ({"answer": None}, r":2\.answer: the right answer is needed"),
        ({"answer": True}, r":2\.answer: the right answer is needed"),
        ({"image": 3}, r":2\.image: the path of an image"),
        ({"question": None}, r":2\.question: is needed, since the judge has no question"),
        ({"question": "Is it {prompt}?"}, r":2\.prompt: is needed"),
        ({"way": "rubric_5", "answer": 7}, r":2\.answer=7: a whole number from 1 to 5"),
        ({"way": "rubric_5", "answer": 4}, r":2: an answer of another kind"),
        ({"way": "viescore"}, r":2: the way viescore has no single answer"),
        ({"way": "yes"}, r":2\.way=yes: "),
    ],
)
def test_refused_lines(tmp_path: Path, second: dict[str, Any], message: str) -> None:
    file = write(tmp_path, [ITEM, ITEM])
    file.write_text("".join(json.dumps(row) + "\n" for row in (ITEM, {**ITEM, **second})))
    with pytest.raises((DataError, ConfigError), match=message):
        read_items(file, None, "yes_no", "extractor.judge.calibration")


def test_refused_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"extractor\.j\.calibration=.*: cannot be read: No such file"):
        read_items(tmp_path / "missing.jsonl", None, "yes_no", "extractor.j.calibration")
    file = write(tmp_path, [ITEM])
    with pytest.raises(DataError, match="1 items: two at least"):
        read_items(file, None, "yes_no", "x")
