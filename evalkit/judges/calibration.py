"""How far a judge can be trusted: its answers to items whose right answer people gave. A file, one item per line:

    {"image": "images/0001.png", "question": "Is the digit a seven?", "answer": "yes"}
    {"image": "images/0002.png", "prompt": "a red seven on a blue background", "answer": "no"}

`image` lies next to the file or has a path from it; `question` may be left out where the judge has one question, and
`prompt` where the question names none. Answers are yes or no, numbers of the rubric, or texts, one kind per file.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from evalkit.errors import DataError, nearest
from evalkit.judges.questions import PLACE, Question, question_of
from evalkit.judges.way import Way
from evalkit.judges.ways import way_of
from evalkit.numerics.agreement import Share, agreement, kappa
from evalkit.utils.files import read_file, resolve_path, sha256_bytes, sha256_file, sha256_json
from evalkit.utils.json_files import parse_json

KEYS = ("image", "question", "answer", "prompt", "way")
YES, NO = "yes", "no"
UNREAD = "unread"  # an answer in no form that can be read
OTHER = "another"  # a text that is not the right one
SURE = 0.5  # from this value on an answer counts as yes


@dataclass(frozen=True)
class KnownItem:
    """An image and a question whose answer is known.

    Attributes:
        image: its file.
        question: what is asked; its answer is "yes" where the right one is yes or no, so that values are those of yes.
        prompt: what the image was asked for, for questions that name it.
        right: the right answer: "yes", "no", a grade or a text.
    """

    image: Path
    question: Question
    prompt: str
    right: str


@dataclass(frozen=True)
class KnownItems:
    """A file of them.

    Attributes:
        file: where it lies.
        kind: "yes_no", "grades" or "texts".
        items: at least two.
        digest: of the file's bytes and the images'.
    """

    file: Path
    kind: str
    items: tuple[KnownItem, ...]

    def check(self) -> None:
        """DataError: an image is missing."""
        for number, item in enumerate(self.items, 1):
            if not item.image.is_file():
                raise DataError(f"{self.file}: item {number}: there is no image {item.image}")

    @property
    def ways(self) -> list[Way]:
        """Those of all items."""
        return [way_of(name, str(self.file)) for name in dict.fromkeys(item.question.way for item in self.items)]

    @property
    def digest(self) -> str:
        images = {str(item.image): sha256_file(item.image) for item in self.items}
        return sha256_json([sha256_bytes(read_file(self.file)), sorted(images.values())])


def read_items(path: str | os.PathLike[str], question: Question | None, way: str, where: str) -> KnownItems:
    """A file of items.

    Args:
        path: the file.
        question: the judge's own, for items that have none.
        way: of items that name none.
        where: the option, for messages.

    Raises:
        DataError: it cannot be read, or a line is no item; the message names the line.
        ConfigError: an item's way is not known.
    """
    file = resolve_path(path)
    try:
        lines = read_file(file).decode("utf-8-sig").split("\n")
    except OSError as error:
        raise DataError(f"{where}={path}: cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise DataError(f"{where}={path}: no UTF-8 text") from None
    places = [(f"{file}:{number}", line) for number, line in enumerate(lines, 1) if line.strip()]
    items = [_item(parse_json(line, place, finite=True), file, question, way, place) for place, line in places]
    if len(items) < 2:
        raise DataError(f"{file}: {len(items)} items: two at least are needed, and some dozens say something")
    kinds = [_kind(item, place) for item, (place, _) in zip(items, places, strict=True)]
    if len(set(kinds)) > 1:
        odd = next(place for kind, (place, _) in zip(kinds, places, strict=True) if kind != kinds[0])
        raise DataError(f"{odd}: an answer of another kind than the first line's: give a file per kind")
    if kinds[0] == "yes_no":
        items = [replace(item, question=replace(item.question, answer=YES)) for item in items]
    return KnownItems(file, kinds[0], tuple(items))


def _item(value: Any, file: Path, question: Question | None, way: str, where: str) -> KnownItem:
    if not isinstance(value, Mapping):
        raise DataError(f'{where}: an object such as {{"image": FILE, "question": TEXT, "answer": "yes"}} is needed')
    for key in value:
        if key not in KEYS:
            raise DataError(f"{where}.{key}: an item has no such key. {nearest(str(key), KEYS)}")
    image, right, prompt = value.get("image"), value.get("answer"), value.get("prompt") or ""
    if not isinstance(image, str) or not image:
        raise DataError(f"{where}.image: the path of an image is needed")
    if isinstance(right, bool) or not isinstance(right, str | int | float) or not str(right).strip():
        raise DataError(f"{where}.answer: the right answer is needed: yes, no, a number or a text")
    if not isinstance(prompt, str):
        raise DataError(f"{where}.prompt: a text is needed")
    if value.get("question") is None and question is None:
        raise DataError(f"{where}.question: is needed, since the judge has no question of its own")
    asked = {"id": "q", "text": value.get("question"), "way": value.get("way") or way, "answer": str(right).strip()}
    if value.get("question") is None and question is not None:
        asked["text"] = question.text
    made = question_of(asked, where)
    way_of(made.way, f"{where}.way")
    if PLACE in made.text and not prompt:
        raise DataError(f"{where}.prompt: is needed: the question names it")
    answer = str(made.answer)
    right_one = answer.lower() if answer.lower() in (YES, NO) else answer
    return KnownItem(file.parent / Path(image).expanduser(), made, prompt, right_one)


def _kind(item: KnownItem, where: str) -> str:
    """What an item's answer is. DataError: its way has none to compare."""
    way = way_of(item.question.way, where)
    if item.question.way in ("viescore", "checklist"):
        raise DataError(f"{where}: the way {item.question.way} has no single answer: give yes_no, or a rubric")
    if way.scale != (0.0, 1.0):
        try:
            grade = float(item.right)
        except ValueError:
            grade = math.nan
        if not way.scale[0] <= grade <= way.scale[1] or grade != round(grade):
            low, high = way.scale
            raise DataError(f"{where}.answer={item.right}: a whole number from {low:g} to {high:g} is needed")
        return "grades"
    return "yes_no" if item.right in (YES, NO) and item.question.way != "ocr" else "texts"


