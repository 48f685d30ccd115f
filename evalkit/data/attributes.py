"""What images are said to show, by their names: CelebA's list_attr_celeba.txt, its partitions, and tables like these.

Both of CelebA's own files and the CSV form that is in use (image_id,5_o_Clock_Shadow,...) are read, and any CSV, TSV or
JSON Lines with a first column of names: columns of 1 and -1 (or 1 and 0, true and false) are attributes, a column of
few other values has an attribute for each ("age: young").
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from evalkit.errors import ConfigError, DataError, nearest
from evalkit.utils.files import read_file, resolve_path
from evalkit.utils.tables import decode_text, lines_of, parse_table

if TYPE_CHECKING:
    from evalkit.data.open import Images

YES, NO = ("1", "true", "yes"), ("-1", "0", "false", "no")
MOST_VALUES = 50  # of a column: more are no classes
PARTS = {"train": "0", "valid": "1", "test": "2"}  # what CelebA's partitions are called
_TABLES = (".csv", ".tsv", ".tab", ".jsonl", ".ndjson")


@dataclass(frozen=True)
class Attributes:
    """What images show.

    Attributes:
        path: of the file.
        images: places in the columns, by the image's name as the file has it.
        columns: by attribute one flag per place.
    """

    path: Path
    images: Mapping[str, int]
    columns: Mapping[str, Sequence[bool]]

    @classmethod
    def read(cls, path: str | os.PathLike[str], only: Sequence[str] | None = None) -> Attributes:
        """From a file; `only`: of some of its attributes.

        Raises:
            ConfigError: there is no such file, or no such attribute (the nearest is offered).
            DataError: it is no table of attributes (which line).
        """
        place = resolve_path(path)
        names, table = _rows(place)
        images = {name: i for i, name in enumerate(names)}
        if len(images) < len(names):
            raise DataError(f"{place}: the image '{_twice(names)}' stands there twice")
        columns: dict[str, Sequence[bool]] = {}
        for column, values in table.items():
            columns |= _flags(place, column, values)
        for name in only or ():
            if name not in columns:
                raise ConfigError(f"{place}: it has no attribute '{name}'. {nearest(name, columns)}")
        return cls(place, images, {name: columns[name] for name in only} if only else columns)

    def of(self, names: Sequence[str | None]) -> dict[str, tuple[bool | None, ...]]:
        """By attribute a flag per image, none of images that the file does not name; a name is found by its last part,
        with another ending too ("000001.png" is "000001.jpg")."""
        stems = {PurePosixPath(name).stem: place for name, place in self.images.items()}
        places = [None if name is None else self._place(name, stems) for name in names]
        return {
            column: tuple(None if place is None else flags[place] for place in places)
            for column, flags in self.columns.items()
        }

    def _place(self, name: str, stems: Mapping[str, int]) -> int | None:
        last = PurePosixPath(name.replace("\\", "/")).name
        found = self.images.get(name, self.images.get(last))
        if found is None and len(stems) == len(self.images):
            found = stems.get(PurePosixPath(last).stem)
        return found


def read_partition(path: str | os.PathLike[str], part: str) -> frozenset[str]:
    """The names of the images of one part of list_eval_partition.txt, or of a table of names and parts.

    Args:
        path: of the file.
        part: train, valid or test (0, 1, 2), or what else its last column says.

    Raises:
        ConfigError: no such file, or no image is of this part.
        DataError: it is no such table.
    """
    place = resolve_path(path)
    names, table = _rows(place)
    column = list(table.values())[-1] if table else []
    wanted = {part, PARTS.get(part, part)}
    chosen = frozenset(name for name, value in zip(names, column, strict=True) if value in wanted)
    if not chosen:
        parts = ", ".join(sorted(set(column))[:10])
        raise ConfigError(f"{place}: no image is of the part '{part}': it has {parts}")
    return chosen


def pick_part(source: Images, path: str | os.PathLike[str], part: str | int) -> Images:
    """The images of one part of a partition, in their order; a name is found by its last part too.

    Raises:
        ConfigError: as `read_partition`; or none of the images is named, or they have no names (an array).
        DataError: as `read_partition`.
    """
    names = read_partition(path, str(part))
    files: Sequence[str] = getattr(source, "files", ())
    chosen = [i for i, file in enumerate(files) if file in names or PurePosixPath(file).name in names]
    if not chosen:
        example = f", such as '{files[0]}'" if files else ": an array's images have no names"
        raise ConfigError(f"{resolve_path(path)}: part '{part}' names none of the {len(source)} images{example}")
    return source.take(chosen)


def _rows(path: Path) -> tuple[list[str], dict[str, list[str]]]:
    """The images' names, and by column their values as texts."""
    if not path.is_file():
        raise ConfigError(f"there is no file {path}: give a table of images' names and attributes")
    data = read_file(path)
    if path.suffix.lower() in _TABLES:
        return _of_table(path, data)
    lines = [line.split() for line in lines_of(decode_text(path, data)) if line.strip()]
    if not lines:
        raise DataError(f"{path}: it is empty")
    start = 0
    if len(lines[0]) == 1 and lines[0][0].isdecimal():  # CelebA's: how many there are, and then the attributes
        start, heads = 2, lines[1] if len(lines) > 1 else []
    else:
        heads = [f"column {i}" for i in range(1, len(lines[0]))]
    for number, cells in enumerate(lines[start:], start + 1):
        if len(cells) != len(heads) + 1:
            raise DataError(f"{path}:{number}: {len(cells)} values where a name and {len(heads)} are wanted")
    body = lines[start:]
    return [cells[0] for cells in body], {head: [cells[i] for cells in body] for i, head in enumerate(heads, 1)}


def _of_table(path: Path, data: bytes) -> tuple[list[str], dict[str, list[str]]]:
    names: list[str] = []
    table: dict[str, list[str]] = {}
    for line, row in parse_table(path, data):
        key, *heads = row
        if table and list(table) != heads:
            raise DataError(f"{path}:{line}: other columns than in the lines before")
        names.append(str(row[key]).strip())
        for head in heads:
            table.setdefault(head, []).append("" if row[head] is None else str(row[head]).strip())
    if not names:
        raise DataError(f"{path}: it is empty")
    return names, table


def _flags(path: Path, column: str, values: Sequence[str]) -> dict[str, list[bool]]:
    """A column as attributes: one of yes and no, or one per value of few."""
    kinds = {value.lower() for value in values}
    if kinds <= {*YES, *NO}:
        return {column: [value.lower() in YES for value in values]}
    known = sorted(set(values) - {""})
    if len(known) > MOST_VALUES:
        fix = f"attributes are 1 and -1, classes {MOST_VALUES} at most"
        raise DataError(f"{path}: the column '{column}' has {len(known)} values: {fix}")
    return {f"{column}: {value}": [each == value for each in values] for value in known}


def _twice(names: Sequence[str]) -> str:
    seen: set[str] = set()
    return next(name for name in names if name in seen or seen.add(name))  # type: ignore[func-returns-value]
