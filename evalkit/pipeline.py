"""Runs the stages in order: plan, samples, features and scores, table. Each stage reads what the one before left."""

from __future__ import annotations

import logging
import platform
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.config import RunConfig, build
from evalkit.errors import ConfigError, nearest
from evalkit.grid import Cell, make_cells
from evalkit.metric import Metric, ReferenceMetric
from evalkit.models.base import ExistingImages
from evalkit.paths import sha256_json, write_text
from evalkit.samples import SampleSet, Source, Store
from evalkit.table import ResultTable, Row

if TYPE_CHECKING:
    from evalkit.extractors.base import Extractor
    from evalkit.scoring import Scored

log = logging.getLogger(__name__)

# What a table's numbers may depend on, written into results.json (read from the installed metadata: no import).
_VERSIONS = ("evalkit", "torch", "diffusers", "transformers", "open-clip-torch", "torch-fidelity", "numpy", "scipy")


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
    reference: Source | None


def make_plan(config: RunConfig) -> Plan:
    """Builds and checks everything that the configuration names; nothing is generated or written.

    Raises:
        ConfigError: anything that would fail later for want of an option, a file or samples.
    """
    store = Store(Path(config.store).expanduser())
    out = Path(config.out).expanduser() if config.out else store.root / config.name
    cells = make_cells(config)
    existing = {
        cell.name: model
        for cell in cells
        if isinstance(model := build(cell.options["model"] or {}), ExistingImages)  # building is cheap
    }
    metrics = _build_metrics(config)
    extractors = _build_extractors(config, metrics)
    reference = _open_reference(config, metrics, store)
    from evalkit.scoring import check_counts

    for cell in cells:
        check_counts(metrics, {cell.name: cell.num_samples}, len(reference) if reference is not None else None)
    return Plan(config, out, store, tuple(cells), existing, metrics, extractors, reference)


def _build_metrics(config: RunConfig) -> dict[str, Metric]:
    metrics: dict[str, Metric] = {}
    for name, option in config.metric.items():
        metric = build(option, f"metric.{name}")
        if not isinstance(metric, Metric):
            raise ConfigError(f"metric.{name}: {option['_target_']} is not a subclass of evalkit.metric.Metric")
        metrics[name] = metric
    return metrics


def _build_extractors(config: RunConfig, metrics: Mapping[str, Metric]) -> dict[str, Extractor]:
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
    for extractor in extractors.values():
        extractor.check()
    return extractors


def _open_reference(config: RunConfig, metrics: Mapping[str, Metric], store: Store) -> Source | None:
    reference: Source | None = None
    for name, option in config.reference.items():
        reference = build(option, f"reference.{name}").open(cache=None if config.dry_run else store.root / "cache")
    wanting = [name for name, metric in metrics.items() if isinstance(metric, ReferenceMetric)]
    if wanting and reference is None:
        raise ConfigError(
            f"metric '{wanting[0]}' compares with reference images, but there are none: "
            "give reference=folder reference.folder.path=DIR"
        )
    return reference


def run(plan: Plan, *, command: str = "") -> ResultTable:
    """Makes what is missing, scores it, and writes the results into `plan.out`."""
    started = time.time()
    seconds: dict[str, float] = {}
    plan.store.check_writable()
    generated = [cell for cell in plan.cells if cell.name not in plan.existing]
    _generate(plan, generated)
    seconds["generate"] = time.time() - started
    sources = {cell.name: open_source(plan, cell) for cell in plan.cells}
    scored = _score(plan, sources)
    seconds["score"] = time.time() - started - seconds["generate"]
    table = ResultTable(
        run=_run_info(plan, command, seconds), rows=tuple(_rows(plan, sources, scored)), notes=tuple(_notes(sources))
    )
    _write(plan, table, sources)
    return table


def _generate(plan: Plan, cells: list[Cell]) -> None:
    wanting = [cell for cell in cells if SampleSet.missing(plan.store, cell)]
    if not wanting:
        return
    for cell in wanting:
        sampler = build(cell.options["sampler"]) if cell.options["sampler"] else None
        build(cell.options["model"] or {}).check_call(sampler, cell.call_settings)
    from evalkit.generate import generate_cells

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


def _score(plan: Plan, sources: Mapping[str, Source]) -> Mapping[tuple[str, str], Scored]:
    from evalkit.scoring import score_sources

    return score_sources(
        sources,
        metrics={name: (plan.config.metric[name], metric) for name, metric in plan.metrics.items()},
        extractors=plan.extractors,
        reference=plan.reference,
        store=plan.store,
        device=plan.config.device,
    )


def _rows(plan: Plan, sources: Mapping[str, Source], scored: Mapping[tuple[str, str], Scored]) -> list[Row]:
    rows = []
    for cell in plan.cells:
        about: dict[str, Any] = {
            "cell": cell.name,
            "model": cell.model,
            "sampler": cell.sampler,
            "prompts": cell.prompts,
            "settings": dict(cell.settings),
            "seed": cell.seed,
        }
        for name, metric in plan.metrics.items():
            result = scored[cell.name, name]
            rows.append(
                Row(
                    **about,
                    metric=name,
                    label=result.label,
                    value=result.score.value,
                    stderr=result.score.stderr,
                    n=result.score.n,
                    better=metric.better,
                    protocol=result.protocol,
                    protocol_hash=result.protocol_hash,
                    details=dict(result.score.details),
                    note=result.score.note,
                )
            )
        rows += _cost_rows(about, sources[cell.name])
    return rows


