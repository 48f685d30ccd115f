"""Reads a benchmark's own file: prompts with their questions, dependencies, categories and tags.

A YAML says how (`configs/benchmark/`); there is no code per benchmark. What stands where is named by places, see
`evalkit.judges.rows`.
"""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from evalkit.data.concat import expand
from evalkit.errors import ConfigError, DataError, nearest
from evalkit.judges.questions import Question, in_order
from evalkit.judges.rows import Placed, places_of, rows_of
from evalkit.utils.files import read_file, resolve_path
from evalkit.utils.json_files import parse_json

log = logging.getLogger(__name__)

_QUESTION = ("id", "text", "way", "answer", "parents", "tags", "weight", "images", "each", "split")
_JOIN = ("path", "on", "names")
_NO_PARENT = ("", "0")  # how files write that a question depends on none


@dataclass(frozen=True)
class Task:
    """One prompt of a benchmark.

    Attributes:
        prompt: what a model is asked for; of an editing benchmark the instruction.
        questions: at least one; ids are unique, and none depends on itself.
        category: a heading of the benchmark's table.
        tags: of the prompt as a whole, "atomicity: 7".
        image: the picture to be edited.
        class_id: for models that are asked by class.
    """

    prompt: str
    questions: tuple[Question, ...]
    category: str | None = None
    tags: tuple[str, ...] = ()
    image: Path | None = None
    class_id: int | None = None


