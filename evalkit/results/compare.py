"""Every cell against a baseline, or against each metric's best: difference, interval, corrected p, and a verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

from evalkit.results.stats import CONFIDENCE, Difference, Estimate, align, difference, holm
from evalkit.results.table import Comparison, Row, finite, group

Influences = Mapping[tuple[str, str], Sequence[float]]
"""By (cell, metric): one value per sample, in the order of their indices."""

Clusters = Mapping[str, Sequence[int]]
"""By cell: the samples' clusters (`evalkit.metric.cluster_ids`); of a cell that is not there each is its own."""


def compare(
    rows: Sequence[Row],
    *,
    baseline: str | None,
    influences: Influences,
    pairing: Mapping[str, str],
    clusters: Clusters | None = None,
    confidence: float = CONFIDENCE,
) -> tuple[list[Comparison], dict[str, list[str]]]:
    """Compares the cells, metric by metric; scores of different protocols are never compared.

    Args:
        rows: the scores.
        baseline: the cell that the others are compared with; none: each metric's best cell.
        influences: of the scores that have them.
        pairing: by cell a digest of its prompts and seed; cells that share it are compared sample by sample.
        clusters: of the cells' samples; cells that share some are compared prompt by prompt.
        confidence: of each interval; above `CONFIDENCE` where the data were looked at several times before N was
            settled (`evalkit.results.looks`). p-values are then raised by as much, so that 5 % stays what they are held
            against.

    Returns:
        The comparisons with the baseline (or the best), Holm-corrected within a metric; and by metric the cells that
        are the best or not significantly worse than it, among those of one protocol.

        Which cell is the best the same data told, so verdicts against it allow for all pairs of cells that could have
        been compared: of K equal cells, one is called worse in 5 % of runs at most. A mark as best needs no such
        allowance, and has none: the truly best cell keeps it in 95 % of runs or more.
    """

    def against(base: Row, rows: Sequence[Row], pairs: int | None = None) -> list[Comparison]:
        others = [row for row in rows if row.cell != base.cell]
        differences = [row_difference(row, base, influences, pairing, clusters or {}, confidence) for row in others]
        corrected = holm([d.p for d in differences], pairs)
        return [
            Comparison(
                *(row.metric, row.cell, base.cell, d.value, d.stderr, d.paired, d.low, d.high, d.p),
                p_holm=p,
                verdict=verdict_of(d, p, row.better),
            )
            for row, d, p in zip(others, differences, corrected, strict=True)
        ]

    comparisons: list[Comparison] = []
    best: dict[str, list[str]] = {}
    for metric, scored in group(filter(finite, rows), lambda row: row.metric).items():
        for alike in group(scored, lambda row: row.protocol_hash).values():
            top = max(alike, key=lambda row: row.sign * (row.value or 0.0))
            if len(alike) > 1:
                ties = [c.cell for c in against(top, alike) if c.verdict == "not distinguishable"]
                best.setdefault(metric, []).extend([top.cell, *ties])
            base = next((row for row in alike if row.cell == baseline), None)
            if baseline is None:
                comparisons += against(top, alike, len(alike) * (len(alike) - 1) // 2)
            elif base is not None:
                comparisons += against(base, alike)
    return comparisons, best


def estimate(row: Row, influences: Influences, clusters: Clusters) -> Estimate:
    """What a row's score rests on."""
    assert row.value is not None
    influence = influences.get((row.cell, row.metric))
    return Estimate(row.value, row.stderr, row.n, influence, clusters.get(row.cell), row.clusters, row.together)


def surely_worse(
    rows: Sequence[Row], level: float, *, influences: Influences, pairing: Mapping[str, str], clusters: Clusters
) -> dict[str, tuple[str, float]]:
    """The cells that are worse than the best one so far, one-sided at `level`: by cell that one, and the difference.

    Args:
        rows: of one metric and one protocol.
        level: of each comparison: the caller allows for the number of cells and of looks.
        influences, pairing, clusters: as of `compare`.
    """
    alike = [row for row in rows if finite(row)]
    if len(alike) < 2:
        return {}
    top = max(alike, key=lambda row: row.sign * (row.value or 0.0))
    found = {}
    for row in alike:
        gap = row_difference(row, top, influences, pairing, clusters)
        if row.cell != top.cell and gap.value and gap.p is not None and gap.p / 2 <= level:
            found[row.cell] = (top.cell, abs(gap.value))
    return found


def row_difference(
    row: Row,
    base: Row,
    influences: Influences,
    pairing: Mapping[str, str],
    clusters: Clusters,
    confidence: float = CONFIDENCE,
) -> Difference:
    """A score less another, of one metric and protocol: paired where both share prompts or seeds.

    p is raised by as much as `confidence` is above `CONFIDENCE`: 5 % stays what it is held against.
    """
    a, b = (estimate(one, influences, clusters) for one in (row, base))
    same = row.together or (pairing.get(row.cell) is not None and pairing.get(row.cell) == pairing.get(base.cell))
    counts = (a.groups, b.groups)
    most = min(counts) if row.together else None
    found = difference((a.value, a.stderr), (b.value, b.stderr), align(a, b, same=same), counts, confidence, most)
    if found.p is None:
        return found
    return replace(found, p=min(1.0, found.p * ((1 - CONFIDENCE) / (1 - confidence))))


def verdict_of(d: Difference, p: float | None, better: str) -> Literal["better", "worse", "not distinguishable", ""]:
    """By the corrected p; without a standard error there is no verdict, unless the values are equal."""
    if p is None:
        return "not distinguishable" if d.value == 0 else ""
    if p > 1 - CONFIDENCE:
        return "not distinguishable"
    return "better" if (d.value > 0) == (better == "higher") else "worse"


def rename_apart(rows: Sequence[Row], taken: set[str], suffix: str) -> list[Row]:
    """Rows of an earlier run, their cells renamed where this run has cells of the same name."""
    return [replace(row, cell=f"{row.cell} ({suffix})") if row.cell in taken else row for row in rows]
