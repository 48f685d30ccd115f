"""RunConfig -> cells: models x samplers x swept settings x prompt sets x seeds, those that make no sense left out."""

from __future__ import annotations

import itertools
import logging
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from evalkit.cell import Cell, Option, check_exclude, matches, setting_name
from evalkit.config.build import build, split_call_settings
from evalkit.config.schema import RunConfig
from evalkit.config.sweep import Variant, count, expand
from evalkit.errors import ConfigError, EvalkitError, whole_number
from evalkit.models.base import ExistingImages, Model, Sampler
from evalkit.models.starting_noise import StartingNoise, open_noise
from evalkit.plan.own_settings import PER_PROMPT, check_own_settings, per_prompt
from evalkit.prompts.sets import PromptSet
from evalkit.samples.model_pool import BuiltCell
from evalkit.samples.store import Store
from evalkit.utils.files import sha256_json

log = logging.getLogger(__name__)

MANY_CELLS = 200  # more take seconds to plan: that is said first
DEFAULT_NUM_SAMPLES = 1000  # a cell without prompts in a run without prompt sets
MAX_NAME = 180  # characters of a cell's name: file systems take 255 bytes, and "-<key8>" and a suffix follow
MAX_SETTING = 60  # characters of one setting in it
_COUNTS = ("num_inference_steps", "height", "width")  # settings that are whole numbers from 1 up, of whatever model
_NUMBERS = ("guidance_scale", "guidance_rescale", "true_cfg_scale", "eta", "strength")
KEY_IN_NAME = 4  # characters of the key that tell cells of one name apart


@dataclass(frozen=True)
class Grid:
    """A run's cells, and the objects that each is made with.

    Attributes:
        cells: sorted by model, so that each is loaded once.
        built: by cell key.
        prompts: all prompt sets by name, whether a cell takes them or not.
    """

    cells: tuple[Cell, ...]
    built: Mapping[str, BuiltCell]
    prompts: Mapping[str, PromptSet]


@dataclass(frozen=True)
class _ModelVariant:
    variant: Variant
    option: Option  # without `samplers` and the call settings
    model: Model
    call_settings: Mapping[str, Any]
    samplers: Sequence[str] | None  # names of those that fit it; none: all
    noise: StartingNoise | None = None
    made_by: str | None = None  # the sampler that existing images say they are of


@dataclass(frozen=True)
class _SamplerVariant:
    variant: Variant
    sampler: Sampler | None  # none for existing images


@dataclass(frozen=True)
class _PromptVariant:
    option: Option
    prompts: PromptSet
    identity: Mapping[str, Any]


def make_grid(config: RunConfig, missing: Missing | None = None) -> Grid:
    """The grid's cells, sorted by model so that each is loaded once. What is left out is logged with the reason.

    Args:
        config: the run's.
        missing: of a dry run: notes the models whose files are missing; their cells' keys are not the real ones.

    Raises:
        ConfigError: an option cannot be built, a file is missing, or no cell is left.
    """
    if not config.model:
        raise ConfigError("model: none is chosen. Give one, such as model=[digits_ldm].")
    if config.num_samples is not None:
        whole_number(config.num_samples, "num_samples")
    _check_size(config)
    maker = _GridMaker(config, missing or Missing())
    order = {name: number for number, name in enumerate(config.sampler)}
    every: list[tuple[Cell, BuiltCell]] = []
    for name, option in config.model.items():
        of_model = list(maker.cells_of(name, option))
        every += sorted(of_model, key=lambda pair: order.get(str(pair[0].sampler), -1))
    taken = {key for _, built in every for key in built.model.call_settings}
    check_exclude([cell for cell, _ in every], config.exclude, taken)
    pairs = [pair for pair in every if not any(matches(pair[0], rule, "exclude") for rule in config.exclude)]
    if len(pairs) < len(every):
        log.debug("%d of %d cells are excluded by `exclude`", len(every) - len(pairs), len(every))
    if every and not pairs:
        raise ConfigError(
            f"the grid is empty: `exclude` leaves out all of its {len(every)} cells; exclude=[] keeps them"
        )
    sets = {name: variant.prompts for name, variant in maker.prompt_sets.items()}
    check_own_settings(every, sets, maker.seeds)
    if not pairs:
        raise ConfigError("the grid is empty: no chosen sampler or prompt set applies to a chosen model (see the log)")
    return Grid(
        cells=_unique([cell for cell, _ in pairs]),
        built={cell.key: built for cell, built in pairs},
        prompts=sets,
    )


