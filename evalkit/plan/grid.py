"""RunConfig -> cells: models x samplers x swept settings x prompt sets x seeds, those that make no sense left out."""

from __future__ import annotations

import itertools
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from evalkit.cell import Cell, Option, matches, setting_name
from evalkit.config.build import build, locate
from evalkit.config.schema import RunConfig
from evalkit.config.sweep import _Variant, expand
from evalkit.data.split import Part
from evalkit.errors import ConfigError, EvalkitError
from evalkit.models.base import ExistingImages, Model
from evalkit.plan.dry_run import Missing
from evalkit.utils.files import sha256_json

log = logging.getLogger(__name__)

DEFAULT_NUM_SAMPLES = 1000  # a cell without prompts in a run without prompt sets
MAX_NAME = 180  # characters of a cell's name: file systems take 255 bytes, and "-<key8>" and a suffix follow
MAX_SETTING = 60  # of a setting in it


@dataclass(frozen=True)
class _BuiltModel:
    variant: _Variant
    option: Option  # without `samplers` and the call settings
    model: Model
    call_settings: Mapping[str, Any]
    samplers: Sequence[str] | None
    made_by: str | None = None  # the sampler that existing images say they are of


def _build_model(variant: _Variant) -> _BuiltModel:
    option = dict(variant.option)
    samplers = option.pop("samplers", None)
    if isinstance(samplers, str):
        samplers = [samplers]
    model_class = locate(str(option["_target_"]))
    names: frozenset[str] = getattr(model_class, "call_settings", frozenset())
    call_settings = {key: option.pop(key) for key in list(option) if key in names}
    model = build(option, f"model.{variant.name}")
    if not isinstance(model, Model):
        raise ConfigError(f"model.{variant.name}: {option['_target_']} is not a subclass of evalkit.models.base.Model")
    return _BuiltModel(variant, option, model, {k: v for k, v in call_settings.items() if v is not None}, samplers)


def _parts(built: _BuiltModel, config: RunConfig, missing: Missing) -> list[_BuiltModel]:
    """A model whose existing images are told apart by what made them, once for each; any other model as it is."""
    cache = None if config.dry_run else Path(config.store).expanduser() / "cache"
    parts: Sequence[Part] = ()
    with missing.noted(f"model.{built.variant.name}"):
        parts = built.model.parts(cache) if isinstance(built.model, ExistingImages) else ()
    each = []
    for part in parts:
        option = {**built.option, "split_by": None, "where": {**(built.option.get("where") or {}), **part.where}}
        variant = replace(built.variant, swept={**built.variant.swept, **part.settings})
        model = build(option, f"model.{variant.name}")
        each.append(replace(built, variant=variant, option=option, model=model, made_by=part.sampler))
    return each or [built]


def _seeds(seed: Any) -> list[int]:
    seeds = seed["sweep"] if isinstance(seed, Mapping) and set(seed) == {"sweep"} else seed
    seeds = seeds if isinstance(seeds, list) else [seeds]
    if not seeds or any(isinstance(s, bool) or not isinstance(s, int) or s < 0 for s in seeds):
        raise ConfigError(f"seed={seed}: give a whole number >= 0, or {{sweep: [0, 1]}}")
    return seeds


def make_cells(config: RunConfig, missing: Missing | None = None) -> list[Cell]:
    """The grid's cells, sorted by model so that each is loaded once. What is left out is logged with the reason.

    Args:
        config: the run's.
        missing: of a dry run: notes the models whose files are missing; their cells' keys are not the real ones.

    Raises:
        ConfigError: an option cannot be built, a file is missing, or no cell is left.
    """
    missing = missing or Missing()
    if not config.model:
        raise ConfigError("model: none is chosen. Give one, such as model=[digits_ldm].")
    if config.num_samples is not None and config.num_samples < 1:
        raise ConfigError(f"num_samples={config.num_samples}: give a number >= 1")
    prompt_sets = {
        variant.name + "".join(f"-{_slug(k, v)}" for k, v in variant.swept.items()): (
            variant,
            build(variant.option, f"prompts.{name}"),
        )
        for name, option in config.prompts.items()
        for variant in expand(name, option)
    }
    samplers = [v for name, option in config.sampler.items() for v in expand(name, option)]
    seeds = _seeds(config.seed)
    cells: list[Cell] = []
    excluded = 0
    for name, option in config.model.items():
        found = [
            cell
            for variant in expand(name, option)
            for built in _parts(_build_model(variant), config, missing)
            for cell in _model_cells(built, samplers, prompt_sets, seeds, config, missing)
        ]
        kept = [cell for cell in found if not any(matches(cell, rule, "exclude") for rule in config.exclude)]
        if len(kept) < len(found):
            excluded += len(found) - len(kept)
            log.debug("%s: %d of %d cells are excluded by `exclude`", name, len(found) - len(kept), len(found))
        order = list(config.sampler)
        cells += sorted(kept, key=lambda cell: order.index(cell.sampler) if cell.sampler in order else -1)
    if not cells and excluded:
        raise ConfigError(f"the grid is empty: `exclude` leaves out all of its {excluded} cells; exclude=[] keeps them")
    if not cells:
        raise ConfigError("the grid is empty: no chosen sampler or prompt set applies to a chosen model (see the log)")
    return _unique(cells)


