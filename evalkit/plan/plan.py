"""Builds and checks all that a run needs, before the first sample is made."""

from __future__ import annotations

import contextlib
import itertools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.cell import Cell, find_baseline
from evalkit.config.build import build
from evalkit.config.schema import RunConfig
from evalkit.data.attributes import Attributes
from evalkit.data.moments import Moments
from evalkit.data.reading import use
from evalkit.data.reference import Reference
from evalkit.data.scan import forget_scans
from evalkit.data.source import Source
from evalkit.engines.base import Engine, InProcess
from evalkit.errors import ConfigError, EvalkitError, whole_number
from evalkit.extractors.base import Extractor
from evalkit.gate import Gate, make_gates
from evalkit.gate.rules import IMAGE_SHARES
from evalkit.metric import Metric, ModelMetric, cluster_ids
from evalkit.models.base import ExistingImages
from evalkit.plan.asked import check_asked, judged_votes
from evalkit.plan.attributes import read_attributes
from evalkit.plan.choose import Given, choose_metrics
from evalkit.plan.floors import Floor, is_distance, make_floors, open_floor
from evalkit.plan.grid import Grid, Missing, make_grid
from evalkit.plan.look import as_stopped, of_look
from evalkit.plan.own_images import own_images
from evalkit.plan.own_settings import check_own_calls, check_own_latents
from evalkit.plan.plugins import build_engine, build_extractors, build_metrics
from evalkit.plan.remakes import make_remakes, with_changes
from evalkit.plan.results_folder import results_folder, with_name
from evalkit.prompts.images import prompt_images
from evalkit.results.feature_map import check_map
from evalkit.results.latent_walk import Walk, check_walk, make_walk
from evalkit.results.seeds import pool_cells
from evalkit.results.table import COSTS, ResultTable
from evalkit.samples.cell_generator import CellGenerator
from evalkit.samples.cells import look
from evalkit.samples.model_pool import BuiltCell, ModelPool
from evalkit.samples.profiling import Profile
from evalkit.samples.store import SampleSet, Store
from evalkit.scoring.checks import check_counts, check_models, check_moments, check_pairs, check_texts
from evalkit.scoring.protocol import Own
from evalkit.trackers.push import make_trackers
from evalkit.utils.devices import pick_device
from evalkit.utils.files import sha256_json
from evalkit.votes.metric import VotesRating
from evalkit.votes.option import make_ratings

if TYPE_CHECKING:
    from evalkit.prompts.sets import PromptSet
    from evalkit.results.export import Export
    from evalkit.samples.cells import FoundCell

log = logging.getLogger(__name__)

MANY_SAMPLES = 10_000_000  # more are said before anything else is done: it may be a slip of the keyboard