@dataclass(frozen=True)
class Calibration:
    """What came of it; as it stands in results.json.

    Attributes:
        judge: the judge's label.
        file, digest: the items' file and digest.
        kind: "yes_no", "grades" or "texts".
        items, images: how many there were.
        unread: answers that could not be read, though asked for again.
        agreement: the share of right answers, with its exact interval (`evalkit.numerics.agreement`).
        kappa: Cohen's; of grades with quadratic weights; none of texts, or where all is of one class.
        classes, columns: of `table`, i64 [C, C or C+1]: right answers, and answers (with "unread", "another").
        right: of each class the share of right answers, with exact intervals.
    """

    judge: str
    file: str
    digest: str
    kind: str
    items: int
    images: int
    unread: int
    agreement: Share
    kappa: Share | None
    classes: tuple[str, ...]
    columns: tuple[str, ...]
    table: tuple[tuple[int, ...], ...]
    right: tuple[Share, ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def compare(judge: str, known: KnownItems, values: Sequence[float | None]) -> Calibration:
    """A judge's values of the items against the right answers.

    Args:
        judge: its label.
        known: the items.
        values: of each what the way read; none: unread, which among grades counts as the lowest, as it does in scores.
    """
    rights = [item.right for item in known.items]
    answers = [_answer(known.kind, item, value) for item, value in zip(known.items, values, strict=True)]
    ids = {image: number for number, image in enumerate(dict.fromkeys(item.image for item in known.items))}
    clusters = [ids[item.image] for item in known.items]
    if known.kind == "grades":
        rights = [f"{float(right):g}" for right in rights]
    classes = _classes(known.kind, rights, answers)
    columns = (*classes, *(extra for extra in (OTHER, UNREAD) if extra in answers))
    counts = Counter(zip(rights, answers, strict=True))
    table = tuple(tuple(counts[right, answer] for answer in columns) for right in classes)
    same = [right == answer for right, answer in zip(rights, answers, strict=True)]
    return Calibration(
        judge,
        known.file.name,
        known.digest[:16],
        known.kind,
        len(rights),
        len(ids),
        answers.count(UNREAD),
        agreement(same, clusters),
        _kappa(known.kind, rights, answers, known.ways[0].scale[0], clusters),
        classes,
        columns,
        table,
        tuple(_right(name, rights, same, clusters) for name in classes),
    )


def _answer(kind: str, item: KnownItem, value: float | None) -> str:
    """The class of a value."""
    if value is None:
        return UNREAD
    if kind == "grades":
        return f"{math.floor(value + 0.5):d}"
    if kind == "yes_no":
        return YES if value >= SURE else NO
    exact = item.question.way == "ocr"  # elsewhere near is a probability
    return item.right if (value == 1 if exact else value >= SURE) else OTHER


def _classes(kind: str, rights: Sequence[str], answers: Sequence[str]) -> tuple[str, ...]:
    if kind == "yes_no":
        return YES, NO
    if kind == "texts":
        return tuple(dict.fromkeys(rights))
    return tuple(str(grade) for grade in sorted({int(one) for one in (*rights, *answers) if one != UNREAD}))


def _kappa(
    kind: str, rights: Sequence[str], answers: Sequence[str], lowest: float, clusters: Sequence[int]
) -> Share | None:
    if kind == "texts":
        return None
    if kind == "yes_no":
        names = [YES, NO, UNREAD]
        first, second = ([names.index(one) for one in side] for side in (rights, answers))
        return kappa(first, second, len(names), "none", clusters)
    first, second = ([int(lowest if one == UNREAD else one) for one in side] for side in (rights, answers))
    return kappa(first, second, max(*first, *second) + 1, "quadratic", clusters)


def _right(name: str, rights: Sequence[str], same: Sequence[bool], clusters: Sequence[int]) -> Share:
    """The share of a class's items that were answered right; 0 to 1 where there are none."""
    places = [place for place, right in enumerate(rights) if right == name]
    if not places:
        return Share(0.0, 0.0, 1.0, 0.0)
    return agreement([same[place] for place in places], [clusters[place] for place in places])


def in_words(found: Mapping[str, Any]) -> str:
    """A calibration (`to_json`) in a line, for people."""
    share, kappa_ = found["agreement"], found["kappa"]
    right = round(share["value"] * found["items"])
    text = (
        f"{found['judge']} agrees with {right} of {found['items']} known answers ({found['file']}): "
        f"{100 * share['value']:.1f} % ({100 * share['low']:.1f} to {100 * share['high']:.1f} %)"
    )
    if kappa_ is not None:
        weighted = "weighted kappa" if found["kind"] == "grades" else "kappa"
        ends = "" if kappa_["low"] is None else f" ({kappa_['low']:.2f} to {kappa_['high']:.2f})"
        text += f", {weighted} {kappa_['value']:.2f}{ends}"
    return text + (f"; {found['unread']} could not be read" if found["unread"] else "")
