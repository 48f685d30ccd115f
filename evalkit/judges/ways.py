"""Ways of scoring: what is asked besides the question, and how an answer becomes a number. A few lines each."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence

from evalkit.errors import ConfigError, nearest
from evalkit.judges.asker import Answer
from evalkit.judges.ocr import Ocr
from evalkit.judges.questions import Question
from evalkit.judges.way import Way


class YesNo(Way):
    """1 where the answer is the right one (`Question.answer`; "yes" where none is given), else 0.

    Of yes and no the answer's first word of these counts; another right answer is compared as a text, without case and
    punctuation.
    """

    def read(self, answer: Answer, question: Question, part: int) -> float | None:
        if answer.finish == "refusal":
            return None
        right = _plain(question.answer or "yes")
        if right not in ("yes", "no"):
            given = _plain(answer.text)
            return float(given == right) if given else None
        word = _yes_or_no(answer.text)
        return None if word is None else float(word == right)


class YesProbability(Way):
    """The probability that the answer's first token is the right one: VQAScore (Lin et al. 2024, arXiv:2404.01291),
    Soft-TIFA (Kamath et al. 2025, arXiv:2512.16853).

    Summed over the token's spellings ("Yes", " yes", "YES"; "4" for "four"); a longer right answer counts by its first
    token. It is not
    divided by the probability of yes and no together. A spelling that is not among the alternatives that the endpoint
    gives adds nothing: with 20 of them that is less than the least of the 20, each.
    """

    first_token = True
    max_tokens = 1

    def read(self, answer: Answer, question: Question, part: int) -> float | None:
        if answer.first is None or answer.finish == "refusal":
            return None
        right = _plain(question.answer or "yes")
        total = math.fsum(math.exp(logprob) for token, logprob in answer.first.items() if _begins(token, right))
        return min(total, 1.0)


class Rubric(Way):
    """A whole or broken number of a scale: the only one in the answer, or the one in {"score": 4}."""

    def texts(self, question: Question, prompt: str) -> tuple[str, ...]:
        low, high = self.scale
        return (f"{question.of(prompt)}\nAnswer with one number from {low:g} to {high:g}, and nothing else.",)

    def read(self, answer: Answer, question: Question, part: int) -> float | None:
        return _within(_numbers(answer), 1, self.scale)


class Rubric5(Rubric):
    """1 to 5."""

    scale = (1.0, 5.0)


class Rubric10(Rubric):
    """0 to 10."""

    scale = (0.0, 10.0)


class Lower10(Rubric10):
    """The lower of two ratings, 0 to 10: VIEScore's SC and PQ of an edit (GEdit-Bench)."""

    def texts(self, question: Question, prompt: str) -> tuple[str, ...]:
        return (f"{question.of(prompt)}\nAnswer with two numbers from 0 to 10, a comma between, and nothing else.",)

    def read(self, answer: Answer, question: Question, part: int) -> float | None:
        return _within(_numbers(answer), 2, self.scale)


class VieScore(Way):
    """VIEScore (Ku et al. 2024, arXiv:2312.14867): SC, how well the image follows the prompt, and PQ, how well it is
    made (the lower of naturalness and freedom from artefacts), 0 to 10 each; the score is sqrt(SC * PQ).

    The questions are in our words, which ask for the same as the authors' do.
    """

    scale = (0.0, 10.0)
    parts = ("sc", "pq")
    _FORM = 'Answer with JSON alone, such as {{"score": {example}, "reasoning": "one short sentence"}}.'
    _SC = (
        "This image was made by a program that was given a text. Rate from 0 to 10 how well the image shows what the "
        "text asks for: 0 where it shows nothing of it, 10 where it shows all of it.\n"
    )
    _PQ = (
        "This image was made by a program. Give two ratings from 0 to 10. The first: how natural the image looks (0: "
        "distances, shadows or light are wrong throughout; 10: nothing looks unnatural). The second: how free it is of "
        "artefacts (0: full of distortions, blur, watermarks or broken parts; 10: there are none).\n"
    )

    def texts(self, question: Question, prompt: str) -> tuple[str, ...]:
        sc, pq = self._FORM.format(example="[7]"), self._FORM.format(example="[7, 8]")
        return (f"{self._SC}Text: {question.of(prompt)}\n{sc}", f"{self._PQ}{pq}")

    def read(self, answer: Answer, question: Question, part: int) -> float | None:
        return _within(_numbers(answer), 1 + part, self.scale)

    def join(self, values: Sequence[float]) -> float:
        return math.sqrt(values[0] * values[1])