# What a sample set's own records say of its making: metric, heading, unit's factor, which is better.
_COSTS = (
    ("latency_p50", "latency p50 [ms]", 1000.0, "lower"),
    ("latency_p95", "latency p95 [ms]", 1000.0, "lower"),
    ("images_per_second", "images/s", 1.0, "higher"),
    ("nfe", "NFE", 1.0, "lower"),
    ("peak_memory_mb", "peak memory [MB]", 1.0, "lower"),
)


def _cost_rows(about: Mapping[str, Any], source: Source) -> list[Row]:
    """Latency a image and the like; images that were made elsewhere have none."""
    stats = source.stats() if isinstance(source, SampleSet) else None
    rows = []
    for name, label, factor, better in _COSTS:
        value = getattr(stats, name) if stats is not None else None
        protocol: dict[str, Any] = {"metric": name}
        if stats is not None and name != "nfe":
            protocol |= {"device": stats.device, "batch_size": stats.batch_size}
        rows.append(
            Row(
                **about,
                metric=name,
                label=label,
                value=None if value is None else value * factor,
                stderr=None,
                n=len(source),
                better=better,
                protocol=protocol,
                protocol_hash=sha256_json(protocol)[:10],
                note=None if value is not None else "these images were not made by evalkit",
            )
        )
    return rows


_WARNINGS = {
    "blanked": "blanked by the model's safety checker (black images that count as samples)",
    "prompt_truncated": "made from a prompt that was longer than the model's context and was cut",
    "alpha_dropped": "with transparency, which was dropped",
    "exif_rotated": "turned as their EXIF orientation says",
}


def _notes(sources: Mapping[str, Source]) -> list[str]:
    return [
        f"Warning: {name}: {count} of {len(source)} images {_WARNINGS.get(kind, kind)}."
        for name, source in sources.items()
        for kind, count in source.warnings.items()
        if count
    ]


def _run_info(plan: Plan, command: str, seconds: Mapping[str, float]) -> dict[str, Any]:
    versions = {}
    for package in _VERSIONS:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:  # a bare checkout, say
            versions[package] = "not installed"
    return {
        "name": plan.config.name,
        "command": command,
        "cells": {cell.name: cell.key for cell in plan.cells},
        "reference": plan.reference.name if plan.reference is not None else None,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "versions": versions,
        "seconds": {stage: round(value, 2) for stage, value in seconds.items()},
    }


def _write(plan: Plan, table: ResultTable, sources: Mapping[str, Source]) -> None:
    from omegaconf import OmegaConf

    from evalkit import sheets
    from evalkit import table as tables

    write_text(plan.out / "config.yaml", OmegaConf.to_yaml(OmegaConf.structured(plan.config)))
    count = plan.config.contact_sheet
    if count > 0:
        for cell in plan.cells:
            path = plan.out / "sheets" / f"{cell.name}.png"
            sheets.write_sheet(sources[cell.name], path, title=cell.name, count=count)
        sheets.write_overview(sources, plan.out / "overview.png")
    tables.write(table, plan.out)


def print_results(plan: Plan, table: ResultTable) -> None:
    """Prints the table, its footnotes and where the files are."""
    from evalkit.table import to_rich

    console = _console()
    console.print(to_rich(table))
    for note in table.footnotes():
        console.print(note, style="dim", markup=False, highlight=False)
    console.print(f"results: {plan.out} (results.json, table.md/.csv/.tex, overview.png, sheets/)", markup=False)


def print_plan(plan: Plan) -> None:
    """Prints the cells, what of each is there, and how many samples are to make."""
    from rich.table import Table

    view = Table(title=f"{plan.config.name}: {len(plan.cells)} cells", title_justify="left")
    for head in ("cell", "key"):
        view.add_column(head, overflow="fold")
    for head in ("samples", "there", "to make"):
        view.add_column(head, justify="right")
    total = 0
    for cell in plan.cells:
        missing = (
            0
            if cell.name in plan.existing
            else sum(stop - start for start, stop in SampleSet.missing(plan.store, cell))
        )
        total += missing
        there = max(0, cell.num_samples - missing)
        view.add_row(cell.name, cell.key[:8], str(cell.num_samples), str(there), str(missing))
    console = _console()
    console.print(view)
    names = ", ".join(plan.metrics) or "none"
    console.print(f"{total} samples to make. Metrics: {names}. Results would go to {plan.out}.", markup=False)


def _console() -> Any:
    """The terminal; where the output is not a terminal (a log, a pipe), wide enough not to fold the table."""
    from rich.console import Console

    return Console() if sys.stdout.isatty() else Console(width=180)
