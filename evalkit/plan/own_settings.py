"""Prompts that set a size, a seed, steps or guidance for their own samples: what of it fits a run."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from evalkit.errors import ConfigError
from evalkit.models.latent import LatentModel
from evalkit.prompts.prompt import SETTINGS
from evalkit.utils.files import sha256_json

if TYPE_CHECKING:
    from evalkit.cell import Cell
    from evalkit.models.base import Model
    from evalkit.prompts.sets import PromptSet
    from evalkit.samples.model_pool import BuiltCell

log = logging.getLogger(__name__)

PER_PROMPT = "per_prompt"  # what cells and tables say in place of one value


def taken(model: Model, prompts: PromptSet | None) -> list[str]:
    """The settings that some prompts give, of those that a model takes."""
    return [name for name in SETTINGS if prompts and name in prompts.own_columns and name in model.call_settings]


def per_prompt(model: Model, prompts: PromptSet | None) -> dict[str, str]:
    """How a cell's settings show them."""
    return dict.fromkeys(taken(model, prompts), PER_PROMPT)


def check_own_settings(
    pairs: Sequence[tuple[Cell, BuiltCell]], sets: Mapping[str, PromptSet], seeds: Sequence[int]
) -> None:
    """ConfigError: a set's prompts give what no model of the run takes, or what the run sweeps as well.

    Args:
        pairs: the grid's cells.
        sets: all prompt sets, by name.
        seeds: the run's.
    """
    for name, prompts in sets.items():
        asked = [(cell, built) for cell, built in pairs if built.prompts is prompts]
        for column in sorted(prompts.own_columns - {"seed"}):
            takers = [cell for cell, built in asked if column in taken(built.model, prompts)]
            if not takers:
                raise ConfigError(
                    f"prompts.{name}.{column}: its prompts give {column}, which no model of this run takes: leave the "
                    "column out"
                )
            others = sorted({cell.model for cell, _ in asked} - {cell.model for cell in takers})
            if others:
                log.info("%s: no %s, though the prompts of %s give one each", ", ".join(others), column, name)
            _refuse_sweep(column, takers, name)
        if "seed" in prompts.own_columns and len(seeds) > 1 and asked:
            raise ConfigError(
                f"prompts.{name}.seed: its prompts give each sample its seed, so that seed={{sweep: {list(seeds)}}} "
                "would make the same images again: give one seed"
            )
        for cell, built in asked:
            if cell.call_settings.get("load") and taken(built.model, prompts):
                raise ConfigError(
                    f"model.{cell.model}.load: a load is of requests of one kind, but the prompts of {name} give "
                    f"{', '.join(taken(built.model, prompts))}: leave these columns out"
                )


def _refuse_sweep(column: str, cells: Sequence[Cell], prompts: str) -> None:
    """The prompts' own value wins: cells that differ in it alone would be the same."""
    values: dict[tuple[str, str | None], set[str]] = {}
    for cell in cells:
        value = cell.call_settings.get(column)
        if column == "num_inference_steps" and cell.identity["sampler"] is not None:
            value = cell.identity["sampler"][column]
        values.setdefault((cell.model, cell.sampler), set()).add(str(value))
    for (model, _), each in values.items():
        if len(each) > 1:
            raise ConfigError(
                f"prompts.{prompts}.{column}: its prompts give {column}, which {model} sweeps as well "
                f"({', '.join(sorted(each))}): leave out the column, or the sweep"
            )


def check_own_calls(cell: Cell, built: BuiltCell) -> None:
    """Looks whether a cell's model takes what each of its prompts sets, and its samples' starting noise.

    Raises:
        ConfigError: it does not.
    """
    needs: dict[str, tuple[int, ...] | None] = {}
    keys = []
    for index in range(cell.num_samples if built.noise is not None or taken(built.model, built.prompts) else 0):
        own = built.own_settings(index)
        key = sha256_json(own)
        keys.append(key)
        if key in needs:
            continue
        settings = {**cell.call_settings, **own}
        if own and not (built.model.remote and needs):  # a service is asked once whether it is there
            built.model.check_call(built.sampler, settings)
        needs[key] = built.model.latent_shape(built.sampler, settings) if built.noise is not None else None
    if built.noise is not None:
        built.noise.check([needs[key] for key in keys])


def check_own_latents(cells: Mapping[str, BuiltCell], what: str) -> None:
    """ConfigError: `what` moves between latents of samples that are made with several settings."""
    for name, built in cells.items():
        if isinstance(built.model, LatentModel) and (own := taken(built.model, built.prompts)):
            raise ConfigError(f"{what}: the prompts of {name} give {', '.join(own)}: samples have no latents in common")
