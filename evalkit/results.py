"""A run's results: table rows, what the samples cost, warnings, versions; writes and prints them."""

from __future__ import annotations

import csv
import io
import platform
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

from evalkit import lint
from evalkit.grid import Cell
from evalkit.moments import Moments
from evalkit.paths import sha256_json, write_text
from evalkit.samples import ArrayImages, FolderImages, SampleSet, Source
from evalkit.table import ResultTable, Row

if TYPE_CHECKING:
    from evalkit.pipeline import Plan
    from evalkit.scoring import Scored

# What a table's numbers may depend on, written into results.json (read from the installed metadata: no import).
_VERSIONS = ("evalkit", "torch", "diffusers", "transformers", "open-clip-torch", "torch-fidelity", "numpy", "scipy")


def make_rows(plan: Plan, sources: Mapping[str, Source], scored: Mapping[tuple[str, str], Scored]) -> list[Row]:
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


_UNKNOWN = {False: "these images were not made by evalkit", True: "the model does not tell"}


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
                note=None if value is not None else _UNKNOWN[stats is not None],
            )
        )
    return rows


_WARNINGS = {
    "blanked": "blanked by the model's safety checker (black images that count as samples)",
    "prompt_truncated": "made from a prompt that was longer than the model's context and was cut",
    "alpha_dropped": "with transparency, which was dropped",
    "exif_rotated": "turned as their EXIF orientation says",
    "retried": "had from the service only after a failed request (429, 5xx, a cut connection, a wrong answer)",
    "unseeded": "made by a service that takes no seed: they cannot be made again",
    "seed_ignored": "made from another seed than the service was given",
    "prompt_revised": "made from a prompt that the service had rewritten",
    "negative_prompt_ignored": "made without their negative prompt, which has no effect here",
}


def notes(sources: Mapping[str, Source]) -> list[str]:
    return [
        f"Warning: {name}: {count} of {len(source)} images {_WARNINGS.get(kind, kind)}."
        for name, source in sources.items()
        for kind, count in source.warnings.items()
        if count
    ]


def run_info(plan: Plan, command: str, seconds: Mapping[str, float], sources: Mapping[str, Source]) -> dict[str, Any]:
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
        "training": plan.training.name if plan.training is not None else None,
        "baseline": plan.baseline,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "store": str(plan.store.root.absolute()),
        "pairing": pairing(plan.cells, sources),
        "images": {name: {"count": len(s), "warnings": dict(s.warnings)} for name, s in sources.items()},
        "versions": versions,
        "seconds": {stage: round(value, 2) for stage, value in seconds.items()},
        "config": asdict(plan.config),
    }


def pairing(cells: Sequence[Cell], sources: Mapping[str, Source]) -> dict[str, str]:
    """By cell a digest of its seed, prompts and number of samples: cells that share it are compared in pairs.

    Images that were made elsewhere are paired by their prompts; without prompts nothing says that they belong together.
    """
    digests = {}
    for cell in cells:
        source = sources[cell.name]
        known = isinstance(source, SampleSet) or any(source.prompts)
        digests[cell.name] = sha256_json([cell.seed, len(source), list(source.prompts) if known else cell.name])[:10]
    return digests


def _write_samples(plan: Plan, sources: Mapping[str, Source], scored: Mapping[tuple[str, str], Scored]) -> None:
    """samples.csv: a line a sample: where it lies, its prompt, category and value (or influence) of each metric."""
    names = [
        name for name in plan.metrics if any(scored[cell.name, name].score.influence is not None for cell in plan.cells)
    ]
    heads = [name if plan.metrics[name].per_sample else f"{name}.influence" for name in names]

    def lines() -> Iterator[list[Any]]:
        yield ["cell", "index", "file", "prompt", "category", *heads]
        for cell in plan.cells:
            source = sources[cell.name]
            columns = [scored[cell.name, name].score.influence for name in names]
            for i, (prompt, category) in enumerate(zip(source.prompts, categories(source), strict=True)):
                values = ("" if column is None else f"{column[i]:.6g}" for column in columns)
                yield [cell.name, i, source.location(i), prompt, category, *values]

    _write_csv(plan.out / "samples.csv", lines())


def _write_categories(plan: Plan, sources: Mapping[str, Source], scored: Mapping[tuple[str, str], Scored]) -> None:
    """categories.csv: the mean of each metric of single samples over the prompts of a category, where there are any."""
    lines: list[list[Any]] = [["cell", "metric", "category", "mean", "stderr", "n"]]
    for cell in plan.cells:
        headings = categories(sources[cell.name])
        for name, metric in plan.metrics.items():
            each = scored[cell.name, name].score.influence
            if not metric.per_sample or each is None:
                continue
            groups: dict[str, list[float]] = {}
            for heading, value in zip(headings, each, strict=True):
                if heading is not None:
                    groups.setdefault(heading, []).append(value)
            for heading, values in groups.items():
                spread = stdev(values) / len(values) ** 0.5 if len(values) > 1 else ""
                lines.append([cell.name, name, heading, fmean(values), spread, len(values)])
    if len(lines) > 1:
        _write_csv(plan.out / "categories.csv", lines)


