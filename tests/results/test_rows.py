"""Costs as rows of the table: what was timed next to other workers is another protocol."""

from __future__ import annotations

from typing import Any

from evalkit.cell import Cell
from evalkit.data.source import GenerationStats
from evalkit.results.rows import Outcome, make_rows


class Timed:
    """A source of 8 images that were made by one of so many workers."""

    def __init__(self, beside: int) -> None:
        self.beside = beside

    def __len__(self) -> int:
        return 8

    def stats(self) -> GenerationStats:
        return GenerationStats(0.1, 0.2, 10.0, 4.0, 100.0, "cpu", 4, 0, beside=self.beside)


def protocols(beside: int) -> dict[str, Any]:
    cell = Cell("m", None, None, {}, 0, 8, "key", "a", {}, {}, {})
    outcome = Outcome([cell], {}, {cell.name: Timed(beside)}, {}, None, None, {})  # type: ignore[dict-item]
    return {row.metric: row.protocol_hash for row in make_rows(outcome)}


def test_timings_next_to_other_workers_are_another_protocol() -> None:
    alone, two, three = (protocols(beside) for beside in (1, 2, 3))
    for timing in ("latency_p50", "latency_p95", "images_per_second"):
        assert len({alone[timing], two[timing], three[timing]}) == 3
    for other in ("nfe", "peak_memory_mb"):
        assert alone[other] == two[other]
