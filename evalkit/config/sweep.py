"""`{sweep: [...]}` and `{checkpoints: PATTERN}` in an option: one variant for each combination of values."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evalkit.cell import Option
from evalkit.config import checkpoints
from evalkit.errors import ConfigError


@dataclass(frozen=True)
class Variant:
    """An option with one value for each of its swept keys."""

    name: str
    option: Option
    swept: Mapping[str, Any]


def expand(name: str, option: Option) -> list[Variant]:
    """All variants of an option: every `{sweep: [...]}` and every series of checkpoints, at any depth, is an axis.

    Raises:
        ConfigError: a sweep is not a list, or is empty; a checkpoint is missing, half written or damaged.
    """
    axes = dict(_axes(option, (), name))
    series = [path for path, _ in checkpoints.series_in(option)]
    for path in series:
        where = ".".join(("model", name, *path))
        checkpoints.check(axes[path], where)
        option = checkpoints.with_state_key(option, path, axes[path], where)
    for path, values in axes.items():
        if not isinstance(values, Sequence) or isinstance(values, str) or not values:
            raise ConfigError(f"{name}.{'.'.join(path)}.sweep: give a list of values, such as [10, 20, 50]")
    variants = []
    for values in itertools.product(*axes.values()):
        chosen = dict(zip(axes, values, strict=True))
        swept = {_axis(path, series): _shown(value) for path, value in chosen.items()}
        chosen = {path: getattr(value, "path", value) for path, value in chosen.items()}
        variants.append(Variant(name, _replace(option, chosen, ()), swept))
    return variants


def _axis(path: tuple[str, ...], series: Sequence[tuple[str, ...]]) -> str:
    """An axis' name among the settings: a series' is `step`, where there is one alone."""
    if path not in series:
        return ".".join(path)
    return checkpoints.STEP if len(series) == 1 else ".".join((*path, checkpoints.STEP))


def _shown(value: Any) -> Any:
    return value.step if isinstance(value, checkpoints.Checkpoint) else value


def count(option: Option) -> int:
    """How many variants `expand` would make of an option."""
    return math.prod(len(values) if isinstance(values, Sequence) else 1 for _, values in _axes(option, ()))


def _axes(node: Any, path: tuple[str, ...], name: str = "") -> Iterator[tuple[tuple[str, ...], Any]]:
    if not isinstance(node, Mapping):
        return
    if set(node) == {"sweep"}:
        yield path, node["sweep"]
        return
    if checkpoints.is_series(node):
        yield path, checkpoints.find(node, ".".join(("model", name, *path)))
        return
    for key, value in node.items():
        yield from _axes(value, (*path, key), name)


def _replace(node: Any, chosen: Mapping[tuple[str, ...], Any], path: tuple[str, ...]) -> Any:
    if path in chosen:
        return chosen[path]
    if not isinstance(node, Mapping):
        return node
    return {key: _replace(value, chosen, (*path, key)) for key, value in node.items()}
