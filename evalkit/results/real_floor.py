"""Real images as a line of the table, and each distance to the reference as a multiple of theirs (`floor`).

A multiple is FDr of Yang et al. 2026 (Representation Frechet Loss, arXiv:2604.28190), where the floor is a dataset's
validation set, and of any other distance what FDr is of a Frechet distance. Both distances are to the same reference
and of equal N, or there is none. Its standard error is the delta method's, its interval Fieller's (1954): the two sets
were drawn independently of each other; the reference counts as fixed, as everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from evalkit.results.real_text import OF_FLOOR, RUN, is_real, multiple_of
from evalkit.results.rows import Outcome, make_rows
from evalkit.results.stats import fieller, quantile
from evalkit.results.table import COSTS, ResultTable, Row
from evalkit.utils.files import sha256_json

Table = TypeVar("Table", bound=ResultTable)

SURE = 0.95  # how surely a floor must lie above 0 before anything is measured by it


def real_rows(outcome: Outcome, confidence: float) -> list[Row]:
    """The lines of real images: what of the run's metrics applies to images that nobody made."""
    rows = make_rows(outcome, confidence)
    return [row for row in rows if row.metric not in COSTS and (row.value is not None or row.broken)]


def with_real(
    table: Table, real: Sequence[Row], distances: Iterable[str], about: Mapping[str, Any], confidence: float
) -> Table:
    """The table with the lines of real images, and behind each distance of each cell its multiple of theirs.

    Args:
        table: of the cells.
        real: `real_rows`.
        distances: the metrics that are distances to the reference.
        about: `plan.floors.Floor.about`.
        confidence: of the multiples' intervals.
    """
    floors = {(row.metric, _alike(row)): row for row in real if row.metric in set(distances) and row.value is not None}
    without = {row.label: why for row in floors.values() if (why := _why_none(row))}
    rows: list[Row] = []
    for row in (*table.rows, *real):
        rows.append(row)
        floor = floors.get((row.metric, _alike(row)))
        if floor is not None and row.value is not None and not _why_none(floor):
            rows.append(_multiple(row, floor, confidence))
    shown = {**about, "n": sorted({row.n for row in real}), "without": without}
    return replace(table, rows=tuple(rows), run={**table.run, RUN: shown})


def _alike(row: Row) -> str:
    """The protocol that a distance shares with its floor: nobody chose the classes of real images."""
    if "labels" not in row.protocol:
        return row.protocol_hash
    return sha256_json({name: value for name, value in row.protocol.items() if name != "labels"})


def _why_none(floor: Row) -> str:
    """Why nothing is measured by a floor: it must lie above 0, and surely so where its error is known."""
    assert floor.value is not None
    degrees = (floor.clusters or floor.n) - 1
    reach = quantile(degrees, 2 * SURE - 1) * (floor.stderr or 0.0)
    if floor.value > reach:
        return ""
    error = f" ± {floor.stderr:.2g}" if floor.stderr is not None else ""
    return f"real images have {floor.value:.2g}{error}, which is not surely above 0"


def _multiple(row: Row, floor: Row, confidence: float) -> Row:
    """A distance by the floor's; of the floor itself 1, which is no estimate."""
    assert row.value is not None
    assert floor.value is not None
    protocol = {**row.protocol, "multiple_of": {"distance": floor.value, "stderr": floor.stderr, "n": floor.n}}
    row = replace(
        row,
        metric=f"{row.metric}{OF_FLOOR}",
        label=f"{row.label} / floor",
        value=row.value / floor.value,
        details={"distance": row.value, "floor": floor.value},
        protocol=protocol,
        protocol_hash=sha256_json(protocol)[: len(row.protocol_hash)],
        note=None,
    )
    if is_real(row.model) or row.stderr is None or floor.stderr is None:
        return replace(row, stderr=None, low=None, high=None)
    distance = (row.details["distance"], row.stderr)
    degrees = min(each.clusters or each.n for each in (row, floor)) - 1
    ends = fieller(distance, (floor.value, floor.stderr), quantile(degrees, confidence)) or (None, None)
    stderr = math.hypot(row.stderr, (row.value or 0.0) * floor.stderr) / floor.value
    details = {**row.details, "distance_stderr": row.stderr, "floor_stderr": floor.stderr, "degrees": float(degrees)}
    return replace(row, stderr=stderr, low=ends[0], high=ends[1], details=details)


def with_best_multiples(best: Mapping[str, Sequence[str]], table: ResultTable) -> dict[str, Sequence[str]]:
    """The best cells by metric, those of multiples as well: of one floor they rank as the distances do."""
    known = {base: row.metric for row in table.rows if (base := multiple_of(row.metric)) is not None}
    return {**best, **{metric: best[base] for base, metric in known.items() if base in best}}
