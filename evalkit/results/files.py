"""Writes the files of a run's results."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.data.moments import Moments
from evalkit.errors import UnsuitedError
from evalkit.results.csv_files import CLUSTER, SAMPLE_HEADS, cluster_text, write_csv
from evalkit.results.table import ResultTable
from evalkit.utils.files import write_text

if TYPE_CHECKING:
    from evalkit.config.schema import RunConfig
    from evalkit.results.rows import Outcome

log = logging.getLogger(__name__)


def _write_samples(outcome: Outcome, out: Path) -> None:
    """samples.csv: a line per sample: where it lies, its prompt, category and value (or influence) of each metric."""
    given = {metric for _, metric in outcome.influences}
    names = [name for name in outcome.metrics if name in given]
    heads = [name if outcome.metrics[name].per_sample else f"{name}.influence" for name in names]

    def lines() -> Iterator[list[Any]]:
        yield [*SAMPLE_HEADS, CLUSTER, *heads]
        for cell in outcome.cells:
            source = outcome.sources[cell.name]
            columns = [outcome.scored[cell.name, name].score.influence for name in names]
            ids = outcome.clusters_of(cell.name)
            for i, (prompt, category) in enumerate(zip(source.prompts, source.categories, strict=True)):
                values = ("" if column is None else f"{column[i]:.6g}" for column in columns)
                yield [cell.name, i, source.location(i), prompt, category, cluster_text(ids[i]), *values]

    write_csv(out / "samples.csv", lines())


def _write_nearest(outcome: Outcome, out: Path) -> None:
    """nearest/<cell>-<metric>.png: the most suspicious samples, each above its nearest training image; and a CSV."""
    from evalkit.results.sheets import write_pairs

    lines: list[list[Any]] = [["cell", "metric", "sample", "training", "distance"]]
    for cell in outcome.cells:
        for name in outcome.metrics:
            nearest = outcome.scored[cell.name, name].score.nearest
            lines += [[cell.name, name, *pair] for pair in nearest]
            if nearest and outcome.training is not None and not isinstance(outcome.training, Moments):
                path = out / "nearest" / f"{cell.name}-{name}.png"
                with _drawn(path):
                    title = f"{cell.name}: {name}"
                    write_pairs(outcome.sources[cell.name], outcome.training, nearest, path, title=title)
    if len(lines) > 1:
        write_csv(out / "nearest.csv", lines)


@contextmanager
def _drawn(path: Path) -> Iterator[None]:
    """A picture of images that were not kept (`keep_images`) is left out, which a line says."""
    try:
        yield
    except UnsuitedError as error:
        log.warning("no %s: %s", path.name, error)


def write(outcome: Outcome, table: ResultTable, config: RunConfig, out: Path) -> None:
    """Writes all files of a run's results into `out`, each whole or not at all."""
    from omegaconf import OmegaConf

    from evalkit.results import render, sheets
    from evalkit.results.categories import write_categories
    from evalkit.results.parity import write_parity
    from evalkit.results.ratings import write_ratings
    from evalkit.results.thumbnails import write_thumbnails

    write_text(out / "config.yaml", OmegaConf.to_yaml(OmegaConf.structured(config)))
    count = config.contact_sheet
    if count > 0:
        for cell in outcome.cells:
            with _drawn(path := out / "sheets" / f"{cell.name}.png"):
                sheets.write_sheet(outcome.sources[cell.name], path, title=cell.name, count=count)
        with _drawn(out / "overview.png"):
            sheets.write_overview(outcome.sources, out / "overview.png")
        for series in table.run.get("series") or ():
            by_step = {f"step {step}": outcome.sources[cell] for cell, step in series["steps"].items()}
            with _drawn(path := out / "steps" / f"{series['name']}.png"):
                sheets.write_overview(by_step, path)
        if outcome.reference is not None and not isinstance(outcome.reference, Moments):
            path, title = out / "reference.png", outcome.reference.name
            sheets.write_sheet(outcome.reference, path, title=title, count=count, spread=True)
    _write_samples(outcome, out)
    write_categories(outcome, out)
    _write_nearest(outcome, out)
    write_thumbnails(outcome, table, out)
    write_parity(outcome, table, out)
    write_ratings(outcome, out)
    render.write(table, out)