@dataclass(frozen=True)
class BenchmarkFile:
    """How a benchmark's file is read: the keys of `benchmark` in its YAML.

    Attributes:
        path: a CSV, TSV, JSON (an array of objects, or objects by name) or JSON Lines file, or a .txt of a prompt per
            line; a pattern (`data/*.json`), or a list of several.
        questions: a mapping, how a question is read: `text`, with places in braces ("{question}", "{prompt}", "{.}");
            `id`, `answer` and `parents`, places; `tags`, by kind ("skill") a place, or {path: PLACE, before: " - "} for
            what stands before a text; `way`, `weight` and `images` (2: the picture to edit comes first), values. Every
            row has one question; with `each`, the place of a list or a mapping, one for each of its elements; `split`
            is a regular expression that makes a list of a text. Or a list of such mappings, whose ids, answers, parents
            and tags are values: the same questions for all.
        prompt: the place of the prompt's text.
        id: the place that the rows of one prompt share, where a row is a question; none: a row is a prompt.
        category: the place of its category, or none.
        tags: as of `questions`, of the prompt as a whole.
        tag_files: by kind of tag a JSON file, next to the first, of the numbers of rows by tag.
        image: the place of the path of the picture to edit.
        images: the folder that these paths lie in; none: that of the file.
        class_id: the place of a class, for models that are asked by class.
        cascade: whether a question that counts 0 for its parents' sake takes its own children with it.
        where: by place the value, or values, of the rows that are taken.
        join: a second file with more columns: {path: "Q_D/{category}.json", on: id}. Its path, from the file's folder,
            may name places; `names` has by value what stands in the path instead, and rows of other values are left
            out; `on` is the place whose value is the row's name in a JSON object, or "@row".
        delimiter: as of prompts=[table]; or "text".
        title: how tables call the benchmark.
        source: which file is wanted, and where it is from, for the message where no path is given.
        judge: the name of the extractor that is asked: it is given these questions, unless it has others; the metrics'
            addresses are formed with it.
    """

    path: Any
    questions: Any
    prompt: str = "prompt"
    id: str | None = None
    category: str | None = None
    tags: Mapping[str, Any] = field(default_factory=dict)
    tag_files: Mapping[str, str] = field(default_factory=dict)
    image: str | None = None
    images: str | None = None
    class_id: str | None = None
    cascade: bool = True
    where: Mapping[str, Any] = field(default_factory=dict)
    join: Mapping[str, Any] | None = None
    delimiter: str = "auto"
    title: str = "benchmark"
    source: str | None = None
    judge: str | None = None

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> BenchmarkFile:
        """From the mapping of a YAML. ConfigError: a key that there is not, or none that is needed."""
        _known_keys(options, [one.name for one in fields(cls)], "benchmark")
        for key in ("path", "questions"):
            if not options.get(key):
                raise ConfigError(f"benchmark.{key} is not set: choose a benchmark: benchmark=NAME")
        made = cls(**{key: value for key, value in options.items() if value is not None})
        for i, each in enumerate(made.asked):
            where = f"benchmark.questions[{i}]" if made.same else "benchmark.questions"
            if not isinstance(each, Mapping):
                raise ConfigError(f"{where}: a mapping {{text: ...}}, not {each!r}")
            _known_keys(each, _QUESTION, where)
            if not isinstance(each.get("text"), str):
                raise ConfigError(f"{where}.text is not set: the question, with places of the file in braces")
        _known_keys(made.join or {}, _JOIN, "benchmark.join")
        return made

    @property
    def same(self) -> bool:
        """Whether the questions are the same for all prompts, but for what stands in braces."""
        return not isinstance(self.questions, Mapping)

    @property
    def asked(self) -> Sequence[Mapping[str, Any]]:
        """The ways in which questions are read."""
        return self.questions if self.same else [self.questions]

    def files(self) -> list[Path]:
        """The files that `path` stands for. ConfigError: one is missing; the message names it and its source."""
        files: list[Path] = []
        for one in [self.path] if isinstance(self.path, str) else self.path:
            place = resolve_path(str(one))
            for file in expand(place) or [place]:
                assert isinstance(file, Path)  # `expand` gives what it is given
                if not file.is_file():
                    wanted = f" ({self.source})" if self.source else ""
                    what = "is a folder" if file.is_dir() else "is missing"
                    raise ConfigError(f"benchmark.path: {file} {what}: give the path of the benchmark's file{wanted}")
                files.append(file)
        return files

    def read(self) -> list[Task]:
        """The benchmark's prompts, in the order of the file.

        Raises:
            ConfigError: a file is missing, or a place is not in it; the message names both.
            DataError: a file is not what its suffix says, or its questions depend on each other in a circle.
        """
        rows = [row for row in self._rows() if all(_is_one_of(row, place, what) for place, what in self.where.items())]
        if not rows:
            raise DataError(f"{self.path}: no prompts in it" + (" that `benchmark.where` takes" if self.where else ""))
        groups: dict[Any, list[Placed]] = {}
        for i, row in enumerate(rows):
            groups.setdefault(i if self.id is None else row.text(self.id), []).append(row)
        listed = _listed_tags(rows[0].file, self.tag_files)
        made = [self._task(group, listed) for group in groups.values()]
        if lost := sum(count for _, count in made):
            log.warning(
                "%s: %d questions depend on one that is not there, or on themselves: without it", self.path, lost
            )
        return [task for task, _ in made]

    def _rows(self) -> Iterator[Placed]:
        for file in self.files():
            for row in rows_of(file, self.delimiter):
                more = self._joined(row) if self.join is not None else {}
                if more is not None:
                    yield Placed(row.where, file, row.number, {**row.row, **more})

    def _joined(self, row: Placed) -> Mapping[str, Any] | None:
        """The columns of the second file; none where the row is left out."""
        assert self.join is not None
        path, on = str(self.join["path"]), str(self.join.get("on"))
        values = {place: row.text(place) for place in places_of(path)}
        names: Mapping[str, str] | None = self.join.get("names")
        if names is not None:
            if not all(value in names for value in values.values()):
                return None
            values = {place: names[value] for place, value in values.items()}
        file = row.file.parent / row.filled(path, **values)
        if not file.is_file():
            raise ConfigError(f"benchmark.join: {file} is missing, where the questions of {row.where} stand")
        rows = _rows_by_name(str(file), file.stat().st_mtime_ns)
        key: int | str = row.number if on == "@row" else row.text(on)
        if key not in rows:
            raise DataError(f"{row.where}: {file} has no row '{key}'")
        return rows[key]

    def _task(self, group: Sequence[Placed], listed: Mapping[str, Sequence[str]]) -> tuple[Task, int]:
        """A prompt's task, and how many of its questions depend on one that is not there."""
        first = group[0]
        prompt = first.text(self.prompt)
        if not prompt or not isinstance(first.look(self.prompt), str):
            raise DataError(f"{first.where}: a prompt is needed at '{self.prompt}', a text that is not blank")
        questions: list[Question] = []
        for row in group[:1] if self.same else group:
            for asked in self.asked:
                one_each = row.elements(str(asked["each"]), asked.get("split")) if "each" in asked else [row]
                for element in one_each:
                    questions.append(_question(element, asked, prompt, str(len(questions) + 1), same=self.same))
        whole, lost = _whole(questions, first.where)
        image = None
        if self.image is not None:
            folder = Path(self.images).expanduser() if self.images else first.file.parent
            image = folder / first.text(self.image)
            if not image.is_file():
                raise DataError(
                    f"{first.where}: the image {image} is missing (benchmark.images: the folder it lies in)"
                )
        tags = dict.fromkeys([*_tags(first, self.tags), *listed.get(_number(first), ())])
        category = first.text(self.category) if self.category else ""
        number = _class_id(first, self.class_id) if self.class_id else None
        return Task(prompt, whole, category or None, tuple(tags), image, number), lost


