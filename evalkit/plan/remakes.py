"""`noise_floor`: the baseline made again under changes that should not matter, as sample sets that no table shows.

What two sets of one model differ by when nothing was meant to change is the noise that a run's differences are held
against (`evalkit.results.noise_floor`). A remake is a cell of its own: it is made, stored and resumed as any other, and
its identity holds its change. The identities of all other cells stay as they are.
"""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from evalkit.cell import Cell
from evalkit.config.build import build
from evalkit.config.schema import RunConfig
from evalkit.errors import ConfigError, nearest, whole_number
from evalkit.metric import Metric, PairMetric
from evalkit.models.base import ExistingImages, Model
from evalkit.plan.grid import MAX_NAME, Missing
from evalkit.results.seeds import pool_cells
from evalkit.samples.cells import default_size
from evalkit.samples.model_pool import BuiltCell
from evalkit.utils.files import sha256_json

AGAIN, BATCH, THREADS, ATTENTION, DEVICE = "again", "batch_size", "threads", "attention", "device"
MAX_SUFFIX = 40  # characters of a remake's name after its cell's


def make_remakes(
    config: RunConfig,
    cells: tuple[Cell, ...],
    baseline: str | None,
    built: Mapping[str, BuiltCell],
    metrics: Mapping[str, Metric],
    missing: Missing,
) -> list[tuple[Cell, BuiltCell]]:
    """The cells that `noise_floor` asks for, of the baseline (of several seeds: of the first), each with its objects.

    Args:
        config: the run's.
        cells: of the grid.
        baseline: the name of the cell that others are compared with, as results show it.
        built: by cell key.
        metrics: the run's.
        missing: of a dry run: what files are missing; of a model without its files there are none.

    Raises:
        ConfigError: there is no baseline, nothing to compare pairs by, or a change is unknown or impossible.
    """
    if not config.noise_floor:
        return []
    if baseline is None:
        raise ConfigError("noise_floor: there is no baseline to make again: give baseline=CELL")
    if not any(isinstance(metric, PairMetric) and metric.pairs == "baseline" for metric in metrics.values()):
        raise ConfigError("noise_floor: no metric compares with the baseline pair by pair: add metric=[psnr,ssim], say")
    groups = pool_cells(cells) if config.seeds != "apart" else [(cell, [cell]) for cell in cells]
    base = next(group[0] for cell, group in groups if cell.name == baseline)
    model = built[base.key].model
    if isinstance(model, ExistingImages):
        raise ConfigError(f"noise_floor: the images of {base.name} were made elsewhere: no model here makes them again")
    if missing.any_of(f"model.{base.model}"):
        return []
    changes = _changes(config, base, model)
    return [_remake(base, built[base.key], change, missing) for change in changes]


def _changes(config: RunConfig, base: Cell, model: Model) -> list[dict[str, Any]]:
    """What is changed in each remake: by the name of the change its value."""
    asked = config.noise_floor
    if asked is True:
        chosen: dict[str, Any] = dict.fromkeys(_usual(config, model), True)
    elif isinstance(asked, Mapping):
        chosen = dict(asked)
    else:
        names = [asked] if isinstance(asked, str) else asked
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ConfigError(f"noise_floor={asked!r}: give true, or changes such as [again, batch_size]")
        chosen = dict.fromkeys(names, True)
    return [_change(name, value, config, base, model) for name, value in chosen.items() if value is not False]


def _usual(config: RunConfig, model: Model) -> list[str]:
    """The changes of `noise_floor=true`: of those that the model takes all but the number of threads of a device that
    may be no CPU, and another device, which may take days."""
    return [name for name in model.remakes if name != DEVICE and (name != THREADS or config.device == "cpu")]


def _change(name: str, value: Any, config: RunConfig, base: Cell, model: Model) -> dict[str, Any]:
    """A remake's change; `value` true or none: this function chooses it."""
    where, options = f"noise_floor.{name}", inspect.signature(type(model)).parameters
    if name in options and (name not in model.remakes or not (value is None or value in (True, "math"))):
        return {"option": {name: value}}
    if name not in model.remakes:
        near = nearest(name, [*model.remakes, *options])
        raise ConfigError(f"{where}: model.{base.model} is not made again under such a change. {near}")
    given = None if value is True else value
    if name == AGAIN:
        if given is not None:
            raise ConfigError(f"{where}={value}: it takes no value")
        return {AGAIN: True}
    if name == BATCH:
        size = min(config.batch_size, base.num_samples, default_size(base))
        return {BATCH: whole_number(given, where) if given is not None else 1 if size > 1 else 2}
    if name == THREADS:
        usual = os.environ.get("OMP_NUM_THREADS") or str(os.cpu_count() or 1)
        return {THREADS: whole_number(given, where) if given is not None else 2 if usual == "1" else 1}
    if name == ATTENTION:
        if given not in (None, "math"):
            raise ConfigError(f"{where}={value}: give math, torch's plain kernel")
        return {ATTENTION: "math"}
    return {DEVICE: _device(given, where, config)}


def _device(value: Any, where: str, config: RunConfig) -> str:
    """The other device: the one that is given; else the CPU, or of a run on the CPU what else there is."""
    from evalkit.utils.devices import pick_device

    here = pick_device(config.device)
    other = pick_device(str(value)) if value is not None else "cpu" if here != "cpu" else pick_device("auto")
    if other == here:
        raise ConfigError(f"{where}: this machine has no other device than {here}: leave it out")
    return other


def _remake(base: Cell, objects: BuiltCell, change: Mapping[str, Any], missing: Missing) -> tuple[Cell, BuiltCell]:
    identity: dict[str, Any] = {**base.identity, "remake": dict(change)}
    option = dict(base.options["model"] or {})
    overrides = dict(change.get("option", {}))
    if change.get(ATTENTION) and option.get("attention") is not None:
        overrides = {"attention": None}  # the model's own choice of a backend would stay
    if overrides:
        option |= overrides
        where = f"noise_floor.{next(iter(overrides))}"
        model: Model = build(option, f"model.{base.model}", Model)
        with missing.noted(where):
            model.check(fetch=not missing.dry)
        identity["model"] = model.identity()
        objects = replace(objects, model=model)
    cell = replace(
        base,
        key=sha256_json(identity),
        name=f"{base.name[: MAX_NAME - MAX_SUFFIX]}+{_slug(change)}",
        options={**base.options, "model": option},
        identity=identity,
    )
    return cell, objects


def with_changes(config: RunConfig, remakes: Sequence[Cell]) -> RunConfig:
    """The configuration with the changes by their values: workers may have other threads and devices to choose by."""
    if not remakes:
        return config
    changes = [dict(cell.remake.get("option") or cell.remake) for cell in remakes]
    return replace(config, noise_floor={name: value for change in changes for name, value in change.items()})


def change_text(change: Mapping[str, Any]) -> str:
    """A remake's change as people read it: "again", "batch_size 1", "compile true"."""
    (name, value), *_ = dict(change.get("option") or change).items()
    shown = str(value).lower() if isinstance(value, bool) else str(value)
    return name if name == AGAIN else f"{name} {shown}"


def _slug(change: Mapping[str, Any]) -> str:
    return re.sub(r"[^A-Za-z0-9._]+", "_", change_text(change))[: MAX_SUFFIX - 1]