def _check_size(config: RunConfig) -> None:
    """Says how large a large grid is, and refuses one that nobody can have meant, before anything of it is built."""
    axes = (config.sampler, config.prompts)
    factors = [max(sum(map(count, options.values())), 1) for options in axes]
    cells = sum(map(count, config.model.values())) * math.prod(factors) * len(_seeds(config.seed))
    whole_number(config.max_cells, "max_cells")
    if cells > config.max_cells:
        raise ConfigError(
            f"the grid has up to {cells:,} cells, more than max_cells={config.max_cells:,}: sweep fewer values, or "
            f"give max_cells={cells}"
        )
    if cells > MANY_CELLS:
        log.info("planning up to %s cells", f"{cells:,}")


class Missing:
    """What a dry run finds missing: weights and images that a run would stop for, or fetch; all of it at once.

    Where it is not `dry`, the first thing that is missing ends the run, as it should.
    """

    def __init__(self, dry: bool = False) -> None:
        self.dry = dry
        self.lines: list[str] = []

    def any_of(self, *subjects: str) -> bool:
        """Whether any of these is missing."""
        return any(line.partition(":")[0] in subjects for line in self.lines)

    @contextmanager
    def noted(self, subject: str) -> Iterator[None]:
        """In a dry run a ConfigError inside is noted under `subject`, and goes no further."""
        try:
            yield
        except ConfigError as error:
            if not self.dry:
                raise
            line = f"{subject}: {error}"
            if line not in self.lines:  # several models of one option may lack the same file
                self.lines.append(line)


