"""The way "pairwise": which of two images is better, each question asked twice, with the images in either order.

A judge prefers the first image, or the second, wherever it stands, more often than it should (Zheng et al. 2023,
arXiv:2306.05685): where the two orders' verdicts differ the pair counts as a tie, and how often they do is told.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from evalkit.judges.answers import Answers
from evalkit.judges.asker import Answer, Asker, Item, digest_of
from evalkit.judges.asking import answers_to
from evalkit.judges.questions import PLACE
from evalkit.judges.way import REMINDER

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

QUESTION = (
    "Two images were made by programs that were given the same text. Which of them shows better what the text asks "
    f"for, and is better made?\nText: {PLACE}"
)
FORM = "Answer with one word, and nothing else: first, second or tie."
_WORD = re.compile(r"\b(first|second|tie)\b", re.I)
_THOUGHT = re.compile(r"<think>.*?</think>", re.S)  # of models that reason aloud


@dataclass(frozen=True)
class Pair:
    """Two images, each u8 [H,W,3], that were made for the same prompt."""

    a: NDArray[np.uint8]
    b: NDArray[np.uint8]
    prompt: str


@dataclass(frozen=True)
class Verdict:
    """What a judge says of a pair.

    Attributes:
        orders: "a", "b" or "tie", where a was shown first, and where b was; none: its answers could not be read.
    """

    orders: tuple[str | None, str | None]

    @property
    def flips(self) -> bool:
        """Whether the verdict depends on the order."""
        return self.orders[0] != self.orders[1]

    @property
    def outcome(self) -> str:
        """What both orders say: "a", "b" or "tie"; a tie where they differ or neither could be read."""
        return "tie" if self.flips else self.orders[0] or "tie"

    @property
    def position(self) -> str | None:
        """The place ("first", "second") whose image the judge prefers in both orders; none: it prefers neither."""
        return "first" if self.orders == ("a", "b") else "second" if self.orders == ("b", "a") else None


def text_of(question: str, prompt: str) -> str:
    """All that is asked of a pair."""
    return f"{question.replace(PLACE, prompt)}\n{FORM}"


def read(answer: Answer) -> str | None:
    """The word of an answer; none of a refusal, or where there is none, or more than one."""
    words: set[str] = {word.lower() for word in _WORD.findall(_THOUGHT.sub("", answer.text))}
    if answer.finish == "refusal" or len(words) != 1:
        return None
    return words.pop()


def compare(
    asker: Asker,
    stored: Answers,
    pairs: Sequence[Pair],
    question: str,
    reask: int,
    load: Callable[[], None] | None = None,
) -> list[Verdict]:
    """A judge's verdicts; what was answered before is not asked again.

    Args:
        asker: who is asked.
        stored: its answers.
        pairs: what is judged.
        question: {prompt} stands for the pair's prompt.
        reask: how often an answer that cannot be read is asked for again.
        load: as of `answers_to`.

    Raises:
        ServiceError, StoreError: as `answers_to`.
    """
    items: list[Item] = []
    for pair in pairs:
        digests = (digest_of(pair.a), digest_of(pair.b))
        text = text_of(question, pair.prompt)
        items.append(Item((pair.a, pair.b), text, digests=digests))
        items.append(Item((pair.b, pair.a), text, digests=digests[::-1]))
    words: list[str | None] = [None] * len(items)
    for attempt in range(reask + 1):
        places = [place for place, word in enumerate(words) if word is None]
        if attempt:
            for place in places:
                text = items[place].text if attempt > 1 else f"{items[place].text}\n{REMINDER}"
                items[place] = replace(items[place], text=text, attempt=attempt)
        answers = answers_to(asker, stored, [items[place] for place in places], load)
        for place, answer in zip(places, answers, strict=True):
            words[place] = read(answer)
    outcomes = [_outcome(word, swapped=bool(place % 2)) for place, word in enumerate(words)]
    return [Verdict((outcomes[place], outcomes[place + 1])) for place in range(0, len(outcomes), 2)]


def _outcome(word: str | None, *, swapped: bool) -> str | None:
    if word is None or word == "tie":
        return word
    return "a" if (word == "first") != swapped else "b"
