"""An earlier run's results, as a gate compares with them: its results.json, and the samples.csv next to it."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evalkit.cell import Cell
from evalkit.errors import ConfigError, DataError, nearest
from evalkit.metric import cluster_ids
from evalkit.results.compare import Clusters, Influences
from evalkit.results.csv_files import CLUSTER, cluster_id, number, read_columns, read_heads
from evalkit.results.table import ResultTable

log = logging.getLogger(__name__)


def is_file(text: str) -> bool:
    """Whether a baseline is meant as a path: no cell's name holds a slash or ends so."""
    return text.endswith(".json") or "/" in text or Path(text).exists()


@dataclass(frozen=True)
class EarlierRun:
    """A results.json and the influences of its samples, both read when the run is planned: nothing changes under it."""

    table: ResultTable
    influences: Influences
    clusters: Clusters

    @property
    def pairing(self) -> Mapping[str, str]:
        """By cell the digest of its prompts and seed; a file without them is compared as independent."""
        return dict(self.table.run.get("pairing", {}))

    @classmethod
    def load(cls, path: str, where: str) -> EarlierRun:
        """Reads a results.json, or the one in a run's folder.

        Raises:
            ConfigError: it cannot be read, or is none.
        """
        file = Path(path).expanduser()
        file = file / "results.json" if file.is_dir() else file
        try:
            table = ResultTable.load(file)
            return cls(table, *read_influences(file.with_name("samples.csv"), table))
        except (DataError, OSError) as error:
            raise ConfigError(f"{where}: {error}") from error

    def find(self, cell: Cell, named: Any, metric: str, where: str) -> str:
        """The cell that a cell is compared with: `named`, else the one of the same name.

        Raises:
            ConfigError: it is not there, or has no such score.
        """
        name = cell.name if named is None else named
        if name not in self.table.cells:
            what = f"the baseline's file has no cell '{name}'; name one with cell: NAME"
            raise ConfigError(f"{where}: {what}. {nearest(str(name), self.table.cells)}")
        rows = {row.metric: row for row in self.table.rows if row.cell == name}
        if metric not in rows:
            raise ConfigError(f"{where}: the baseline's file has no {metric} of {name}. {nearest(metric, rows)}")
        if rows[metric].n != cell.num_samples:
            log.warning(
                "%s: the baseline's %s is of %d samples, %s has %d: they cannot be compared",
                *(where, metric, rows[metric].n, cell.name, cell.num_samples),
            )
        return str(name)


def read_influences(path: Path, table: ResultTable) -> tuple[dict[tuple[str, str], list[float]], dict[str, list[int]]]:
    """samples.csv's columns of metrics by (cell, metric), and the samples' clusters; empty where there is no such file.

    A column counts only if it is complete. It holds six digits, which is plenty for a standard error. A file without
    clusters was written before there were any: they are those of the prompts.
    """
    if not path.is_file():
        return {}, {}
    metrics = {row.metric for row in table.rows}
    names = {head: name for head in read_heads(path) if (name := head.removesuffix(".influence")) in metrics}
    influences: dict[tuple[str, str], list[float]] = {}
    clusters: dict[str, list[int]] = {}
    prompts: dict[str, list[str]] = {}
    told = next((head for head in (CLUSTER, "prompt") if head in read_heads(path)), "cell")
    for line, (cell, asked, *texts) in read_columns(path, ("cell", told, *names)):
        if told == CLUSTER:
            ids = clusters.setdefault(cell, [])
            ids.append(cluster_id(asked, len(ids), f"{path}:{line}: {CLUSTER}"))
        elif told == "prompt":
            prompts.setdefault(cell, []).append(asked)
        for name, text in zip(names.values(), texts, strict=True):
            value = number(text, f"{path}:{line}: {name}")
            if not math.isnan(value):
                influences.setdefault((cell, name), []).append(value)
    clusters |= {cell: cluster_ids(texts) for cell, texts in prompts.items()}
    counts = {(row.cell, row.metric): row.n for row in table.rows}
    complete = {key: values for key, values in influences.items() if len(values) == counts.get(key)}
    return complete, clusters
