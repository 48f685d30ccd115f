"""The published schemas of evalkit's own files (`evalkit/schemas/*.schema.json`), and the check against them."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from evalkit.errors import DataError
from evalkit.utils.text import one_line

FOLDER = Path(__file__).parents[1] / "schemas"


def schema(name: str) -> dict[str, Any]:
    """A published JSON Schema (draft 7): "results", "samples" or "gate"."""
    found: dict[str, Any] = json.loads((FOLDER / f"{name}.schema.json").read_text("utf-8"))
    return found


def check(value: Any, name: str, where: str | os.PathLike[str]) -> None:
    """Holds a JSON value against a schema.

    Args:
        value: as `utils.json_files` gives it.
        name: of the schema.
        where: what the error calls it: a file, or file:line.

    Raises:
        DataError: the first place that is not as it should be: `WHERE: rows[3].value must be number or null: 'x'`.
    """
    import fastjsonschema

    try:
        _compiled(name)(value)
    except fastjsonschema.JsonSchemaValueException as error:
        message = error.message.removeprefix("data").removeprefix(".")
        shown = f": {one_line(repr(error.value), 60)}" if not isinstance(error.value, Mapping | list) else ""
        raise DataError(f"{os.fspath(where)}: {one_line(message, 200)}{shown}") from None


@functools.cache
def _compiled(name: str) -> Callable[[Any], Any]:
    import fastjsonschema

    compiled: Callable[[Any], Any] = fastjsonschema.compile(schema(name), use_default=False)
    return compiled
