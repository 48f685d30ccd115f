"""Pairs of images in both orders: what is read, what flips, what is stored."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from evalkit.digits.data import reference_images
from evalkit.judges import DigitsTruth
from evalkit.judges.answers import Answers
from evalkit.judges.asker import Answer, FunctionAsker
from evalkit.judges.pairwise import FORM, QUESTION, Pair, Verdict, compare, read, text_of
from evalkit.judges.way import REMINDER


def image(level: int) -> np.ndarray:
    return np.full((4, 4, 3), level, np.uint8)


PAIRS = [Pair(image(a), image(b), "a grey square") for a, b in ((9, 1), (1, 9), (5, 5), (200, 100))]


def brighter(images: Sequence[np.ndarray], text: str, repeat: int) -> str:
    first, second = (int(each.mean()) for each in images)
    return "First." if first > second else "second" if second > first else "Tie"


def judged(function: object, reask: int = 2) -> tuple[list[Verdict], list[str]]:
    asked: list[str] = []

    def ask(images: Sequence[np.ndarray], text: str, repeat: int) -> Answer | str:
        asked.append(text)
        return function(images, text, repeat)  # type: ignore[operator,no-any-return]

    asker = FunctionAsker(ask, "test")
    return compare(asker, Answers(None, asker.identity()), PAIRS, QUESTION, reask), asked


def test_the_brighter_one_wins_in_either_order() -> None:
    verdicts, asked = judged(brighter)
    assert [verdict.outcome for verdict in verdicts] == ["a", "b", "tie", "a"]
    assert not any(verdict.flips for verdict in verdicts)
    assert len(asked) == 5  # the second pair is the first, turned; of two equal images both orders are one question
    assert set(asked) == {text_of(QUESTION, "a grey square")}
    assert asked[0].endswith(f"Text: a grey square\n{FORM}")


def test_a_judge_of_places_says_nothing_of_the_images() -> None:
    verdicts, _ = judged(lambda images, text, repeat: "first")
    assert [verdict.outcome for verdict in verdicts] == ["tie"] * 4
    assert [verdict.position for verdict in verdicts] == ["first"] * 4
    assert all(verdict.flips for verdict in verdicts)


def test_a_verdict_that_leans_in_one_order_alone_is_a_tie() -> None:
    """Where the images are near: the first. What no order tells apart prefers no place."""

    def leans(images: Sequence[np.ndarray], text: str, repeat: int) -> str:
        return brighter(images, text, repeat) if abs(images[0].astype(int) - images[1]).max() > 10 else "first"

    verdicts, _ = judged(leans)
    assert [verdict.outcome for verdict in verdicts] == ["tie", "tie", "tie", "a"]
    half = Verdict(("a", "tie"))
    assert (half.flips, half.outcome, half.position) == (True, "tie", None)


def test_what_cannot_be_read_is_asked_again_and_then_a_tie() -> None:
    seen: list[str] = []

    def slow(images: Sequence[np.ndarray], text: str, repeat: int) -> str:
        seen.append(text)
        return brighter(images, text, repeat) if REMINDER in text else "well, the first or the second"

    verdicts, asked = judged(slow)
    assert [verdict.outcome for verdict in verdicts] == ["a", "b", "tie", "a"]
    assert len(asked) == 10
    silent, asked = judged(lambda images, text, repeat: Answer("first", finish="refusal"), reask=1)
    assert {verdict.orders for verdict in silent} == {(None, None)}
    assert [verdict.outcome for verdict in silent] == ["tie"] * 4
    assert len(asked) == 10


@pytest.mark.parametrize(
    ("text", "word"),
    [
        *(("First", "first"), (" second.", "second"), ("TIE", "tie"), ("<think>first?</think>second", "second")),
        *(("firstly", None), ("", None), ("first or second", None), ("**first** - the first one", "first")),
    ],
)
def test_read(text: str, word: str | None) -> None:
    assert read(Answer(text)) == word


def test_nothing_is_asked_twice() -> None:
    asker = FunctionAsker(brighter, "test")
    stored = Answers(None, asker.identity())
    first = compare(asker, stored, PAIRS[:2], QUESTION, 2)

    def never(images: Sequence[np.ndarray], text: str, repeat: int) -> str:
        raise AssertionError("asked again")

    def load() -> None:
        raise AssertionError("made ready for nothing")

    silent = FunctionAsker(never, "test")
    assert compare(silent, stored, PAIRS[:2], QUESTION, 2, load) == first
    with pytest.raises(AssertionError, match="made ready"):
        compare(silent, stored, PAIRS, QUESTION, 2, load)


def test_the_truth_about_digits_tells_a_caption_from_anothers() -> None:
    images, captions = reference_images()
    shown = [image.transpose(1, 2, 0).copy() for image in images[:20]]
    pairs = [Pair(shown[i], shown[i + 1], captions[i].text) for i in range(0, 20, 2)]
    turned = [Pair(pair.b, pair.a, pair.prompt) for pair in pairs]
    truth = DigitsTruth()
    stored = Answers(None, truth.identity())
    first, second = (compare(truth, stored, each, QUESTION, 0) for each in (pairs, turned))
    assert [verdict.outcome for verdict in first].count("a") >= 9
    assert [verdict.outcome for verdict in second] == [
        {"a": "b", "b": "a"}.get(verdict.outcome, "tie") for verdict in first
    ]
    assert not any(verdict.flips for verdict in first)