@dataclass(frozen=True)
class Plan:
    """All that a run needs, built and checked before the first sample is made; nothing is built again later."""

    config: RunConfig
    out: Path
    store: Store
    cells: tuple[Cell, ...]
    built: Mapping[str, BuiltCell]  # by cell key: each cell's model, sampler and prompts
    prompts: Mapping[str, PromptSet]
    metrics: Mapping[str, Metric]
    extractors: Mapping[str, Extractor]  # those that a metric needs
    reference: Source | Moments | None
    training: Source | Moments | None = None
    baseline: str | None = None  # a cell's name
    own: Mapping[str, Own] = field(default_factory=dict)  # by cell name: the images that its prompts name
    missing: tuple[str, ...] = ()  # of a dry run: a line for each thing that a run would stop for, or fetch
    earlier: tuple[ResultTable, ...] = ()  # results of earlier runs, to stand in the table
    attributes: Attributes | None = None  # of the images that samples are made from
    gates: Mapping[str, Gate] = field(default_factory=dict)
    exports: Mapping[str, Export] = field(default_factory=dict)
    engine: Engine = field(default_factory=InProcess)  # runs the units of work
    walk: Walk = field(default_factory=Walk)
    remakes: tuple[Cell, ...] = ()  # the baseline made again (`noise_floor`): sample sets that stand in no table
    ratings: Mapping[str, VotesRating] = field(default_factory=dict)  # of votes, by the names they have among metrics
    floor: Floor | None = None
    floors: tuple[Cell, ...] = ()  # of real images (`floor`), one per number of samples

    @property
    def existing(self) -> dict[str, ExistingImages]:
        """By cell name: images that were made elsewhere."""
        models = {cell.name: self.built[cell.key].model for cell in self.cells}
        return {name: model for name, model in models.items() if isinstance(model, ExistingImages)}

    @property
    def all_cells(self) -> tuple[Cell, ...]:
        """The grid's, the baseline's remakes and the real images: all whose samples are scored."""
        return (*self.cells, *self.remakes, *self.floors)

    @property
    def noise(self) -> dict[str, dict[str, Any]]:
        """By cell name: what its starting noise is, of those that take it from a file."""
        return {cell.name: noise.about() for cell in self.cells if (noise := self.built[cell.key].noise) is not None}

    @property
    def generated(self) -> list[Cell]:
        """The cells whose samples are made here, remakes as well."""
        return [cell for cell in self.all_cells if not isinstance(self.built[cell.key].model, ExistingImages)]

    def open_source(self, cell: Cell, found: FoundCell | None = None, wait: float = 0.0) -> Source:
        """A cell's images: its sample set (as of `SampleSet.open`), or the images that were made elsewhere."""
        model = self.built[cell.key].model
        if isinstance(model, ExistingImages):
            source: Source = model.open(cell.num_samples, cache=self.store.root / "cache")
            return source
        return SampleSet.open(self.store, cell, self.built[cell.key], found=found, wait=wait)

    @property
    def shown(self) -> tuple[Cell, ...]:
        """The cells as results show them: one per setting where seeds are pooled."""
        return shown_cells(self.cells, self.config)

    def baseline_of(self, seed: int) -> str | None:
        """The name of the baseline's cell of a seed: where seeds are pooled, its own."""
        if self.baseline is None or self.config.seeds == "apart":
            return self.baseline
        group = next(group for cell, group in pool_cells(self.cells) if cell.name == self.baseline)
        return next((cell.name for cell in group if cell.seed == seed), group[0].name)

    def made_from(self) -> dict[str, dict[str, Source]]:
        """By cell and kind, one for each sample, the images that its prompts give to start from."""
        made: dict[str, dict[str, Source]] = {cell.name: {} for cell in self.cells}
        for cell, kind in itertools.product(self.cells, ("source", "control")):
            prompts = self.built[cell.key].prompts
            images = prompt_images(prompts, kind, cell.num_samples, cell.name) if prompts is not None else ""
            if not isinstance(images, str):
                made[cell.name][kind] = images
        return made

    def clusters(self, sources: Mapping[str, Source]) -> dict[str, list[int]]:
        """By cell name its samples' clusters, which standard errors go by: the samples of one prompt, unless the
        prompts are all that there are (`PromptSet.exhaustive`)."""
        return {cell.name: self.clusters_of(cell, sources[cell.name]) for cell in self.all_cells}

    def clusters_of(self, cell: Cell, source: Source) -> list[int]:
        """The clusters of one cell's samples; real images were not drawn by their texts."""
        if cell in self.floors:
            return [-1 - i for i in range(len(source))]
        prompts = self.built[cell.key].prompts
        return cluster_ids(source.prompts if prompts is None else prompts.asked(source.prompts))

    def generators(self, pool: ModelPool) -> dict[str, CellGenerator]:
        """By cell name: what made its samples, for metrics of models and walks; `pool` loads and frees the models."""
        cells = [cell for cell in self.generated if not cell.remake]
        return {cell.name: CellGenerator(cell, pool, self.config.device, self.extractors) for cell in cells}


def shown_cells(cells: Sequence[Cell], config: RunConfig) -> tuple[Cell, ...]:
    """One cell per setting, unless `seeds=apart`."""
    if config.seeds not in ("pooled", "apart"):
        raise ConfigError(f"seeds={config.seeds}: give pooled (one line per setting) or apart (one per seed)")
    return tuple(cells if config.seeds == "apart" else (cell for cell, _ in pool_cells(cells)))


