"""Rows of a benchmark's file, and what stands at a place in one.

Places are columns: "prompt"; "sub_dims.Testpoints" and "vqa.0" within what a column holds, whether that is JSON or JSON
written as a text. Every row also has "@file" (its file's name without suffix), "@row" (its number in it, from 0) and,
in a JSON object of rows, "@name"; an element of a list or mapping has "@key" (its key, or its number from 1). The
places of an element are its own, "." is the element itself, and "/place" is its row's, of a list or mapping of the same
length what stands there for this element.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from evalkit.errors import ConfigError, DataError, nearest
from evalkit.utils.files import read_file
from evalkit.utils.json_files import parse_json
from evalkit.utils.tables import decode_text, lines_of, parse_table, table_kind

_NAMES = re.compile(r"\{([^{}]+)\}")


@dataclass(frozen=True)
class Placed:
    """A row, or an element of what one of its columns holds.

    Attributes:
        where: file and line, for messages.
        file: that it stands in.
        number: of the row, from 0.
        row: by column.
        element: of a list or a mapping in it.
        key: of the element; none: this is the row itself.
        position, count: of the element, from 0, and how many there are.
    """

    where: str
    file: Path
    number: int
    row: Mapping[str, Any]
    element: Any = None
    key: str | None = None
    position: int = 0
    count: int = 0

    def look(self, place: str) -> Any:
        """What stands at a place. ConfigError: there is no such place; the nearest is offered."""
        if place in ("@file", "@row") or (place == "@key" and self.key is not None):
            return {"@file": self.file.stem, "@row": self.number, "@key": self.key}[place]
        if self.key is None or place == "@name":
            return _at(self.row, place.removeprefix("/"), self.where)
        if not place.startswith("/"):
            return _at(self.element, place, self.where)
        value = _plain(_at(self.row, place[1:], self.where), self.where)
        if isinstance(value, list) and len(value) == self.count:
            return value[self.position]
        return value.get(self.key, value) if isinstance(value, Mapping) else value

    def text(self, place: str) -> str:
        """The same as a text, stripped; of a list its items between commas, of null an empty one."""
        value = self.look(place)
        if isinstance(value, list):
            return ", ".join(map(str, value))
        return "" if value is None else str(value).strip()

    def texts(self, place: str) -> list[str]:
        """The same as texts, without blank ones: of a list its items."""
        value = self.look(place)
        every = value if isinstance(value, list) else [value]
        return [text for one in every if one is not None and (text := str(one).strip())]

    def filled(self, template: str, **known: str) -> str:
        """A text whose places in braces are filled in; `known` ones first."""
        return _NAMES.sub(lambda match: known.get(match[1]) or self.text(match[1]), template)

    def elements(self, place: str, split: str | None = None) -> Iterator[Placed]:
        """The elements of the list or the mapping at a place; `split`: of a text, by a regular expression.

        Raises:
            DataError: neither stands there.
        """
        held = self.look(place)
        if split is not None and not isinstance(held, list | Mapping):
            held = [part.strip() for part in re.split(split, str(held)) if part.strip()]
        held = _plain(held, self.where)
        if not isinstance(held, list | Mapping):
            raise DataError(f"{self.where}: '{place}' holds no list: {str(held)[:40]!r}")
        items = list(held.items()) if isinstance(held, Mapping) else [(i, one) for i, one in enumerate(held, start=1)]
        for position, (key, element) in enumerate(items):
            yield replace(self, element=element, key=str(key), position=position, count=len(items))


def places_of(template: str) -> list[str]:
    """The places in braces of a text."""
    return _NAMES.findall(template)


def rows_of(file: Path, delimiter: str = "auto") -> Iterator[Placed]:
    """The rows of a CSV, TSV, JSON Lines or JSON file (an array of objects, or objects by name), or of a text's lines.

    Args:
        file: the file.
        delimiter: as of prompts=[table], or "text": each line is a row with a "prompt"; so by itself of .txt files.

    Raises:
        DataError: it is not what its suffix says.
    """
    for number, (where, row) in enumerate(_rows(file, delimiter)):
        yield Placed(where, file, number, row)


def _rows(file: Path, delimiter: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    data = read_file(file)
    text = decode_text(file, data)
    if delimiter == "text" or (delimiter == "auto" and file.suffix.lower() == ".txt"):
        lines = enumerate(lines_of(text), start=1)
        yield from ((f"{file}:{i}", {"prompt": line.strip()}) for i, line in lines if line.strip())
    elif table_kind(file, text, delimiter) == "json":
        value = parse_json(text, file)
        named = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else [("", 0)]
        for name, row in named:
            if not isinstance(row, dict):
                raise DataError(f"{file}: '{name}' is no object: rows are an array of objects, or objects by name")
            yield f"{file}: {name}", {"@name": str(name), **row}
    else:
        yield from ((f"{file}:{line}", row) for line, row in parse_table(file, data, delimiter))


def _at(value: Any, place: str, where: str) -> Any:
    """What stands at a place below a value: under the place as a whole, else under its parts between dots."""
    if place == ".":
        return value
    value = _plain(value, where)
    head, _, rest = place.partition(".")
    if isinstance(value, Mapping) and (place in value or head in value):
        return value[place] if place in value else _at(value[head], rest, where)
    if isinstance(value, list) and head.isdecimal() and int(head) < len(value):
        return _at(value[int(head)], rest or ".", where)
    known = map(str, value if isinstance(value, Mapping) else range(len(value) if isinstance(value, list) else 0))
    raise ConfigError(f"{where}: no column '{place}'. {nearest(place, list(known))}")


def _plain(value: Any, where: str) -> Any:
    """A value; of a text that is a JSON list or object what it holds."""
    return parse_json(value, where) if isinstance(value, str) and value.lstrip().startswith(("{", "[")) else value
