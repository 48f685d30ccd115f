"""Runs the stages in order: plan, samples, features and scores, table. Each stage reads what the one before left."""

from __future__ import annotations

import inspect
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from evalkit import gate, results
from evalkit.compare import compare, rename_apart
from evalkit.config import RunConfig, build, locate
from evalkit.dry_run import Missing
from evalkit.errors import ConfigError, DataError, nearest
from evalkit.gate import Gate, judge, make_gates
from evalkit.grid import Cell, find_baseline, make_cells
from evalkit.lint import Finding, Watch, asked_of, lint
from evalkit.metric import Metric, PairMetric, ReferenceMetric
from evalkit.models import hub
from evalkit.models.base import ExistingImages
from evalkit.moments import Moments, write_moments
from evalkit.pairs import OWN, Own
from evalkit.prompt_images import own_images
from evalkit.protocol import check_counts, check_models, check_moments, check_pairs
from evalkit.samples import SampleSet, Source, Store
from evalkit.table import ResultTable
from evalkit.track import make_trackers, push
from evalkit.walk import Walk, check_walk, make_walk, write_walks

if TYPE_CHECKING:
    from evalkit.export import Export
    from evalkit.extractors.base import Extractor
    from evalkit.scoring import Scored


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
    with hub.cache_alone(config.dry_run):
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
                option = dict(config.extractor[name])
                takes = inspect.signature(locate(str(option["_target_"]))).parameters
                if missing.dry and "download" in (*option, *takes):
                    option["download"] = False
                extractors[name] = build(option, f"extractor.{name}")
            if layer not in extractors[name].layers:
                raise ConfigError(
                    f"metric.{metric_name} needs '{address}', but extractor '{name}' has no layer '{layer}'. "
                    + nearest(layer, extractors[name].layers)
                )
    for name, extractor in extractors.items():
        with missing.noted(f"extractor.{name}"):
            extractor.check()
    return extractors


def _own_images(
    config: RunConfig, cells: Sequence[Cell], metrics: Mapping[str, Metric], store: Store
) -> dict[str, Own]:
    """By cell: the images of its prompts that the chosen metrics of pairs compare with."""
    kinds = dict.fromkeys(m.pairs for m in metrics.values() if isinstance(m, PairMetric) and m.pairs in OWN)
    if not kinds:
        return {}
    cache = None if config.dry_run else store.root / "cache"
    return {cell.name: own_images(cell, build(cell.options["model"] or {}), kinds, cache) for cell in cells}


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


def run(plan: Plan, *, command: str = "") -> ResultTable:
    """Makes what is missing, scores it, and writes the results into `plan.out`."""
    started = time.time()
    seconds: dict[str, float] = {}
    plan.store.check_writable()
    generated = [cell for cell in plan.cells if cell.name not in plan.existing]
    _generate(plan, generated)
    seconds["generate"] = time.time() - started
    sources = {cell.name: open_source(plan, cell) for cell in plan.cells}
    watch = Watch(plan.store.root / "lint") if plan.config.lint else None
    try:
        scored = _score(plan, sources, watch)
    except DataError:
        if watch is not None:
            _lint(plan, sources, watch)  # names all files that are not as they should be; scoring stopped at the first
        raise
    seconds["score"] = time.time() - started - seconds["generate"]
    findings = _lint(plan, sources, watch) if watch is not None else []
    seconds["lint"] = time.time() - started - seconds["generate"] - seconds["score"]
    table = _table(plan, results.run_info(plan, command, seconds, sources), sources, scored)
    table = replace(table, lint=tuple(asdict(finding) for finding in findings))
    if plan.gates:
        verdict = judge(table, plan.gates, influences=_influences(scored), pairing=results.pairing(plan.cells, sources))
        table = replace(table, gate=verdict.to_json())
        gate.write(verdict, plan.out)
    else:
        gate.remove(plan.out)
    results.write(plan, table, sources, scored)
    _save_stats(plan)
    if plan.walk.lines:
        made = [cell for cell in plan.cells if cell.name not in plan.existing]
        config = plan.config
        write_walks(plan.walk, made, plan.out / "sheets", device=config.device, batch_size=config.batch_size)
    if plan.config.report:
        from evalkit.report import write_report

        write_report(plan.out)
    _export(plan, sources)
    push(plan.config.tracker, plan.out)  # only now: the local results are final
    return table


