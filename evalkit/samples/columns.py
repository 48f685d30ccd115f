"""A sample set's lines of metadata as columns: 70 to 100 bytes per image in memory, where dicts take 2 kB.

A value that returns (a prompt, a device, a warning) is held once and pointed to; times are float64; digests are bytes.
Nothing is rounded: a line that is read from columns is the line that was written.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

Row = Mapping[str, Any]

_PLACE = ("index", "file_name", "check")  # what the place among the samples says, and what was compared already
_TIMINGS: tuple[str, ...] = ("latency_s", "clock_s", "batch", "warmup", "load", "others", "beside")
_TIMINGS += ("measured_at", "arrivals", "scheduled_s", "sent_s", "answered_s", "queued_s", "failed")  # under load
_ABSENT: Any = object()  # a line has no such key


class HexDigests(Sequence[str]):
    """sha256s as text, of bytes u8 [N,32]: 32 bytes each, where texts take 113."""

    def __init__(self, raw: NDArray[np.uint8]) -> None:
        self.raw = raw

    def __len__(self) -> int:
        return len(self.raw)

    @overload
    def __getitem__(self, item: int) -> str: ...
    @overload
    def __getitem__(self, item: slice) -> list[str]: ...
    def __getitem__(self, item: int | slice) -> str | list[str]:
        if isinstance(item, slice):
            joined = self.raw[item].tobytes().hex()
            return [joined[i : i + 64] for i in range(0, len(joined), 64)]
        return str(self.raw[item].tobytes().hex())

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), 1024):  # as fast as all at once
            yield from self[start : start + 1024]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True, eq=False)
class Columns(Sequence[Row]):
    """The lines of samples 0, 1, ...: a sequence of dicts to those who want lines.

    Attributes:
        raw: the files' sha256, u8 [N,32].
        tables: by key the values that its column points to.
        codes: by key of `tables` where each line points to, unsigned integers [N].
        floats: by key of the others, f64 [N].
        first: the index of the first line.
    """

    raw: NDArray[np.uint8]
    tables: Mapping[str, tuple[Any, ...]]
    codes: Mapping[str, NDArray[Any]]
    floats: Mapping[str, NDArray[np.float64]]
    first: int = 0

    @classmethod
    def of(cls, rows: Iterable[Row]) -> Columns:
        """The columns of lines that follow one another."""
        if isinstance(rows, Columns):
            return rows
        lines = list(rows)
        names = dict.fromkeys(name for row in lines for name in row if name not in (*_PLACE, "sha256"))
        tables: dict[str, tuple[Any, ...]] = {}
        codes: dict[str, NDArray[Any]] = {}
        floats: dict[str, NDArray[np.float64]] = {}
        for name in names:
            values = [row.get(name, _ABSENT) for row in lines]
            if all(type(value) is float for value in values):
                floats[name] = np.array(values)
            else:
                tables[name], codes[name] = _coded(values)
        raw = np.frombuffer(bytes.fromhex("".join(str(row["sha256"]) for row in lines)), np.uint8).reshape(-1, 32)
        return cls(raw, tables, codes, floats, int(lines[0]["index"]) if lines else 0)

    @classmethod
    def joined(cls, parts: Sequence[Columns]) -> Columns:
        """One after another."""
        if len(parts) == 1:
            return parts[0]
        names = dict.fromkeys(name for part in parts for name in (*part.tables, *part.floats))
        tables: dict[str, tuple[Any, ...]] = {}
        codes: dict[str, NDArray[Any]] = {}
        floats: dict[str, NDArray[np.float64]] = {}
        for name in names:
            if all(name in part.floats for part in parts):
                floats[name] = np.concatenate([part.floats[name] for part in parts])
            else:
                tables[name], codes[name] = _joined([part._coded(name) for part in parts])
        return cls(np.concatenate([part.raw for part in parts]), tables, codes, floats, parts[0].first)

    def __len__(self) -> int:
        return len(self.raw)

    @overload
    def __getitem__(self, item: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, item: slice) -> Columns: ...
    def __getitem__(self, item: int | slice) -> dict[str, Any] | Columns:
        if isinstance(item, slice):
            start, _, step = item.indices(len(self))
            if step != 1:
                raise IndexError("lines are taken one after another")
            codes = {name: column[item] for name, column in self.codes.items()}
            floats = {name: column[item] for name, column in self.floats.items()}
            return Columns(self.raw[item], self.tables, codes, floats, self.first + start)
        place = range(len(self))[item]
        row: dict[str, Any] = {"file_name": f"{self.first + place:06d}.png", "index": self.first + place}
        for name, table in self.tables.items():
            value = table[self.codes[name][place]]
            if value is not _ABSENT:
                row[name] = value
        row |= {name: float(column[place]) for name, column in self.floats.items()}
        return row | {"sha256": self.raw[place].tobytes().hex()}

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or len(self) != len(other):
            return False
        return all(_unchecked(mine) == _unchecked(theirs) for mine, theirs in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def values(self, name: str, default: Any = None) -> list[Any]:
        """One key of all lines; `default` where a line has none."""
        if name in self.floats:
            values: list[Any] = self.floats[name].tolist()
            return values
        if name not in self.tables:
            return [default] * len(self)
        table = [default if value is _ABSENT else value for value in self.tables[name]]
        return [table[code] for code in self.codes[name].tolist()]

    def mapped(self, name: str, function: Callable[[Any], Any], default: Any = None) -> list[Any]:
        """`function` of one key of all lines; it is called once per value that is another."""
        if name not in self.tables:
            return [function(value) for value in self.values(name, default)]
        table = [function(default if value is _ABSENT else value) for value in self.tables[name]]
        return [table[code] for code in self.codes[name].tolist()]

    def counts(self, name: str) -> list[tuple[Any, int]]:
        """The values of one key, and how many lines have each."""
        if name not in self.tables:
            return []
        counted = np.bincount(self.codes[name], minlength=len(self.tables[name])).tolist()
        return [(v, n) for v, n in zip(self.tables[name], counted, strict=True) if n and v is not _ABSENT]

    def timings(self) -> Iterator[dict[str, Any]]:
        """Of each line what `costs` goes by, without keys that it lacks. Neighbours of a batch are one dict."""
        names = [name for name in _TIMINGS if self._has(name)]
        last: tuple[Any, ...] = ()
        row: dict[str, Any] = {}
        for start in range(0, len(self), 4096):  # all columns of a large set at once would take 200 bytes per image
            part = self[start : start + 4096]
            for values in zip(*(part.values(name, _ABSENT) for name in names), strict=True):
                if values != last:
                    row = {name: value for name, value in zip(names, values, strict=True) if value is not _ABSENT}
                    last = values
                yield row

    def _has(self, name: str) -> bool:
        return name in self.floats or name in self.tables

    @functools.cached_property
    def sha256s(self) -> HexDigests:
        return HexDigests(self.raw)

    def _coded(self, name: str) -> tuple[tuple[Any, ...], NDArray[Any]]:
        if name in self.tables:
            return self.tables[name], self.codes[name]
        values = self.floats[name].tolist() if name in self.floats else [_ABSENT] * len(self)
        return _coded(values)

    # As arrays and a JSON value, for a file without pickle ----------------------------------------------------------

    def arrays(self) -> dict[str, NDArray[Any]]:
        """What `from_arrays` takes, besides `about`."""
        codes = {f"code.{name}": np.ascontiguousarray(column) for name, column in self.codes.items()}
        return {
            "sha256": np.ascontiguousarray(self.raw),
            **codes,
            **{f"float.{k}": np.ascontiguousarray(v) for k, v in self.floats.items()},
        }

    def about(self) -> dict[str, list[list[Any]]]:
        """The tables: each value in a list, which is empty where lines lack the key."""
        return {k: [[] if v is _ABSENT else [v] for v in table] for k, table in self.tables.items()}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]], about: Mapping[str, Sequence[Sequence[Any]]]) -> Columns:
        """Columns from what `arrays` and `about` gave. LookupError, ValueError: they do not fit together."""
        tables = {name: tuple(value[0] if value else _ABSENT for value in table) for name, table in about.items()}
        codes = {name: arrays[f"code.{name}"] for name in tables}
        floats = {name.removeprefix("float."): a for name, a in arrays.items() if name.startswith("float.")}
        raw = arrays["sha256"]
        lengths = {len(column) for column in (*codes.values(), *floats.values())}
        if raw.dtype != np.uint8 or raw.shape[1:] != (32,) or lengths - {len(raw)}:
            raise ValueError("columns of several lengths")
        if any(len(column) and int(column.max()) >= len(tables[name]) for name, column in codes.items()):
            raise ValueError("a code that points to nothing")
        return cls(raw, tables, codes, floats)


def _unchecked(row: Row) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "check"}


def _coded(values: Sequence[Any]) -> tuple[tuple[Any, ...], NDArray[Any]]:
    """The values that differ, in order of first use, and where each of all points to."""
    places: dict[Any, int] = {}
    table: list[Any] = []
    codes = np.empty(len(values), np.int64)
    for i, value in enumerate(values):
        key = json.dumps(value) if isinstance(value, list | dict) else (type(value), value)
        place = places.setdefault(key, len(table))
        if place == len(table):
            table.append(value)
        codes[i] = place
    return tuple(table), _narrow(codes, len(table))


def _joined(parts: Sequence[tuple[tuple[Any, ...], NDArray[Any]]]) -> tuple[tuple[Any, ...], NDArray[Any]]:
    table, codes = _coded([value for values, _ in parts for value in values])
    moved = []
    start = 0
    for values, own in parts:
        moved.append(codes[start : start + len(values)][own])
        start += len(values)
    return table, np.concatenate(moved)


def _narrow(codes: NDArray[Any], count: int) -> NDArray[Any]:
    return codes.astype(np.min_scalar_type(max(count - 1, 0)))