def _write_nearest(plan: Plan, sources: Mapping[str, Source], scored: Mapping[tuple[str, str], Scored]) -> None:
    """nearest/<cell>-<metric>.png: the most suspicious samples, each above its nearest training image; and a CSV."""
    from evalkit.sheets import write_pairs

    lines: list[list[Any]] = [["cell", "metric", "sample", "training", "distance"]]
    for cell in plan.cells:
        for name in plan.metrics:
            nearest = scored[cell.name, name].score.nearest
            lines += [[cell.name, name, *found] for found in nearest]
            if nearest and plan.training is not None and not isinstance(plan.training, Moments):
                path = plan.out / "nearest" / f"{cell.name}-{name}.png"
                write_pairs(sources[cell.name], plan.training, nearest, path, title=f"{cell.name}: {name}")
    if len(lines) > 1:
        _write_csv(plan.out / "nearest.csv", lines)


def _write_csv(path: Path, lines: Iterable[Sequence[Any]]) -> None:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(lines)
    write_text(path, out.getvalue())


def categories(source: Source) -> Sequence[str | None]:
    """Each sample's prompt category; none where its set knows of none."""
    if isinstance(source, SampleSet):
        return [row.get("category") for row in source.rows]
    if isinstance(source, FolderImages | ArrayImages):
        return source.categories
    return [None] * len(source)


def write(
    plan: Plan, table: ResultTable, sources: Mapping[str, Source], scored: Mapping[tuple[str, str], Scored]
) -> None:
    """Writes all files of a run's results into `plan.out`, each whole or not at all."""
    from omegaconf import OmegaConf

    from evalkit import render, sheets

    write_text(plan.out / "config.yaml", OmegaConf.to_yaml(OmegaConf.structured(plan.config)))
    count = plan.config.contact_sheet
    if count > 0:
        for cell in plan.cells:
            path = plan.out / "sheets" / f"{cell.name}.png"
            sheets.write_sheet(sources[cell.name], path, title=cell.name, count=count)
        sheets.write_overview(sources, plan.out / "overview.png")
        if plan.reference is not None and not isinstance(plan.reference, Moments):
            path, title = plan.out / "reference.png", plan.reference.name
            sheets.write_sheet(plan.reference, path, title=title, count=count, spread=True)
    _write_samples(plan, sources, scored)
    _write_categories(plan, sources, scored)
    _write_nearest(plan, sources, scored)
    render.write(table, plan.out)


def print_results(plan: Plan, table: ResultTable) -> None:
    """Prints the table, its footnotes and where the files are."""
    from evalkit.render import comparisons_to_rich, to_rich

    console = _console()
    console.print(to_rich(table))
    if any(column.is_cost for column in table.columns if any(row.value is not None for row in column.rows.values())):
        console.print(to_rich(table, costs=True))
    if plan.baseline is not None:
        console.print(comparisons_to_rich(table))
    for note in table.footnotes():
        console.print(note, style="dim", markup=False, highlight=False)
    for line in lint.lines(table.lint):
        console.print(line, markup=False, highlight=False)
    console.print(
        f"results: {plan.out} ({'report.html, ' if plan.config.report else ''}results.json, table.md/.csv/.tex, "
        "comparison.md, samples.csv, overview.png, sheets/)",
        markup=False,
    )


def print_plan(plan: Plan) -> None:
    """Prints the cells, what of each is there and to make, and a line for each thing that is missing."""
    from rich.table import Table

    from evalkit.generate import bytes_per_image

    view = Table(title=f"{plan.config.name}: {len(plan.cells)} cells", title_justify="left")
    for head in ("cell", "key"):
        view.add_column(head, overflow="fold")
    for head in ("samples", "there", "to make", "about MB"):
        view.add_column(head, justify="right")
    total, size = 0, 0
    for cell in plan.cells:
        missing = (
            0
            if cell.name in plan.existing
            else sum(stop - start for start, stop in SampleSet.missing(plan.store, cell))
        )
        total += missing
        size += missing * bytes_per_image(cell)
        there = max(0, cell.num_samples - missing)
        megabytes = f"{missing * bytes_per_image(cell) / 1e6:,.0f}"
        view.add_row(cell.name, cell.key[:8], str(cell.num_samples), str(there), str(missing), megabytes)
    console = _console()
    console.print(view)
    names = ", ".join(plan.metrics) or "none"
    console.print(
        f"{total} samples to make, about {size / 1e6:,.0f} MB. Metrics: {names}. Results would go to {plan.out}.",
        markup=False,
    )
    for line in plan.missing:
        console.print(f"missing: {line}", markup=False, highlight=False, soft_wrap=True)


def _console() -> Any:
    """The terminal; where the output is not a terminal (a log, a pipe), wide enough not to fold the table."""
    from rich.console import Console

    return Console() if sys.stdout.isatty() else Console(width=180)
