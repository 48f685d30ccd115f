"""`{sweep: [...]}` in an option: one variant for each combination of values."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evalkit.cell import Option
from evalkit.errors import ConfigError


@dataclass(frozen=True)
class Variant:
    """An option with one value for each of its swept keys."""

    name: str
    option: Option
    swept: Mapping[str, Any]


def expand(name: str, option: Option) -> list[Variant]:
    """All variants of an option: every `{sweep: [...]}` at any depth is an axis.

    Raises:
        ConfigError: a sweep is not a list, or is empty.
    """
    axes = dict(_axes(option, ()))
    for path, values in axes.items():
        if not isinstance(values, Sequence) or isinstance(values, str) or not values:
            raise ConfigError(f"{name}.{'.'.join(path)}.sweep: give a list of values, such as [10, 20, 50]")
    variants = []
    for values in itertools.product(*axes.values()):
        chosen = dict(zip(axes, values, strict=True))
        swept = {".".join(path): value for path, value in chosen.items()}
        variants.append(Variant(name, _replace(option, chosen, ()), swept))
    return variants


def count(option: Option) -> int:
    """How many variants `expand` would make of an option."""
    return math.prod(len(values) if isinstance(values, Sequence) else 1 for _, values in _axes(option, ()))


def _axes(node: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    if not isinstance(node, Mapping):
        return
    if set(node) == {"sweep"}:
        yield path, node["sweep"]
        return
    for key, value in node.items():
        yield from _axes(value, (*path, key))


def _replace(node: Any, chosen: Mapping[tuple[str, ...], Any], path: tuple[str, ...]) -> Any:
    if path in chosen:
        return chosen[path]
    if not isinstance(node, Mapping):
        return node
    return {key: _replace(value, chosen, (*path, key)) for key, value in node.items()}
