"""The way ocr: distances against the textbook's table, answers as judges write them, scores by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evalkit.errors import ConfigError
from evalkit.extractors.judge import Judge
from evalkit.judges.asker import Answer, FunctionAsker
from evalkit.judges.ocr import (
    FORM,
    NORMALISATION,
    Ocr,
    edit_distance,
    normalised,
    similarity,
    text_of,
    word_accuracy,
)
from evalkit.judges.questions import Question
from evalkit.metric import Batch
from evalkit.metrics.judge_mean import JudgeMean

TEXTS = st.text("ab cdé", max_size=90)


def by_table(a: str, b: str) -> int:
    """Wagner and Fischer 1974."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        before, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (x != y))
    return row[-1]


@settings(max_examples=60, deadline=None)
@given(TEXTS, TEXTS)
def test_edit_distance_is_the_tables(a: str, b: str) -> None:
    assert edit_distance(a, b) == by_table(a, b)
    assert similarity(a, b) == similarity(b, a)
    assert 0 <= similarity(a, b) <= 1


def test_edit_distance_by_hand() -> None:
    assert [edit_distance(*pair) for pair in (("kitten", "sitting"), ("", "abc"), ("abc", "abc"), ("ab", "ba"))] == [
        3,
        3,
        0,
        2,
    ]


def test_scores_by_hand() -> None:
    question = Question("t", "Which text is on the sign?", "ocr", answer="Grand Opening\nSALE 50%")
    ask = Ocr().texts(question, "a shop")
    assert ask == (f"Which text is on the sign?\n{FORM}",) * 2  # two readings of one answer
    read = Answer("grand  opening sale 5O%")  # an O for a 0: one of 22 characters, one of 4 words
    assert Ocr().read(read, question, 0) == pytest.approx(1 - 1 / 22)
    assert Ocr().read(read, question, 1) == 0.75
    assert Ocr().read(Answer("(no text)"), question, 0) == 0.0
    assert Ocr().read(Answer("I cannot read it", finish="refusal"), question, 0) is None
    assert Ocr().read(Answer(" "), question, 0) is None
    assert NORMALISATION in Ocr().about()
    assert Ocr().join([0.9, 0.5]) == 0.9


def test_words_count_as_often_as_they_are_there() -> None:
    assert word_accuracy("no no no", "no yes") == 0.5
    assert word_accuracy("no", "no no") == 0.5
    assert (word_accuracy("", ""), word_accuracy("x", "")) == (1.0, 0.0)


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ('"Hello"', "Hello"),
        ("“Hello”", "Hello"),
        ('"Hello" and "you"', '"Hello" and "you"'),
        ("```\nHello\nyou\n```", "Hello\nyou"),
        ("<think>it says</think> Hello", "Hello"),
        ("(No text).", ""),
        ("no text", ""),
        ("There is no text", "There is no text"),
    ],
)
def test_answers_as_judges_write_them(answer: str, text: str) -> None:
    assert text_of(Answer(answer)) == text


def test_normalisation() -> None:
    assert normalised("  ＡＢ\n\tﬁ x²  ") == "ab fi x2"


def test_a_judge_reads_once_per_image(tmp_path: Path) -> None:
    signs = {"a sign: OPEN": "OPEN", "a sign: 24 h": "24 h", "a cat": None}
    questions = [{"id": "q", "text": "Which text?", "way": "ocr", "answer": text} for text in signs.values()]
    questions[2] = {"id": "q", "text": "Is it a cat?"}
    rows = [{"prompt": prompt, "questions": [asked]} for prompt, asked in zip(signs, questions, strict=True)]
    file = tmp_path / "questions.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked: list[str] = []

    def read(images: object, text: str, repeat: int) -> str:
        asked.append(text)
        return "yes" if "cat" in text else "open 24 hours"

    judge = Judge(FunctionAsker(read, "reader"), questions=str(file))
    judge.check()
    judge.load("cpu")
    images = [np.full((8, 8, 3), i, np.uint8) for i in range(3)]
    found = judge(images, list(signs), ["score", "edit", "words", "calls"])
    assert len(asked) == 3
    assert found["score"][:, 0].tolist() == pytest.approx([4 / 13, 4 / 13, 1.0])
    assert found["words"][:2, 0].tolist() == [1.0, 0.5]
    assert found["words"][2].isnan().all()
    assert found["calls"][:, 0].tolist() == [1, 1, 1]
    batch = Batch(None, torch.arange(3), 3, list(signs), {f"judge/{name}": value for name, value in found.items()})
    metric = JudgeMean(layer="score", further=["words"])
    batch = replace(batch, features={**batch.features, "judge/repeats": found["score"]})
    score = metric.score(generated=metric.observe(batch))
    assert score.value == pytest.approx((4 / 13 + 4 / 13 + 1) / 3)
    assert score.details["words"] == 0.75


def test_a_question_without_the_right_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'Which text\\?': the way ocr needs the right answer"):
        Judge(FunctionAsker(lambda images, text, repeat: "", "x"), way="ocr", question="Which text?")
