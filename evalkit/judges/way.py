"""What a way of scoring is: what is asked besides the question, and how an answer becomes a number."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from evalkit.judges.asker import Answer
from evalkit.judges.questions import Question

REMINDER = "Answer in exactly the form that was asked for, and with nothing else."  # of a question that is asked again


class Way(ABC):
    """How a question is asked and its answer read.

    Attributes:
        scale: the lowest and the highest value; an answer that cannot be read counts the lowest.
        first_token: whether it reads the first token's probabilities.
        max_tokens: of an answer; none: the asker's own limit.
        parts: what is asked one after another, each in a call of its own; their values have layers of these names.
        images: how many images a question is about.
        needs_answer: whether each question must have a right answer.
    """

    scale: ClassVar[tuple[float, float]] = (0.0, 1.0)
    first_token: ClassVar[bool] = False
    max_tokens: ClassVar[int | None] = None
    parts: ClassVar[tuple[str, ...]] = ()
    images: ClassVar[int] = 1
    needs_answer: ClassVar[bool] = False

    def texts(self, question: Question, prompt: str) -> tuple[str, ...]:
        """What is asked, one per part (one, where there are none)."""
        return (question.of(prompt),)

    @abstractmethod
    def read(self, answer: Answer, question: Question, part: int) -> float | None:
        """The value of an answer, within the scale; none where it is not in the form that was asked for."""

    def join(self, values: Sequence[float]) -> float:
        """The question's value from those of its parts."""
        return values[0]

    def about(self) -> list[str]:
        """All that it adds to a question's text, for the template's digest."""
        return [*self.texts(Question("", ""), ""), REMINDER]