def _export(plan: Plan, sources: Mapping[str, Source]) -> None:
    """The cells' images for other tools, below `plan.out`/export; what is there already is not written again."""
    if not plan.exports:
        return
    from evalkit.export import Set, write_exports

    names = ("model", "sampler", "prompts", "settings", "seed")
    sets = {
        cell.name: Set(
            sources[cell.name],
            results.categories(sources[cell.name]),
            {name: getattr(cell, name) for name in names},
        )
        for cell in plan.cells
    }
    write_exports(plan.exports, sets, plan.out / "export")


def _influences(scored: Mapping[tuple[str, str], Scored]) -> dict[tuple[str, str], Sequence[float]]:
    return {key: item.score.influence for key, item in scored.items() if item.score.influence is not None}


def _save_stats(plan: Plan) -> None:
    """The reference's moments as <metric>.npz, of each metric that compares moments."""
    folder = plan.config.save_stats
    if folder is None or plan.reference is None or isinstance(plan.reference, Moments):
        return
    from evalkit.scoring import reference_statistics

    for name, metric in plan.metrics.items():
        if not isinstance(metric, ReferenceMetric) or type(metric).to_moments is ReferenceMetric.to_moments:
            continue
        extractors = {address.partition("/")[0]: plan.extractors[address.partition("/")[0]] for address in metric.needs}
        mean, cov, n = reference_statistics(name, metric, extractors, plan.reference, plan.store.features)
        identity = next(iter(extractors.values())).identity()
        path = Path(folder).expanduser() / f"{name}.npz"
        write_moments(path, mean.numpy(), cov.numpy(), n=n, features=metric.needs[0], extractor=identity)


def _table(
    plan: Plan, run: Mapping[str, object], sources: Mapping[str, Source], scored: Mapping[tuple[str, str], Scored]
) -> ResultTable:
    """The run's rows, those of earlier runs beside them, and all comparisons."""
    rows = results.make_rows(plan, sources, scored)
    taken = {cell.name for cell in plan.cells}
    for earlier in plan.earlier:
        rows += rename_apart(earlier.rows, taken, str(earlier.run.get("name", "earlier")))
    comparisons, best = compare(
        rows, baseline=plan.baseline, influences=_influences(scored), pairing=results.pairing(plan.cells, sources)
    )
    return ResultTable(run, tuple(rows), tuple(results.notes(sources)), tuple(comparisons), best)


def _generate(plan: Plan, cells: list[Cell]) -> None:
    wanting = [cell for cell in cells if SampleSet.missing(plan.store, cell)]
    if not wanting:
        return
    from evalkit.generate import asked_prompts, generate_cells

    for cell in wanting:
        sampler = build(cell.options["sampler"]) if cell.options["sampler"] else None
        model = build(cell.options["model"] or {})
        model.check_call(sampler, cell.call_settings)
        model.check_prompts(asked_prompts(cell), cell.call_settings)
    engines = [build(option, f"engine.{name}") for name, option in plan.config.engine.items()]
    generate_cells(
        cells,
        plan.store,
        batch_size=plan.config.batch_size,
        device=plan.config.device,
        engine=engines[0] if engines else None,
    )


def open_source(plan: Plan, cell: Cell) -> Source:
    """A cell's images: its sample set in the store, or the images that were made elsewhere."""
    if cell.name in plan.existing:
        source: Source = plan.existing[cell.name].open(cell.num_samples, cache=plan.store.root / "cache")
        return source
    return SampleSet.open(plan.store, cell)


def _lint(plan: Plan, sources: Mapping[str, Source], watch: Watch) -> list[Finding]:
    asked = asked_of(plan.config, plan.cells, sources)
    return lint(sources, plan.reference, watch=watch, asked=asked)


def _score(plan: Plan, sources: Mapping[str, Source], watch: Watch | None) -> Mapping[tuple[str, str], Scored]:
    """All scores; with `watch`, the images are measured for the lint as they are read."""
    from evalkit.generators import CellGenerator, released
    from evalkit.scoring import score_sources

    made = [cell for cell in plan.cells if cell.name not in plan.existing]
    reference = plan.reference
    if watch is not None:
        sources = {name: watch.of(source) for name, source in sources.items()}
        reference = watch.of(reference) if reference and not isinstance(reference, Moments) else reference
    with released():
        return score_sources(
            sources,
            metrics={name: (plan.config.metric[name], metric) for name, metric in plan.metrics.items()},
            extractors=plan.extractors,
            reference=reference,
            training=plan.training,
            baseline=plan.baseline,
            own=plan.own,
            generators={cell.name: CellGenerator(cell, plan.config.device, plan.extractors) for cell in made},
            store=plan.store,
            device=plan.config.device,
        )
