"""The sizes of one look of `num_samples=auto`, as they stand in its configuration: workers plan the same from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from evalkit.cell import Cell
from evalkit.errors import ConfigError

if TYPE_CHECKING:
    from evalkit.config.schema import RunConfig

AUTO = "auto"
_NOW = "now"  # below the key `auto`, while the looks are taken


def at_look(config: RunConfig, n: int, stopped: Mapping[str, int] | None = None) -> RunConfig:
    """The configuration of one look, as workers get it too: N, and by cell those of the cells that stopped early."""
    return replace(config, auto={**config.auto, _NOW: {"n": n, "stopped": dict(stopped or {})}})


def at_rest(config: RunConfig) -> RunConfig:
    """The configuration as it was asked for."""
    return replace(config, auto={key: value for key, value in config.auto.items() if key != _NOW})


def of_look(config: RunConfig) -> RunConfig:
    """With the number of samples of its look, where that is `auto`.

    Raises:
        ConfigError: there is no look: it was not started by what takes them.
    """
    if config.num_samples != AUTO:
        return config
    if _NOW not in config.auto:
        raise ConfigError("num_samples=auto: from Python it is evalkit.pipeline.run_auto that takes it; give a number")
    return replace(config, num_samples=config.auto[_NOW]["n"])


def as_stopped(cells: tuple[Cell, ...], config: RunConfig) -> tuple[Cell, ...]:
    """The cells of a look, those that stopped early at their own N."""
    sizes = config.auto.get(_NOW, {}).get("stopped", {})
    return tuple(replace(cell, num_samples=sizes.get(cell.name, cell.num_samples)) for cell in cells)