def make_plan(config: RunConfig, *, choose: bool = False) -> Plan:
    """Builds and checks everything that the configuration names; nothing is generated or written.

    A dry run fetches nothing, and goes on where weights or images are missing: they are noted in the plan.

    Args:
        config: what is asked for.
        choose: whether its metrics are candidates, of which those stay that can be computed here.

    Raises:
        ConfigError: anything that would fail later for want of an option, a file or samples.
    """
    config = with_name(config)
    engine = build_engine(config)
    _check_values(config, engine)
    use(config.readers)
    store = Store.at(config.store, shards=config.shards, keep_images=config.keep_images, sheet=config.contact_sheet)
    missing = Missing(config.dry_run)
    cache = None if config.dry_run else store.root / "cache"  # of scans: a dry run writes nothing
    if config.rescan and cache is not None:
        forget_scans(cache)
    grid = make_grid(of_look(config), missing)
    grid = replace(grid, cells=as_stopped(grid.cells, config))
    if (samples := sum(cell.num_samples for cell in grid.cells)) > MANY_SAMPLES:
        log.info("%s samples in %s cells", f"{samples:,}", f"{len(grid.cells):,}")
    sides = {side: open_side(config, side, missing, cache) for side in ("reference", "training")}
    sides["reference"], floor = open_floor(config, sides["reference"], grid.cells, missing, cache)
    if choose:
        given = Given({c.name: c.num_samples for c in grid.cells}, sides["reference"], _prompted(config, grid, cache))
        config, line = choose_metrics(config, given)
        log.info("%s", line)
    metrics = build_metrics(config)
    extractors = build_extractors(config, metrics, missing, store.answers)
    if not missing.any_of(*sides):
        check_counts(metrics, {cell.name: cell.num_samples for cell in grid.cells}, sides)
    shown = shown_cells(grid.cells, config)
    baseline = find_baseline(shown, config.baseline)
    own: Mapping[str, Own] = {}
    if not missing.lines:  # these read the files
        check_moments(metrics, extractors, sides)
        own = own_images(grid, metrics, cache)
        check_asked(extractors, grid.cells, grid.built, cache)
        check_pairs(metrics, baseline, own)
        check_texts(metrics, _texts(grid), extractors)
    check_models(metrics, extractors)
    known = [name for name, extractor in extractors.items() if extractor.calibrated]
    remakes = make_remakes(config, grid.cells, baseline, grid.built, metrics, missing)
    config = with_changes(config, [cell for cell, _ in remakes])
    floors = make_floors(floor, grid.cells, metrics)
    multiples = [name for name, metric in metrics.items() if floors and is_distance(metric)]
    exports = _build_exports(config, grid)
    make_trackers(config.tracker)  # each is built anew where it logs, in a process of its own
    out = results_folder(config, extractors)
    taken, judged = [*metrics, *COSTS, *IMAGE_SHARES], judged_votes(config, store.answers, fetch=not missing.dry)
    ratings = make_ratings(config.votes, [cell.name for cell in shown], taken, out, judged)
    plan = Plan(
        config if config.out else replace(config, name=out.name),
        out,
        store,
        grid.cells,
        {**grid.built, **{cell.key: objects for cell, objects in (*remakes, *floors)}},
        grid.prompts,
        metrics,
        extractors,
        sides["reference"],
        training=sides["training"],
        baseline=baseline,
        own=own,
        missing=tuple(missing.lines),
        attributes=read_attributes(config, grid.cells, grid.built),
        earlier=tuple(ResultTable.load(Path(path).expanduser()) for path in config.add_results),
        gates=make_gates(
            config.gate,
            shown,
            {**metrics, **ratings},
            lint=config.lint,
            baseline=baseline,
            multiples=multiples,
            judges=known,
        ),
        exports=exports,
        engine=engine,
        walk=make_walk(config.walk),
        remakes=tuple(cell for cell, _ in remakes),
        ratings=ratings,
        floor=floor,
        floors=tuple(cell for cell, _ in floors),
    )
    _check_latents(plan)
    if config.dry_run:
        check_calls([c for c in plan.generated if not missing.any_of(f"model.{c.model}")], plan)
    return plan


