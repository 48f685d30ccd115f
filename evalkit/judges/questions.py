"""What a judge is asked about an image, and the file of questions: one line per prompt.

{"prompt": "a red seven on a blue background", "category": "digits", "questions": [
    {"id": "digit", "text": "Is the digit a seven?", "tags": ["digit"]},
    {"id": "ink", "text": "Is the digit red?", "parents": ["digit"]}]}
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from evalkit.errors import DataError, nearest
from evalkit.utils.files import read_file, resolve_path
from evalkit.utils.json_files import parse_json

PLACE = "{prompt}"  # in a question's text it stands for the prompt


@dataclass(frozen=True)
class Question:
    """One question about an image.

    Attributes:
        id: unique within its prompt.
        text: what is asked; {prompt} stands for the prompt.
        way: how it is asked and its answer read, of `evalkit.judges.ways.WAYS`.
        answer: the right one, where the way compares ("yes", "no", an option, a text that is to be read); none: "yes".
        parents: ids of questions; where one of them counts 0, this one does.
        tags: for tables: a skill, an atomicity.
        weight: in the mean over a prompt's questions, > 0.
        images: 1, the image itself; 2: the picture that it was to edit comes first.
    """

    id: str
    text: str
    way: str = "yes_no"
    answer: str | None = None
    parents: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    weight: float = 1.0
    images: int = 1

    def of(self, prompt: str) -> str:
        """The text about an image of a prompt."""
        return self.text.replace(PLACE, prompt)


_FIELDS = [field.name for field in fields(Question)]


def read_questions(path: str | os.PathLike[str]) -> Mapping[str, tuple[Question, ...]]:
    """A file's questions by prompt.

    Raises:
        DataError: the file is missing, or a line is not as above; the message names the line.
    """
    file = resolve_path(path)
    try:
        text = read_file(file).decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"{file}: questions cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise DataError(f"{file}: no UTF-8 text") from None
    questions: dict[str, tuple[Question, ...]] = {}
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        prompt, asked = _row(parse_json(line, f"{file}:{number}", finite=True), f"{file}:{number}")
        if questions.setdefault(prompt, asked) != asked:
            raise DataError(f"{file}:{number}: other questions of a prompt that a line before has: join them")
    if not questions:
        raise DataError(f"{file}: no questions: the file is empty")
    return questions


def _row(value: Any, where: str) -> tuple[str, tuple[Question, ...]]:
    if not isinstance(value, Mapping):
        raise DataError(f"{where}: an object with prompt and questions is needed")
    prompt, items = value.get("prompt"), value.get("questions")
    if not isinstance(prompt, str) or not prompt.strip():
        raise DataError(f"{where}: prompt: a text is needed")
    if not isinstance(items, list) or not items:
        raise DataError(f"{where}: questions: a list of one at least is needed")
    return prompt.strip(), in_order(
        [question_of(item, f"{where}: questions[{i}]") for i, item in enumerate(items)], where
    )


def question_of(item: Any, where: str) -> Question:
    """A question from a mapping, or from its text alone. DataError: it is none."""
    item = {"id": "q", "text": item} if isinstance(item, str) else item
    if not isinstance(item, Mapping):
        raise DataError(f"{where}: an object with id and text is needed")
    values = {str(key): value for key, value in item.items() if value is not None}
    for name in values:
        if name not in _FIELDS:
            raise DataError(f"{where}.{name}: a question has no such key. {nearest(name, _FIELDS)}")
    for name in ("id", "text", "way", "answer"):
        needed = name in ("id", "text")
        if name == "id" and isinstance(values.get(name), int):
            values[name] = str(values[name])
        if (needed or name in values) and not (isinstance(values.get(name), str) and values[name].strip()):
            raise DataError(f"{where}.{name}: a text is needed")
    for name in ("parents", "tags"):
        each = values.get(name, [])
        if not isinstance(each, list | tuple) or not all(isinstance(one, str | int) for one in each):
            raise DataError(f"{where}.{name}: a list of texts is needed")
        values[name] = tuple(str(one) for one in each)
    weight = values.get("weight", 1.0)
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < math.inf:
        raise DataError(f"{where}.weight={weight}: a number above 0 is needed")
    return Question(**values)


def in_order(questions: Sequence[Question], where: str) -> tuple[Question, ...]:
    """The questions as they are. DataError: an id is there twice, a parent is missing, or is its own descendant."""
    ids = [question.id for question in questions]
    if len(set(ids)) < len(ids):
        raise DataError(f"{where}: the id '{next(one for one in ids if ids.count(one) > 1)}' is there twice")
    parents = {question.id: question.parents for question in questions}
    for question in questions:
        for parent in question.parents:
            if parent not in parents:
                raise DataError(f"{where}: '{question.id}' has a parent '{parent}', which is not there")
    settled: set[str] = set()
    while len(settled) < len(ids):
        ready = {one for one in ids if one not in settled and settled.issuperset(parents[one])}
        if not ready:
            raise DataError(f"{where}: the parents of '{next(one for one in ids if one not in settled)}' form a circle")
        settled |= ready
    return tuple(questions)


def with_parents(questions: Sequence[Question], values: Sequence[float], *, cascade: bool = True) -> list[float]:
    """The values of a prompt's questions, 0 where a parent's is 0.

    Args:
        questions, values: one for the other.
        cascade: whether a parent that is 0 for its own parents' sake counts too (Cho et al. 2024, arXiv:2310.18235;
            DPG-Bench); else its own value alone (OneIG-Bench).
    """
    given = {question.id: value for question, value in zip(questions, values, strict=True)}
    if not cascade:
        return [
            0.0 if any(given[one] == 0 for one in question.parents) else given[question.id] for question in questions
        ]
    parents = {question.id: question.parents for question in questions}
    final: dict[str, float] = {}

    def settle(name: str) -> float:
        if name not in final:
            final[name] = 0.0 if any(settle(parent) == 0 for parent in parents[name]) else given[name]
        return final[name]

    return [settle(question.id) for question in questions]


def weighted_mean(questions: Sequence[Question], values: Sequence[float]) -> float:
    """The mean of a prompt's values, by the questions' weights."""
    total = math.fsum(question.weight for question in questions)
    return math.fsum(q.weight * value for q, value in zip(questions, values, strict=True)) / total