class _GridMaker:
    """Builds each distinct option once, and forms the cells."""

    def __init__(self, config: RunConfig, missing: Missing) -> None:
        self.config, self.missing = config, missing
        self.prompt_sets = dict(_prompt_sets(config))
        self.samplers = [
            _SamplerVariant(variant, build(variant.option, f"sampler.{name}", Sampler))
            for name, option in config.sampler.items()
            for variant in expand(name, option)
        ]
        for sampler in self.samplers:
            check_settings(sampler.variant.option, f"sampler.{sampler.variant.name}")
        self.seeds = _seeds(config.seed)
        self._models: dict[str, Model] = {}  # by option
        self._without_sampler: set[str] = set()
        self._identities: dict[int, tuple[Mapping[str, Any], int | None]] = {}  # by the model's id()

    def cells_of(self, name: str, option: Option) -> Iterator[tuple[Cell, BuiltCell]]:
        """The cells of a model's option, each with its objects."""
        for variant in expand(name, option):
            for part in self._parts(self._model_variant(variant)):
                yield from self._cells(part)

    def _model_variant(self, variant: Variant) -> _ModelVariant:
        option, call_settings = split_call_settings(variant.option)
        samplers, latents = option.pop("samplers", None), option.pop("latents", None)
        if isinstance(samplers, str):
            samplers = [samplers]
        model = self._model(variant.name, option)
        noise = self._noise(latents, model, variant.name) if latents is not None else None
        return _ModelVariant(variant, option, model, call_settings, samplers, noise)

    def _noise(self, path: Any, model: Model, name: str) -> StartingNoise | None:
        where = f"model.{name}.latents"
        if not isinstance(path, str):
            raise ConfigError(f"{where}={path}: give a file or a folder")
        if not model.takes_latents:
            raise ConfigError(f"{where}: {type(model).__name__} takes no starting noise: leave it out")
        noise: StartingNoise | None = None
        with self.missing.noted(f"model.{name}"):
            noise = open_noise(path, where)
            noise.identity()  # reads it all: what is damaged is told now
        return noise

    def _model(self, name: str, option: Option) -> Model:
        check_settings(option, f"model.{name}")
        key = sha256_json(option)
        if key not in self._models:
            self._models[key] = build(option, f"model.{name}", Model)
        return self._models[key]

    def _parts(self, made: _ModelVariant) -> list[_ModelVariant]:
        """A model whose existing images are told apart by what made them, once for each; another model as it is."""
        if not isinstance(made.model, ExistingImages):
            return [made]
        cache = None if self.config.dry_run else Store.at(self.config.store).root / "cache"
        variants = []
        with self.missing.noted(f"model.{made.variant.name}"):
            for part in made.model.parts(cache):
                option = {**made.option, "split_by": None, "where": {**(made.option.get("where") or {}), **part.where}}
                variant = replace(made.variant, swept={**made.variant.swept, **part.settings})
                model = self._model(variant.name, option)
                variants.append(replace(made, variant=variant, option=option, model=model, made_by=part.sampler))
        return variants or [made]

    def _checked(self, made: _ModelVariant) -> tuple[Mapping[str, Any], int | None]:
        """A model's identity, and its number of images where limited; where files are missing, what is known."""
        model = made.model
        if id(model) not in self._identities:
            complete = False
            with self.missing.noted(f"model.{made.variant.name}"):
                model.check(fetch=not self.missing.dry)
                complete = True
            try:
                self._identities[id(model)] = model.identity(), model.num_available()
            except (EvalkitError, OSError):
                if complete:
                    raise
                self._identities[id(model)] = {"missing": dict(made.option)}, None
        return self._identities[id(model)]

    def _cells(self, made: _ModelVariant) -> Iterator[tuple[Cell, BuiltCell]]:
        identity, available = self._checked(made)
        name = made.variant.name
        if made.model.conditioning == "text" and not self.prompt_sets:
            raise ConfigError(f"model.{name} makes images from text: choose prompts, such as prompts=[digits]")
        prompted = made.model.conditioning != "none" and self.prompt_sets
        prompt_names: list[str | None] = list(self.prompt_sets) if prompted else [None]
        check_settings(made.call_settings, f"model.{name}")
        for sampler, prompts, seed in itertools.product(self._samplers_for(made), prompt_names, self.seeds):
            prompt_set = self.prompt_sets[prompts] if prompts else None
            call = dict(made.call_settings)
            sampler_name, sampler_option = (sampler.variant.name, sampler.variant.option) if sampler else (None, None)
            arguments = {key: value for key, value in (sampler_option or {}).items() if not key.startswith("_")}
            # The steps that are really made: a model's own (a distilled one's, say) win over the sampler's.
            steps = call.get("num_inference_steps", arguments.get("num_inference_steps"))
            shown = _shown(made.model, call, name)
            renamed = call.keys() - shown.keys()  # what is swept in them is shown by these names, too
            swept = {key: v for key, v in made.variant.swept.items() if key.partition(".")[0] not in renamed}
            settings = {**swept, **(sampler.variant.swept if sampler else {}), **shown}
            if steps is not None:
                settings["num_inference_steps"] = steps
            settings |= per_prompt(made.model, prompt_set.prompts if prompt_set else None)
            parts = {
                "model": identity,
                "sampler": {**arguments, "num_inference_steps": steps} if sampler else None,
                "settings": {key: value for key, value in call.items() if key != "num_inference_steps"},
                "prompts": prompt_set.identity if prompt_set else None,
                "seed": seed,
            }
            options = {
                "model": made.option,
                "sampler": sampler_option,
                "prompts": prompt_set.option if prompt_set else None,
            }
            if made.noise is not None:  # a cell without keeps the key that it always had
                parts["latents"] = made.noise.identity()
                options["latents"] = {"path": str(made.noise.path)}
            cell = Cell(
                model=name,
                sampler=sampler_name,
                prompts=prompts,
                settings=settings,
                seed=seed,
                num_samples=self._num_samples(prompt_set, available),
                key=sha256_json(parts),
                name=self._name(name, sampler_name, settings, prompts, seed),
                options=options,
                call_settings=call,
                identity=parts,
            )
            built_prompts = prompt_set.prompts if prompt_set else None
            yield cell, BuiltCell(made.model, sampler.sampler if sampler else None, built_prompts, made.noise)

    def _samplers_for(self, made: _ModelVariant) -> list[_SamplerVariant | None]:
        """The samplers that apply to a model; a model without a sampler has one cell where others have many."""
        name = made.variant.name
        if made.made_by is not None:
            return [_SamplerVariant(Variant(made.made_by, {}, {}), None)]
        if not made.model.takes_sampler:
            if self.samplers and name not in self._without_sampler:
                self._without_sampler.add(name)  # told once, however many variants it has
                log.info("%s takes no sampler: it has one cell, not one per sampler", name)
            return [None]
        if not self.samplers:
            default = Variant("default", {"_target_": "evalkit.models.base.Sampler"}, {})
            return [_SamplerVariant(default, Sampler())]
        fitting = [s for s in self.samplers if made.samplers is None or s.variant.name in made.samplers]
        left_out = sorted({s.variant.name for s in self.samplers} - {s.variant.name for s in fitting})
        if left_out:
            known = ", ".join(made.samplers or [])
            log.info("%s: no cells with %s (its samplers: %s)", name, ", ".join(left_out), known)
        return list(fitting)

    def _num_samples(self, prompt_set: _PromptVariant | None, available: int | None) -> int:
        if available is not None:
            return min(self.config.num_samples or available, available)
        if self.config.num_samples:
            return int(self.config.num_samples)
        if prompt_set is not None:
            return len(prompt_set.prompts)
        # An unconditional model is compared with the prompted ones: only sets of equal size can be.
        return max((len(p.prompts) for p in self.prompt_sets.values()), default=DEFAULT_NUM_SAMPLES)

    def _name(self, model: str, sampler: str | None, settings: Option, prompts: str | None, seed: int) -> str:
        parts = [model] + ([sampler] if sampler else [])
        parts += [_slug(key, value) for key, value in settings.items() if value not in (None, PER_PROMPT)]
        parts += [prompts] if prompts and len(self.prompt_sets) > 1 else []
        parts += [f"seed{seed}"] if len(self.seeds) > 1 else []
        return re.sub(r"[^A-Za-z0-9._+-]+", "_", "-".join(parts))[:MAX_NAME]


