"""Whether a value from YAML or the command line is of the kind that an argument's annotation names."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

_LISTS = ("Sequence", "list", "List", "Iterable", "Collection")
# By an annotation's name: what fits it, and how a message calls it. A text may be written as a number (`version: 2`).
_KINDS: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "int": (lambda value: isinstance(value, int) and not isinstance(value, bool), "a whole number"),
    "float": (lambda value: isinstance(value, int | float) and not isinstance(value, bool), "a number"),
    "bool": (lambda value: isinstance(value, bool), "true or false"),
    "str": (lambda value: not isinstance(value, list | tuple | Mapping) and value is not None, "a text"),
    "None": (lambda value: value is None, "null"),
    **dict.fromkeys(("Mapping", "dict", "Dict"), (lambda value: isinstance(value, Mapping), "a mapping {KEY: VALUE}")),
    **dict.fromkeys(_LISTS, (lambda value: isinstance(value, list | tuple), "a list [A, B]")),
}


def misfit(value: Any, annotation: Any) -> str | None:
    """What is wanted instead of `value`, for a message; none where it fits, or where the annotation is another kind.

    Annotations are read as they are written ("int | None"): nothing is imported for them.
    """
    parts = _alternatives(annotation if isinstance(annotation, str) else getattr(annotation, "__name__", ""))
    if not parts or any(part not in _KINDS for part in parts):
        return None
    if any(_KINDS[part][0](value) for part in parts):
        return None
    return " or ".join(dict.fromkeys(_KINDS[part][1] for part in parts))


def _alternatives(annotation: str) -> list[str]:
    """The names between the bars of "Sequence[str | int] | None", without what stands in brackets."""
    previous, text = "", annotation
    while text != previous:  # the innermost brackets first
        previous, text = text, re.sub(r"\[[^\[\]]*\]", "", text)
    return [part.strip() for part in text.split("|")] if text else []
