"""Costs as rows of the table: what was timed next to other workers is another protocol."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from evalkit.cell import Cell
from evalkit.data.source import GenerationStats, UnderLoad
from evalkit.results.rows import Outcome, make_rows, notes
from evalkit.results.seeds import Seeds


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


class Loaded(Timed):
    """A source that a service made under load."""

    def __init__(self, load: UnderLoad) -> None:
        super().__init__(1)
        self.load = load
        self.warnings: dict[str, int] = {}

    def stats(self) -> GenerationStats:
        stderrs = {"latency_p99": 0.02}
        return GenerationStats(0.1, 0.2, 10.0, None, None, "service", 4, 0, stderrs=stderrs, under_load=self.load)


def test_costs_under_load() -> None:
    load = UnderLoad("open", 0.15, 0.3, 0.05, True, 0.25, {"503": 20, "cut": 5}, 100, 2, {"latency_p99": (0.28, 0.36)})
    cell = Cell("m", None, None, {"rate": 2}, 0, 8, "key", "a", {}, {}, {})
    sources: Any = {cell.name: Loaded(load)}
    rows = {row.metric: row for row in make_rows(Outcome([cell], {}, sources, {}, None, None, {}))}
    p99 = rows["latency_p99"]
    assert (p99.value, p99.low, p99.high, p99.n) == (300, 280, 360, 100)
    assert p99.unsure  # of 75 answered ones it is nearly the slowest
    assert (rows["latency_p90"].value, rows["latency_p90"].unsure) == (150, False)
    assert rows["request_errors"].value == 25
    assert rows["request_errors"].details == {"errors: 503": 20, "errors: cut": 5}
    assert rows["queueing"].value == 50
    assert rows["latency_p50"].protocol == {"metric": "latency_p50", "device": "service", "load": True}
    lines = notes(sources)
    assert lines == [
        "Warning: a: 25 of 100 requests failed under load (503: 20, cut: 5); their images were asked for again when it "
        "was over.",
        "a: its load was measured in 2 parts: an earlier run was broken off, or the set grew.",
    ]
    none = replace(load, latency_p90=math.nan, latency_p99=math.nan, request_errors=1.0, queueing=None)
    rows = {r.metric: r for r in make_rows(Outcome([cell], {}, {cell.name: Loaded(none)}, {}))}  # type: ignore[dict-item]
    assert (rows["latency_p99"].value, rows["latency_p99"].note) == (None, "no request was answered under load")
    assert "latency_p99" not in protocols(1)  # of what was not under load there are no such rows


def test_seeds_under_load_are_pooled() -> None:
    one = UnderLoad("open", 0.15, 0.3, 0.05, True, 0.25, {"503": 20, "cut": 5}, 100, 2, {"latency_p99": (0.28, 0.36)})
    two = replace(one, latency_p99=0.5, queueing=None, request_errors=0.0, kinds={"503": 1}, requests=300, parts=1)
    stats = Seeds("a", [Loaded(one), Loaded(two)]).stats()  # type: ignore[list-item]
    assert stats is not None
    assert stats.under_load is not None
    assert stats.stderrs == {}  # each was measured by itself
    assert stats.under_load == replace(
        one,
        latency_p99=0.4,
        queueing=None,
        request_errors=25 / 400,
        kinds={"503": 21, "cut": 5},
        requests=400,
        intervals={},
    )
