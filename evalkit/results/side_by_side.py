"""Which samples are shown side by side: the first, each cell's worst regressions, and its lowest scores."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest

from evalkit.results.table import Column, ResultTable

FIRST, WORST, LOWEST = 24, 24, 12  # samples to show: the first, the largest drops, the lowest scores
PER_CELL = 3  # of the last two at least so many per cell, though no more than LIMIT samples in all
LIMIT = 72
MOST_PER_CELL = 40  # of a cell's drops and lowest scores that are looked at
FEW_VALUES = 5  # a metric of fewer different values (a precision of 0 and 1) tells samples apart poorly


ByMetricAndCell = Mapping[str, Mapping[str, Sequence[float]]]


@dataclass(frozen=True)
class SampleScores:
    """The scores of single samples.

    Attributes:
        counts: samples by cell.
        scores: by metric of single samples, then by cell: [N] in the order of the indices, NaN where there is none.
        categories: by cell: each sample's category, "" where it has none.
        clusters: by cell: each sample's cluster (`evalkit.metric.cluster_ids`), of the cells that say so.
    """

    counts: Mapping[str, int] = field(default_factory=dict)
    scores: ByMetricAndCell = field(default_factory=dict)
    categories: Mapping[str, Sequence[str]] = field(default_factory=dict)
    clusters: Mapping[str, Sequence[int]] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        counts: Mapping[str, int],
        scores: ByMetricAndCell,
        categories: Mapping[str, Sequence[str]] | None = None,
        clusters: Mapping[str, Sequence[int]] | None = None,
    ) -> SampleScores:
        """Without the cells and metrics that have no value at all."""
        known = {
            metric: {cell: values for cell, values in by_cell.items() if not all(map(math.isnan, values))}
            for metric, by_cell in scores.items()
        }
        return cls(
            counts, {metric: by_cell for metric, by_cell in known.items() if by_cell}, categories or {}, clusters or {}
        )


@dataclass(frozen=True)
class Scale:
    """A metric of single samples.

    Attributes:
        metric, label: its names.
        sign: +1 where higher is better.
        base: the cell that drops are counted from: the run's baseline, else the metric's best.
        paired: the other cells that share the base's prompts and seeds.
    """

    metric: str
    label: str
    sign: int
    base: str | None
    paired: Sequence[str]


def make_scales(table: ResultTable, samples: SampleScores) -> list[Scale]:
    """The metrics of single samples, those of many values first (a CLIP score before a precision of 0 and 1)."""
    columns = {column.metric: column for column in table.columns}
    scales = [make_scale(table, columns[m], list(by_cell)) for m, by_cell in samples.scores.items() if m in columns]
    values = {s.metric: {v for values in samples.scores[s.metric].values() for v in values} for s in scales}
    return sorted(scales, key=lambda s: (len(values[s.metric]) < FEW_VALUES, not s.metric.startswith("clip_score")))


def make_scale(table: ResultTable, column: Column, cells: Sequence[str]) -> Scale:
    """A metric's scale over the cells that have values of single samples."""
    pairing = table.run.get("pairing") or {}
    base = table.run.get("baseline") or next((row.cell for row in column.ranked if row.cell in cells), None)
    base = base if base in cells else None
    paired = [c for c in cells if base and c != base and pairing.get(c) and pairing.get(c) == pairing.get(base)]
    return Scale(column.metric, column.label, next(iter(column.rows.values())).sign, base, paired)


def choose(samples: SampleScores, scales: Sequence[Scale]) -> list[int]:
    """The indices to show, by turns the first, the largest drops and the lowest scores of each cell."""
    total = max(samples.counts.values(), default=0)
    scale = next(iter(scales), None)
    first = total if total <= LIMIT else FIRST if scale else LIMIT
    lists: list[tuple[int, list[int]]] = [(2, list(range(first)))]
    if scale is not None:
        scores = samples.scores[scale.metric]
        base = scores.get(scale.base or "", ())
        lowest = [_worst([-scale.sign * v for v in values]) for values in scores.values()]
        drops = [
            _worst([scale.sign * (b - v) for v, b in zip(scores[cell], base, strict=False)], above=0.0)
            for cell in scale.paired
        ]
        lists.append((2, _in_turn(drops, max(WORST, PER_CELL * len(drops)))))
        lists.append((1, _in_turn(lowest, max(LOWEST, PER_CELL * len(lowest)))))
    chosen: dict[int, None] = {}
    while any(rest for _, rest in lists) and len(chosen) < LIMIT:
        for share, rest in lists:
            chosen |= dict.fromkeys(rest[:share])
            del rest[:share]
    return list(chosen)[:LIMIT]


def _worst(values: Sequence[float], above: float = -math.inf) -> list[int]:
    order = sorted((-v, i) for i, v in enumerate(values) if not math.isnan(v) and v > above)
    return [i for _, i in order[:MOST_PER_CELL]]


def _in_turn(lists: Sequence[Sequence[int]], most: int) -> list[int]:
    """One of each list by turns, each index once, `most` at most."""
    order = dict.fromkeys(index for turn in zip_longest(*lists) for index in turn if index is not None)
    return list(order)[:most]
