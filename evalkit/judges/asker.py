"""Who is asked: an endpoint (`chat.py`), a model in this process, or a function that knows the truth."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from evalkit.utils.files import sha256_json

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from evalkit.judges.place import AnswerPlace

KEY_DIGITS = 20  # hex digits of a question's digest


def digest_of(image: NDArray[np.uint8]) -> str:
    """Of an image's pixels, u8 [H,W,3]."""
    shape = "x".join(map(str, image.shape))
    return hashlib.sha256(shape.encode() + image.tobytes()).hexdigest()


@dataclass(frozen=True)
class Item:
    """One call's question.

    Attributes:
        images: one or two, each u8 [H,W,3].
        text: all that is asked, with how it is to be answered.
        first_token: whether the way reads the first token's probabilities (`Answer.first`).
        repeat: 0, 1, ... where the same is asked several times.
        attempt: 0, 1, ... where an answer before was not in the form that was asked for.
        max_tokens: of the answer, where the way needs fewer than the asker's own limit.
        digests: of the images; none: they are formed.
    """

    images: tuple[NDArray[np.uint8], ...]
    text: str
    first_token: bool = False
    repeat: int = 0
    attempt: int = 0
    max_tokens: int | None = None
    digests: tuple[str, ...] = ()

    @cached_property
    def shown(self) -> tuple[str, ...]:
        """The images' digests."""
        return self.digests or tuple(map(digest_of, self.images))

    def key(self, *, first_token: bool | None = None) -> str:
        """Its answer is found by it, among those of one judge."""
        first = self.first_token if first_token is None else first_token
        return sha256_json([self.text, self.shown, self.repeat, self.attempt, first])[:KEY_DIGITS]


@dataclass(frozen=True)
class Answer:
    """What came back, as it came.

    Attributes:
        text: the answer; of a refusal what it says.
        first: token -> natural logarithm of its probability as the answer's first token, of those that were given;
            none: no probabilities were given.
        finish: why it ended: "stop", "length", "refusal", or another word of the asker's.
        model: the model's name as the answer has it.
        sent, received: tokens; 0 where nobody counted.
        about: whatever else is worth storing (JSON).
    """

    text: str
    first: Mapping[str, float] | None = None
    finish: str = "stop"
    model: str | None = None
    sent: int = 0
    received: int = 0
    about: Mapping[str, Any] = field(default_factory=dict)


class Asker(ABC):
    """Answers questions about images.

    Attributes:
        at_once: questions that `ask` is given in one call.
        threads: calls of `ask` under way at the same time.
    """

    at_once: int = 1
    threads: int = 1

    @property
    def place(self) -> str:
        """Where it is, for people."""
        return "a judge"

    def keep_in(self, place: AnswerPlace) -> None:  # noqa: B027 (most have nothing to do)
        """Is told where answers are stored, before `check`: what it found out about itself may stand there."""

    @abstractmethod
    def check(self, *, fetch: bool = True, first_token: bool = False) -> None:
        """Looks whether it can be asked: cheap, before the first sample is made.

        Args:
            fetch: false in a dry run: nothing is fetched, and nothing is asked that costs.
            first_token: whether the first token's probabilities will be asked for.

        Raises:
            ConfigError: it cannot, and how to fix it.
        """

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """All that its answers depend on besides the question (JSON), after `check`: answers are found by it."""

    @abstractmethod
    def label(self) -> str:
        """The name that scores are labelled with, after the judge's own."""

    def load(self, device: str) -> None:  # noqa: B027 (most have nothing to do)
        """Makes it ready."""

    def unload(self) -> None:  # noqa: B027 (most have nothing to do)
        """Frees the memory of `load`."""

    @abstractmethod
    def ask(self, items: Sequence[Item]) -> Sequence[Answer]:
        """An answer per item, `at_once` of them at most. Called from `threads` threads.

        Raises:
            ServiceError: it answers no more.
            Stopped: `stop` was called meanwhile.
        """

    def stop(self) -> None:  # noqa: B027 (most have nothing to do)
        """Ends the calls that wait: another call's error ended the batch."""


@dataclass
class FunctionAsker(Asker):
    """A plain function of the images and the text: the truth, where it is known; a judge of a user's own.

    Args:
        function: (images, text, repeat) -> the answer, or its text.
        name: what identity and label say; change it when the function changes.
    """

    function: Callable[[Sequence[NDArray[np.uint8]], str, int], Answer | str]
    name: str
    at_once: int = 256

    def check(self, *, fetch: bool = True, first_token: bool = False) -> None:
        """There is nothing to look for."""

    def identity(self) -> dict[str, Any]:
        return {"function": self.name}

    def label(self) -> str:
        return self.name

    def ask(self, items: Sequence[Item]) -> Sequence[Answer]:
        answers = (self.function(item.images, item.text, item.repeat) for item in items)
        return [answer if isinstance(answer, Answer) else Answer(answer) for answer in answers]