def _check_latents(plan: Plan) -> None:
    """Whether what moves through the models' latents (walks, path lengths) can. ConfigError where it cannot."""
    check_walk(plan.walk, plan.generators(ModelPool(plan.built)).values())
    moved = [f"metric.{name}" for name, metric in plan.metrics.items() if isinstance(metric, ModelMetric)]
    for what in moved + (["walk"] if plan.walk.lines else []):
        check_own_latents({cell.name: plan.built[cell.key] for cell in plan.cells}, what)


def check_calls(cells: Sequence[Cell], plan: Plan) -> None:
    """Looks whether the models of cells that are not whole take what they will be called with. May import torch.

    Raises:
        ConfigError: a sampler, a setting or a prompt that a model does not take.
    """
    looked_at: set[str] = set()  # seeds make cells of the same calls
    found = look(plan.store, cells)
    for cell in cells:
        built = plan.built[cell.key]
        call = sha256_json(
            [*map(id, (built.model, built.sampler, built.prompts, built.noise)), cell.num_samples, cell.call_settings]
        )
        if call in looked_at or not found[cell.key].count_missing():
            continue
        looked_at.add(call)
        built.model.check_call(built.sampler, cell.call_settings)
        prompts = built.prompts.prompts[: cell.num_samples] if built.prompts else ()
        built.model.check_prompts(prompts, cell.call_settings)
        check_own_calls(cell, built)


def _check_values(config: RunConfig, engine: Engine) -> None:
    """Refuses what of the root's values a run would stumble over later."""
    whole_number(config.batch_size, "batch_size")
    whole_number(config.contact_sheet, "contact_sheet", least=0)
    check_map(config.map)
    Profile.read(config.profile)
    if config.device not in ("auto", "cpu") and engine.in_process:  # workers look for themselves; asking imports torch
        pick_device(config.device)
    stats = Path(config.save_stats).expanduser() if config.save_stats else None
    if stats is not None and stats.exists() and not stats.is_dir():
        raise ConfigError(f"save_stats={config.save_stats} is a file: give a folder")


def open_side(config: RunConfig, side: str, missing: Missing, cache: Path | None) -> Source | Moments | None:
    """The images or statistics of the reference, or of the training set."""
    opened: Source | Moments | None = None
    with missing.noted(side):
        for name, option in getattr(config, side).items():
            images: Reference = build(option, f"{side}.{name}", Reference)
            if missing.dry:  # else `open` tells the same, and nothing is read twice
                images.check(fetch=False)
            opened = images.open(cache=cache)
    return opened


def _texts(grid: Grid) -> dict[str, list[str | None]]:
    """By cell what its samples are asked to show, each prompt once; of the cells that have prompts."""
    sets = {cell.name: (grid.built[cell.key].prompts, cell.num_samples) for cell in grid.cells}
    return {name: [p.text for p in each.prompts[:n]] for name, (each, n) in sets.items() if each is not None}


def _prompted(config: RunConfig, grid: Grid, cache: Path | None) -> bool:
    """Whether samples of the grid have prompts."""
    for cell in grid.cells:
        model = grid.built[cell.key].model
        if isinstance(model, ExistingImages):
            with contextlib.suppress(EvalkitError):  # whatever is wrong with them is told where they are scored
                if any(prompt is not None for prompt in model.open(cell.num_samples, cache=cache).prompts):
                    return True
        elif cell.prompts is not None and model.conditioning == "text":
            return True
    return False


def _build_exports(config: RunConfig, grid: Grid) -> dict[str, Export]:
    if not config.export:
        return {}
    from evalkit.results.export import Export

    exports: dict[str, Export] = {n: build(option, f"export.{n}", Export) for n, option in config.export.items()}
    for name, export in exports.items():
        export.check()
        if export.of_noise and (why := [without_noise(grid.built[cell.key]) for cell in grid.cells]) and all(why):
            raise ConfigError(f"export.{name}: {why[0]}")
    return exports


def without_noise(built: BuiltCell) -> str | None:
    """Why a cell's starting noise cannot be written; none: it can."""
    if built.noise is not None:
        return None
    try:
        built.model.check_shows_latents()
    except ConfigError as error:
        return str(error)
    return None