def _model_cells(
    built: _BuiltModel,
    samplers: Sequence[_Variant],
    prompt_sets: Mapping[str, tuple[_Variant, Any]],
    seeds: Sequence[int],
    config: RunConfig,
    missing: Missing,
) -> Iterator[Cell]:
    name = built.variant.name
    there = False
    with missing.noted(f"model.{name}"):
        built.model.check(fetch=not missing.dry)
        there = True
    identity, available = _known(built, there)
    asked = built.model.conditioning != "none"
    if built.model.conditioning == "text" and not prompt_sets:
        raise ConfigError(f"model.{name} makes images from text: choose prompts, such as prompts=[digits]")
    prompt_names: list[str | None] = list(prompt_sets) if asked and prompt_sets else [None]
    for sampler, prompts, seed in itertools.product(_samplers_for(built, samplers), prompt_names, seeds):
        prompt_set = prompt_sets[prompts][1] if prompts else None
        num_samples = config.num_samples or _default_num_samples(prompt_set, prompt_sets)
        if available is not None:
            num_samples = min(config.num_samples or available, available)
        call = dict(built.call_settings)
        steps = call.get("num_inference_steps")
        if sampler is not None and steps is None:
            steps = sampler.option.get("num_inference_steps")
        settings = {**built.variant.swept, **(sampler.swept if sampler else {}), **call}
        if steps is not None:
            settings["num_inference_steps"] = steps
        parts = {
            "model": identity,
            # The steps that are really made: a model's own (a distilled one's, say) win over the sampler's.
            "sampler": {**_arguments(sampler.option), "num_inference_steps": steps} if sampler else None,
            "settings": {key: value for key, value in call.items() if key != "num_inference_steps"},
            "prompts": prompt_set.identity() if prompt_set else None,
            "seed": seed,
        }
        yield Cell(
            model=name,
            sampler=sampler.name if sampler else None,
            prompts=prompts,
            settings=settings,
            seed=seed,
            num_samples=num_samples,
            key=sha256_json(parts),
            name=_name(name, sampler, settings, prompts if len(prompt_sets) > 1 else None, seed, seeds),
            options={
                "model": built.option,
                "sampler": sampler.option if sampler else None,
                "prompts": prompt_sets[prompts][0].option if prompts else None,
            },
            call_settings=call,
            identity=parts,
        )


def _known(built: _BuiltModel, there: bool) -> tuple[Mapping[str, Any], int | None]:
    """A model's identity, and how many images it has where that is limited; of one that is not there what is known."""
    try:
        return built.model.identity(), built.model.num_available()
    except (EvalkitError, OSError):
        if there:
            raise
        return {"missing": dict(built.option)}, None


def _samplers_for(built: _BuiltModel, samplers: Sequence[_Variant]) -> list[_Variant | None]:
    """The samplers that apply to a model; a model without a sampler has one cell where others have many."""
    name = built.variant.name
    if built.made_by is not None:
        return [_Variant(built.made_by, {}, {})]
    if not built.model.takes_sampler:
        if samplers:
            log.info("%s takes no sampler: it stands once, not once a sampler", name)
        return [None]
    if not samplers:
        return [_Variant("default", {"_target_": "evalkit.models.base.Sampler"}, {})]
    fitting = [s for s in samplers if built.samplers is None or s.name in built.samplers]
    left_out = sorted({s.name for s in samplers} - {s.name for s in fitting})
    if left_out:
        log.info("%s: no cells with %s (its samplers: %s)", name, ", ".join(left_out), ", ".join(built.samplers or []))
    return list(fitting)


def _arguments(option: Option) -> dict[str, Any]:
    return {key: value for key, value in option.items() if not key.startswith("_")}


def _default_num_samples(prompt_set: Any, prompt_sets: Mapping[str, tuple[_Variant, Any]]) -> int:
    if prompt_set is not None:
        return len(prompt_set)
    # An unconditional model stands beside the prompted ones: only sets of equal size can be compared.
    return max((len(p) for _, p in prompt_sets.values()), default=DEFAULT_NUM_SAMPLES)


def _slug(key: str, value: Any) -> str:
    if isinstance(value, Mapping):  # an adapter, a cache: by its name or file
        value = value.get("name") or value.get("path") or value
    values = value if isinstance(value, list) else [value]
    text = "+".join(f"{v:g}" if isinstance(v, float) else str(v) for v in values)
    return re.sub(r"[^A-Za-z0-9._+]+", "_", f"{setting_name(key)}_{text}")[:MAX_SETTING]


def _name(
    model: str,
    sampler: _Variant | None,
    settings: Mapping[str, Any],
    prompts: str | None,
    seed: int,
    seeds: Sequence[int],
) -> str:
    parts = [model] + ([sampler.name] if sampler else [])
    parts += [_slug(key, value) for key, value in settings.items() if value is not None]
    parts += [prompts] if prompts else []
    parts += [f"seed{seed}"] if len(seeds) > 1 else []
    return re.sub(r"[^A-Za-z0-9._+-]+", "_", "-".join(parts))[:MAX_NAME]


def _unique(cells: Sequence[Cell]) -> list[Cell]:
    """Cells without repeats (two options may describe the same thing); equal names get a piece of the key."""
    by_key: dict[str, Cell] = {}
    for cell in cells:
        if cell.key in by_key:
            log.info("%s is the same as %s: it stands once", cell.name, by_key[cell.key].name)
        by_key.setdefault(cell.key, cell)
    names = [cell.name for cell in by_key.values()]
    repeated = {name for name in names if names.count(name) > 1}
    return [
        Cell(**{**cell.spec(), "name": f"{cell.name}-{cell.key[:4]}"}) if cell.name in repeated else cell
        for cell in by_key.values()
    ]
