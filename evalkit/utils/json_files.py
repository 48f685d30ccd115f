"""Reads JSON that somebody else wrote, or that a disk may have changed: whatever is wrong is a DataError of one line.

`json.loads` alone raises more than `JSONDecodeError`: RecursionError for thousands of brackets, ValueError for a number
of more than 4,300 digits, UnicodeDecodeError; and it gives what nothing can be done with afterwards: halves of
surrogate pairs, which no file takes, and nesting that the next function that recurses cannot go down.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from evalkit.errors import DataError
from evalkit.utils.files import read_file, sha256_bytes, write_text
from evalkit.utils.text import one_line

if TYPE_CHECKING:
    from evalkit.utils.blobs import Blobs

CHECK = "check"  # the key of the digest in checked files

MAX_DEPTH = 100  # of lists and objects in each other: a workflow has 5, and functions that go down it recurse


def parse_json(data: str | bytes, where: str | os.PathLike[str], *, finite: bool = False) -> Any:
    """A JSON value.

    Args:
        data: the text, or its bytes (UTF-8, with or without a byte-order mark; UTF-16 and UTF-32 are known by theirs).
        where: what the error calls it: a file, or file:line.
        finite: whether NaN, Infinity and numbers that are too large for a float are refused, as in all that evalkit
            writes itself. Others do write them.

    Raises:
        DataError: `WHERE: not JSON: ...`, also for what is nested too deeply, or holds half of a surrogate pair.
    """
    place = os.fspath(where)
    try:
        text = data if isinstance(data, str) else data.decode(json.detect_encoding(data))
        text = text.removeprefix("\ufeff")
        value = json.loads(text, parse_constant=_refuse, parse_float=_finite) if finite else json.loads(text)
        if text.count("[") + text.count("{") > MAX_DEPTH:
            _check_depth(value)
        if "\\ud" in text or "\\uD" in text:
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}, " if error.lineno > 1 else ""
        raise DataError(f"{place}: not JSON: {error.msg} ({line}column {error.colno})") from None
    except RecursionError:
        raise DataError(f"{place}: not JSON: nested more than {MAX_DEPTH} deep") from None
    except UnicodeEncodeError:
        raise DataError(f"{place}: not JSON: a text holds half of a surrogate pair, which is no character") from None
    except ValueError as error:
        raise DataError(f"{place}: not JSON: {one_line(error)}") from None


def read_json(file: Path, *, finite: bool = False) -> Any:
    """A file's JSON value, as `parse_json`. Raises OSError where it cannot be read, DataError where it is no file."""
    return parse_json(read_file(file), file, finite=finite)


def write_checked(file: Path, value: Mapping[str, Any]) -> None:
    """Writes a JSON object for `read_checked`, whole or not at all; NaN is refused (`ValueError`).

    Its first line is the digest of the others, so that no bit of it changes unseen, and reading costs one hash.
    """
    write_text(file, checked_text(value))


def checked_text(value: Mapping[str, Any]) -> str:
    """What `write_checked` writes."""
    body = json.dumps(value, allow_nan=False, ensure_ascii=False)[1:] + "\n"
    return f'{{"{CHECK}": "{sha256_bytes(body.encode())}",\n{body}'


def read_checked(file: Path) -> dict[str, Any]:
    """A JSON object as `write_checked` wrote it.

    Raises:
        OSError: the file cannot be read.
        DataError: it was altered or cut short.
    """
    return parse_checked(read_file(file), file)


def parse_checked(data: bytes, file: str | os.PathLike[str]) -> dict[str, Any]:
    """`read_checked` of bytes; `file` is what errors call them."""
    head, _, body = data.partition(b"\n")
    if head.decode("ascii", "replace") != f'{{"{CHECK}": "{sha256_bytes(body)}",':
        raise DataError(f"{os.fspath(file)}: altered or cut short (its sha256 is not the recorded one)")
    value = parse_json(data, file, finite=True)
    if not isinstance(value, dict):
        raise DataError(f"{os.fspath(file)}: not a JSON object")
    return value


def put_checked(blobs: Blobs, key: str, value: Mapping[str, Any]) -> None:
    """`write_checked` into a store. StoreError: it cannot be written."""
    blobs.put(key, checked_text(value).encode())


def get_checked(blobs: Blobs, key: str) -> dict[str, Any]:
    """What `put_checked` wrote. OSError: it is not there; DataError: it was altered or cut short."""
    return parse_checked(blobs.get(key), f"{blobs.where}/{key}")


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        level = [inner for inner in level if isinstance(inner, dict | list)]
        if not level:
            return
        level = [inner for outer in level for inner in (outer.values() if isinstance(outer, dict) else outer)]
    raise RecursionError


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"the number {digits[:40]} is too large")
    return number