class Checklist(Way):
    """The share of a question's lines that are answered with yes, all in one call: lines "1. yes", "2. no"."""

    def texts(self, question: Question, prompt: str) -> tuple[str, ...]:
        lines = [line.strip() for line in question.of(" ".join(prompt.split())).splitlines() if line.strip()]
        asked = "\n".join(f"{number}. {line}" for number, line in enumerate(lines, 1))
        form = (
            "Answer each of these about the image, one line each, such as '1. yes' or '1. no', and with nothing else."
        )
        return (f"{form}\n{asked}",)

    def read(self, answer: Answer, question: Question, part: int) -> float | None:
        if answer.finish == "refusal":
            return None
        lines = sum(bool(line.strip()) for line in question.text.splitlines())
        given = {int(number): word.lower() for number, word in _LINE.findall(answer.text)}
        if given.keys() != set(range(1, lines + 1)):
            return None
        return [word == "yes" for word in given.values()].count(True) / lines


WAYS: Mapping[str, Way] = {
    "yes_probability": YesProbability(),
    "yes_no": YesNo(),
    "rubric_5": Rubric5(),
    "rubric_10": Rubric10(),
    "lower_10": Lower10(),
    "viescore": VieScore(),
    "checklist": Checklist(),
    "ocr": Ocr(),
}

_COUNTS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_LINE = re.compile(r"^[^\w\n]*(\d{1,4})[^\w\n]+(yes|no)\b", re.I | re.M)
_NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?(?![\w]|\.\d)")
_OUT_OF = re.compile(r"(?<=\d)\s*(?:/|out of)\s*\d+", re.I)  # "4/5", "4 out of 5"
_THOUGHT = "</think>"  # behind it is the answer of models that reason aloud


def way_of(name: str, where: str) -> Way:
    """A way by its name. ConfigError: there is none."""
    if name not in WAYS:
        raise ConfigError(f"{where}={name}: {nearest(name, WAYS)}")
    return WAYS[name]


def _said(text: str) -> str:
    """An answer without the thoughts before it."""
    return text.rpartition(_THOUGHT)[2]


def _plain(text: str) -> str:
    """Without case, punctuation and spaces around."""
    return re.sub(r"[^\w\s]", "", _said(text)).strip().lower()


def _yes_or_no(text: str) -> str | None:
    """The first of the two words; none where there is neither."""
    found = re.search(r"\b(yes|no)\b", _said(text), re.I)
    return found[1].lower() if found else None


def _begins(token: str, right: str) -> bool:
    """Whether a token is the right answer, or the first piece of it, of three letters at least."""
    piece = _plain(token)
    if right in _COUNTS and piece == str(_COUNTS.index(right)):
        return True
    return piece == right or piece == right.split(" ")[0] or (len(piece) >= 3 and right.startswith(piece))


def _numbers(answer: Answer) -> list[float]:
    """The numbers of {"score": [...]} in an answer, or else all that stand in it; none of a refusal."""
    if answer.finish == "refusal":
        return []
    text = _said(answer.text)
    start, end = text.find("{"), text.rfind("}")
    if 0 <= start < end:
        try:
            score = json.loads(text[start : end + 1])["score"]
            return [float(one) for one in (score if isinstance(score, list) else [score])]
        except (ValueError, TypeError, KeyError, RecursionError, OverflowError):
            pass
    return [float(number) for number in _NUMBER.findall(_OUT_OF.sub("", text))]


def _within(numbers: Sequence[float], count: int, scale: tuple[float, float]) -> float | None:
    """The least of exactly `count` numbers; none where there are others, or one lies off the scale."""
    fits = len(numbers) == count and all(scale[0] <= number <= scale[1] for number in numbers)
    return min(numbers) if fits else None
