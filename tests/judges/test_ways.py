"""How answers are read: as they come from real models, and as they should not come."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evalkit.errors import ConfigError
from evalkit.judges.asker import Answer
from evalkit.judges.questions import Question
from evalkit.judges.ways import WAYS, way_of

YES, NO, SEVEN = Question("q", "Q?"), Question("q", "Q?", answer="no"), Question("q", "Q?", answer="seven")
LIST = Question("q", "Is it red?\n Is it round?\n\nIs it big?", way="checklist")

READ = [
    ("yes_no", YES, "Yes", 1),
    ("yes_no", YES, "**No**, it is blue.", 0),
    ("yes_no", YES, "The answer is: no", 0),
    ("yes_no", YES, "<think>no? yes!</think>\nYes.", 1),
    ("yes_no", YES, "I do not know", None),
    ("yes_no", YES, "", None),
    ("yes_no", NO, "no", 1),
    ("yes_no", SEVEN, "Seven.", 1),
    ("yes_no", SEVEN, "eight", 0),
    ("rubric_5", YES, "4", 4),
    ("rubric_5", YES, "Score: 4/5", 4),
    ("rubric_5", YES, "4 out of 5.", 4),
    ("rubric_5", YES, '```json\n{"score": 3, "reasoning": "2 of 4 legs"}\n```', 3),
    ("rubric_5", YES, "between 3 and 4", None),
    ("rubric_5", YES, "6", None),
    ("rubric_5", YES, "-3", None),
    ("rubric_10", YES, "0", 0),
    ("rubric_10", YES, "7.5", 7.5),
    ("rubric_10", YES, "1e3", None),
    ("rubric_10", YES, '{"score": NaN}', None),
    ("viescore", YES, '{"score": [7], "reasoning": "9 stars"}', 7),
    ("viescore", YES, "[7, 8]", None),
    ("checklist", LIST, "1. yes\n2. No\n3) yes - clearly", 2 / 3),
    ("checklist", LIST, "1. yes\n2. no", None),
    ("checklist", LIST, "yes no yes", None),
]


@pytest.mark.parametrize(("way", "question", "text", "value"), READ)
def test_reading(way: str, question: Question, text: str, value: float | None) -> None:
    assert WAYS[way].read(Answer(text), question, 0) == value
    assert WAYS[way].read(Answer(text, finish="refusal"), question, 0) is None


def test_first_token() -> None:
    """Spellings are summed; another right answer by its first piece; without probabilities nothing is read."""
    way = WAYS["yes_probability"]
    given = {"Yes": math.log(0.5), " yes": math.log(0.2), "No": math.log(0.1), "Y": math.log(0.05)}
    assert way.read(Answer("Yes", given), YES, 0) == pytest.approx(0.7)
    assert way.read(Answer("Yes", given), NO, 0) == pytest.approx(0.1)
    assert way.read(Answer("x", {"sev": math.log(0.3), " seven": math.log(0.4)}), SEVEN, 0) == pytest.approx(0.7)
    assert way.read(Answer("Yes"), YES, 0) is None


def test_viescore() -> None:
    """SC from one call, PQ the lower of two, the score their geometric mean."""
    way = WAYS["viescore"]
    sc, pq = way.texts(Question("q", "{prompt}"), "a red seven")
    assert "Text: a red seven\n" in sc
    assert "red" not in pq
    assert way.read(Answer('{"score": [9, 4]}'), YES, 1) == 4
    assert way.read(Answer('{"score": [9]}'), YES, 1) is None
    assert way.join([9, 4]) == 6


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=40) | st.text('[]{}":.,/0123456789 \nyesnocrNa-', max_size=40))
def test_whatever_is_answered(text: str) -> None:
    for way in WAYS.values():
        low, high = way.scale
        for part in range(max(len(way.parts), 1)):
            for first in (None, {text: -0.5, "yes": -1.0}):
                value = way.read(Answer(text, first), LIST, part)
                assert value is None or low <= value <= high


def test_unknown_ways_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"way=yes_probabilty: .*yes_probability"):
        way_of("yes_probabilty", "way")
