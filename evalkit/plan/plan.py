"""Builds and checks all that a run needs, before the first sample is made."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from evalkit.cell import Cell, find_baseline
from evalkit.config.build import build
from evalkit.config.schema import RunConfig
from evalkit.data.moments import Moments
from evalkit.data.source import Source
from evalkit.errors import ConfigError, nearest
from evalkit.gate import Gate, make_gates
from evalkit.metric import Metric, PairMetric
from evalkit.models.base import ExistingImages
from evalkit.plan.dry_run import Missing
from evalkit.plan.grid import make_cells
from evalkit.prompts.images import prompt_images
from evalkit.results.latent_walk import Walk, check_walk, make_walk
from evalkit.results.table import ResultTable
from evalkit.samples.store import Store
from evalkit.scoring.checks import check_counts, check_models, check_moments, check_pairs
from evalkit.scoring.protocol import OWN, Own
from evalkit.trackers.push import make_trackers

if TYPE_CHECKING:
    from evalkit.extractors.base import Extractor
    from evalkit.models.base import Model
    from evalkit.prompts.sets import PromptSet
    from evalkit.results.export import Export


@dataclass(frozen=True)
class Plan:
    """All that a run needs, built and checked before the first sample is made."""

    config: RunConfig
    out: Path
    store: Store
    cells: tuple[Cell, ...]
    existing: Mapping[str, ExistingImages]  # by cell name: images that were made elsewhere
    metrics: Mapping[str, Metric]
    extractors: Mapping[str, Extractor]  # those that a metric needs
    reference: Source | Moments | None
    training: Source | Moments | None = None
    baseline: str | None = None  # a cell's name
    own: Mapping[str, Own] = field(default_factory=dict)  # by cell: the images that its prompts name
    missing: tuple[str, ...] = ()  # of a dry run: a line for each thing that a run would stop for, or fetch
    earlier: tuple[ResultTable, ...] = ()  # results of earlier runs, to stand in the table
    gates: Mapping[str, Gate] = field(default_factory=dict)
    exports: Mapping[str, Export] = field(default_factory=dict)
    walk: Walk = field(default_factory=Walk)


def make_plan(config: RunConfig) -> Plan:
    """Builds and checks everything that the configuration names; nothing is generated or written.

    A dry run fetches nothing, and goes on where weights or images are missing: they are noted in the plan.

    Raises:
        ConfigError: anything that would fail later for want of an option, a file or samples.
    """
    store = Store(Path(config.store).expanduser())
    out = Path(config.out).expanduser() if config.out else store.root / config.name
    missing = Missing(config.dry_run)
    cells = make_cells(config, missing)
    existing = {
        cell.name: model
        for cell in cells
        if isinstance(model := build(cell.options["model"] or {}), ExistingImages)  # building is cheap
    }
    metrics = _build_metrics(config)
    sides: dict[str, Source | Moments | None] = {"reference": None, "training": None}
    for side in sides:
        with missing.noted(side):
            sides[side] = _open_side(config, side, store)
    extractors = _build_extractors(config, metrics, missing)
    if not missing.of(*sides):
        check_counts(metrics, {cell.name: cell.num_samples for cell in cells}, sides)
    baseline = find_baseline(cells, config.baseline)
    own: dict[str, Own] = {}
    if not missing.lines:  # these read the files
        check_moments(metrics, extractors, sides)
        own = _own_images(config, cells, metrics, store)
        check_pairs(metrics, baseline, own)
    check_models(metrics, extractors)
    walk = make_walk(config.walk)
    check_walk(walk, [cell for cell in cells if cell.name not in existing])
    earlier = tuple(ResultTable.load(Path(path).expanduser()) for path in config.add_results)
    gates = make_gates(config.gate, cells, metrics, lint=config.lint)
    make_trackers(config.tracker)  # each is built anew where it logs, in a process of its own
    return Plan(
        config,
        out,
        store,
        tuple(cells),
        existing,
        metrics,
        extractors,
        sides["reference"],
        training=sides["training"],
        baseline=baseline,
        own=own,
        missing=tuple(missing.lines),
        earlier=earlier,
        gates=gates,
        exports=_build_exports(config),
        walk=walk,
    )


def _build_metrics(config: RunConfig) -> dict[str, Metric]:
    metrics: dict[str, Metric] = {}
    for name, option in config.metric.items():
        metric = build(option, f"metric.{name}")
        if not isinstance(metric, Metric):
            raise ConfigError(f"metric.{name}: {option['_target_']} is not a subclass of evalkit.metric.Metric")
        metrics[name] = metric
    return metrics


def _build_extractors(config: RunConfig, metrics: Mapping[str, Metric], missing: Missing) -> dict[str, Extractor]:
    extractors: dict[str, Extractor] = {}
    for metric_name, metric in metrics.items():
        for address in metric.needs:
            name, _, layer = address.partition("/")
            if name not in config.extractor:
                raise ConfigError(
                    f"metric.{metric_name} needs '{address}', but there is no extractor '{name}'. "
                    + nearest(name, config.extractor)
                )
            if name not in extractors:
                extractors[name] = build(config.extractor[name], f"extractor.{name}")
            if layer not in extractors[name].layers:
                raise ConfigError(
                    f"metric.{metric_name} needs '{address}', but extractor '{name}' has no layer '{layer}'. "
                    + nearest(layer, extractors[name].layers)
                )
    for name, extractor in extractors.items():
        with missing.noted(f"extractor.{name}"):
            extractor.check(fetch=not missing.dry)
    return extractors


def _own_images(
    config: RunConfig, cells: Sequence[Cell], metrics: Mapping[str, Metric], store: Store
) -> dict[str, Own]:
    """By cell: the images of its prompts that the chosen metrics of pairs compare with."""
    kinds = dict.fromkeys(m.pairs for m in metrics.values() if isinstance(m, PairMetric) and m.pairs in OWN)
    if not kinds:
        return {}
    cache = None if config.dry_run else store.root / "cache"
    return {cell.name: _images_by_kind(cell, build(cell.options["model"] or {}), kinds, cache) for cell in cells}


def _build_exports(config: RunConfig) -> dict[str, Export]:
    exports: dict[str, Export] = {name: build(option, f"export.{name}") for name, option in config.export.items()}
    for export in exports.values():
        export.check()
    return exports


def _open_side(config: RunConfig, side: str, store: Store) -> Source | Moments | None:
    opened: Source | Moments | None = None
    for name, option in getattr(config, side).items():
        opened = build(option, f"{side}.{name}").open(cache=None if config.dry_run else store.root / "cache")
    return opened


def _images_by_kind(cell: Cell, model: Model, kinds: Iterable[str], cache: Path | None) -> dict[str, Source | str]:
    """A cell's images by kind: the model's own where it knows of some, else those of its prompts; or why none.

    Args:
        cell: whose samples they belong to.
        model: the cell's, built.
        kinds: which are wanted.
        cache: a folder that keeps the scan of a folder of images, or none.
    """
    found: dict[str, Source | str] = {}
    prompts: PromptSet | None = None
    for kind in kinds:
        images = model.own_images(kind, cell.num_samples, cache=cache)
        if images is not None:
            found[kind] = images
        elif cell.options["prompts"] is None:
            found[kind] = f"the samples have no prompts that name {kind} images"
        else:
            prompts = prompts or build(cell.options["prompts"], f"prompts.{cell.prompts}")
            found[kind] = prompt_images(prompts, kind, cell.num_samples, cell.name)
    return found
