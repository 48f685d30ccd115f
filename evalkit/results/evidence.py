"""What a run's scores rest on, sample by sample, at hand after the run: comparisons in pairs need it."""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from evalkit.errors import DataError
from evalkit.results.compare import Clusters, Influences
from evalkit.results.csv_files import CLUSTER, SAMPLE_HEADS, cluster_id, number, read_columns, read_heads

SAMPLES = "samples.csv"
_INFLUENCE = ".influence"


@dataclass(frozen=True)
class Evidence:
    """Influences and clusters of a table's cells.

    Attributes:
        influences: by (cell, metric) one value per sample.
        clusters: by cell the samples' clusters.
        missing: why there are none; none where there are.
    """

    influences: Influences = field(default_factory=dict)
    clusters: Clusters = field(default_factory=dict)
    missing: str | None = None


def read_evidence(folder: Path) -> Evidence:
    """From a run's samples.csv, which has six digits of each; where it cannot be read, why."""
    path = folder / SAMPLES
    try:
        return _read(path)
    except FileNotFoundError:
        return Evidence(missing=f"{path} is not there")
    except (OSError, ValueError, DataError) as error:
        return Evidence(missing=f"{path} cannot be read ({str(error).removeprefix(f'{path}: ')})")


def _read(path: Path) -> Evidence:
    heads = read_heads(path)
    metrics = [head for head in heads if head not in (*SAMPLE_HEADS, CLUSTER)]
    clustered = [CLUSTER] if CLUSTER in heads else []  # a file of an earlier version has none
    values: dict[tuple[str, str], array[float]] = {}
    clusters: dict[str, array[int]] = {}
    counts: dict[str, int] = {}
    for line, (cell, index, *rest) in read_columns(path, ("cell", "index", *clustered, *metrics)):
        if int(index) != counts.get(cell, 0):
            raise DataError(f"line {line}: the samples of {cell} are not in order")
        counts[cell] = int(index) + 1
        if clustered:
            own = cluster_id(rest.pop(0), int(index), f"line {line}: {CLUSTER}")
            clusters.setdefault(cell, array("q")).append(own)
        for metric, text in zip(metrics, rest, strict=True):
            value = number(text, f"line {line}: {metric}")
            values.setdefault((cell, metric.removesuffix(_INFLUENCE)), array("d")).append(value)
    whole: Mapping[tuple[str, str], array[float]] = {
        key: each for key, each in values.items() if not any(map(math.isnan, each))
    }
    return Evidence(whole, clusters)