def _number(row: Placed) -> str:
    """The number that lists call a row by: its name, where that is one ("00007"), else its place."""
    name = str(row.row.get("@name", row.number))
    return str(int(name)) if name.isdecimal() else str(row.number)


def _class_id(row: Placed, place: str) -> int:
    text = row.text(place)
    if not text.isdecimal() or int(text) >= 2**31:
        raise DataError(f"{row.where}: a class at '{place}' is a whole number >= 0 (below 2**31), not {text[:40]!r}")
    return int(text)


def _known_keys(options: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    for key in options:
        if key not in known:
            raise ConfigError(f"{where}.{key}: no such key. {nearest(str(key), known)}")


def _is_one_of(row: Placed, place: str, wanted: Any) -> bool:
    return row.text(place) in map(str, wanted if isinstance(wanted, list | tuple) else [wanted])


def _question(row: Placed, asked: Mapping[str, Any], prompt: str, number: str, *, same: bool) -> Question:
    """A question of a row or an element; `same`: its id, answer, parents and tags are values, not places."""
    own, answer, parents = asked.get("id"), asked.get("answer"), asked.get("parents", ())
    if not same:
        own = row.text(str(own)) if own else row.key
        answer = row.text(str(answer)) if answer else None
        parents = row.look(str(parents)) if parents else ()
    every = parents if isinstance(parents, list | tuple) else str(parents).split(",")
    text = "" if answer is None else str(answer)
    return Question(
        id=str(own or number),
        text=row.filled(str(asked["text"]), prompt=prompt).strip(),
        way=str(asked.get("way", "yes_no")),
        answer=(text.lower() if text.lower() in ("yes", "no") else text) or None,
        parents=tuple(name for one in every if (name := str(one).strip()) not in _NO_PARENT),
        tags=tuple(_tags(None if same else row, asked.get("tags") or {})),
        weight=float(asked.get("weight", 1.0)),
        images=int(asked.get("images", 1)),
    )


def _tags(row: Placed | None, kinds: Mapping[str, Any]) -> list[str]:
    """Tags of a row or an element, by kind; without one they are values."""
    if row is None:
        return [f"{kind}: {value}" for kind, value in kinds.items()]
    tags = []
    for kind, rule in kinds.items():
        place, before = (rule["path"], rule.get("before")) if isinstance(rule, Mapping) else (rule, None)
        texts = row.texts(str(place))
        tags += [f"{kind}: {text.partition(before)[0].strip() if before else text}" for text in texts]
    return tags


def _whole(questions: Sequence[Question], where: str) -> tuple[tuple[Question, ...], int]:
    """A prompt's questions without parents that are not there, or are the question itself, and how many had such.

    Raises:
        DataError: they form a circle, or two have the same id.
    """
    if not questions:
        raise DataError(f"{where}: a prompt without questions")
    ids = {question.id for question in questions}
    whole = [replace(q, parents=tuple(p for p in q.parents if p in ids and p != q.id)) for q in questions]
    lost = sum(a.parents != b.parents for a, b in zip(questions, whole, strict=True))
    return in_order(whole, where), lost


def _listed_tags(file: Path, tag_files: Mapping[str, str]) -> dict[str, list[str]]:
    """By a row's number the tags that files of lists give it."""
    listed: dict[str, list[str]] = {}
    for kind, name in tag_files.items():
        path = file.parent / name
        if not path.is_file():
            raise ConfigError(f"benchmark.tag_files.{kind}: {path} is missing: put it next to {file.name}")
        tags = parse_json(read_file(path), path)
        if not isinstance(tags, dict) or not all(isinstance(numbers, list) for numbers in tags.values()):
            raise DataError(f"{path}: an object is needed that has a list of rows' numbers for each tag")
        for tag, numbers in tags.items():
            if not all(str(number).isdecimal() for number in numbers):
                raise DataError(f"{path}: '{tag}' holds what is no number of a row")
            for number in numbers:
                listed.setdefault(str(int(number)), []).append(f"{kind}: {tag}")
    return listed


@functools.lru_cache(maxsize=64)
def _rows_by_name(path: str, changed: int) -> dict[Any, Mapping[str, Any]]:
    """A joined file's rows, by number and by name; read anew where it `changed`."""
    rows = [row.row for row in rows_of(Path(path))]
    return dict(enumerate(rows)) | {row["@name"]: row for row in rows if "@name" in row}


def read_benchmark(options: Mapping[str, Any]) -> list[Task]:
    """A benchmark's prompts, from the mapping of its YAML; read once per process, unless a file changes.

    Raises:
        ConfigError, DataError: as of `BenchmarkFile.of`, `BenchmarkFile.files` and `BenchmarkFile.read`.
    """
    files = BenchmarkFile.of(options).files()
    stamps = tuple((str(file), file.stat().st_mtime_ns, file.stat().st_size) for file in files)
    return _read(json.dumps(options, sort_keys=True, default=str), stamps)


@functools.lru_cache(maxsize=8)
def _read(options: str, stamps: tuple[tuple[str, int, int], ...]) -> list[Task]:
    return BenchmarkFile.of(json.loads(options)).read()


def questions_by_prompt(options: Mapping[str, Any]) -> dict[str, tuple[Question, ...]]:
    """A benchmark's questions by prompt, of several tasks with the same prompt the first one's; errors as above."""
    return {prompt: task.questions for prompt, task in by_prompt(read_benchmark(options)).items()}


def by_prompt(tasks: Sequence[Task]) -> dict[str, Task]:
    """Tasks by prompt, of several with the same prompt the first; a line tells where the others are not alike."""
    found: dict[str, Task] = {}
    for task in tasks:
        found.setdefault(task.prompt, task)
    unlike = sum(replace(task, image=None) != replace(found[task.prompt], image=None) for task in tasks)
    if unlike:
        what = "other questions, another category or other tags: those of the first count"
        log.warning("%d prompts are there again with %s", unlike, what)
    return found


def pictures_by_prompt(options: Mapping[str, Any]) -> dict[str, Path]:
    """The pictures that a benchmark's prompts ask to edit, of prompts that are there with one picture alone."""
    pictures: dict[str, set[Path]] = {}
    for task in read_benchmark(options):
        pictures.setdefault(task.prompt, set()).update([task.image] if task.image else [])
    return {prompt: next(iter(files)) for prompt, files in pictures.items() if len(files) == 1}