def _shown(model: Model, call: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    try:
        return model.shown_settings(call)
    except ConfigError as error:
        raise ConfigError(f"model.{name}.{error}") from None


def check_settings(values: Mapping[str, Any], where: str, *, inner: bool = False) -> None:
    """Refuses numbers that no model can be called with: NaN, infinite, no steps, no pixels.

    Within a setting's own mapping (`inner`) names are somebody else's: there the numbers must be finite, no more.

    Raises:
        ConfigError: which, and what it may be.
    """
    for key, value in values.items():
        if isinstance(value, Mapping):
            check_settings(value, f"{where}.{key}", inner=True)
        elif isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(f"{where}.{key}={value}: give a finite number")
        elif inner or value is None:
            continue
        elif key in _COUNTS:
            whole_number(value, f"{where}.{key}")
        elif key in _NUMBERS and not isinstance(value, int | float):
            raise ConfigError(f"{where}.{key}={value}: give a number")


def _prompt_sets(config: RunConfig) -> Iterator[tuple[str, _PromptVariant]]:
    for name, option in config.prompts.items():
        for variant in expand(name, option):
            prompts: PromptSet = build(variant.option, f"prompts.{name}", PromptSet)
            swept = "".join(f"-{_slug(key, value)}" for key, value in variant.swept.items())
            yield name + swept, _PromptVariant(variant.option, prompts, prompts.identity())


def _seeds(seed: Any) -> list[int]:
    seeds = seed["sweep"] if isinstance(seed, Mapping) and set(seed) == {"sweep"} else seed
    seeds = seeds if isinstance(seeds, list) else [seeds]
    if not seeds or any(isinstance(s, bool) or not isinstance(s, int) or s < 0 for s in seeds):
        raise ConfigError(f"seed={seed}: give a whole number >= 0, or {{sweep: [0, 1]}}")
    return seeds


def _slug(key: str, value: Any) -> str:
    """A setting in a cell's name."""
    if isinstance(value, Mapping):  # an adapter, a cache: by its name or file
        value = value.get("name") or value.get("path") or value
    values = value if isinstance(value, list) else [value]
    text = "+".join(f"{v:g}" if isinstance(v, float) else str(v) for v in values)
    return re.sub(r"[^A-Za-z0-9._+]+", "_", f"{setting_name(key)}_{text}")[:MAX_SETTING]


def _unique(cells: Sequence[Cell]) -> tuple[Cell, ...]:
    """Cells without repeats (two options may describe the same thing); equal names get a piece of the key."""
    by_key: dict[str, Cell] = {}
    for cell in cells:
        if cell.key in by_key:
            log.info("%s is the same as %s: it has one cell", cell.name, by_key[cell.key].name)
        by_key.setdefault(cell.key, cell)
    names = [cell.name for cell in by_key.values()]
    repeated = {name for name in names if names.count(name) > 1}
    return tuple(
        replace(cell, name=f"{cell.name}-{cell.key[:KEY_IN_NAME]}") if cell.name in repeated else cell
        for cell in by_key.values()
    )
