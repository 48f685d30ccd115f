"""Statistics of requests under load, by hand and by simulation."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from evalkit.samples.under_load import quantile_interval, timings


def row(scheduled: float, answered: float, *, late: float = 0.0, at: float = 1.0, **more: Any) -> dict[str, Any]:
    times = {"measured_at": at, "scheduled_s": scheduled, "sent_s": scheduled + late, "answered_s": answered}
    return {"arrivals": "poisson", "warmup": False, **times, **more}


def test_by_hand() -> None:
    rows = [
        row(0.0, 9.0, warmup=True),
        row(10.0, 11.0, queued_s=0.25),
        row(10.5, 13.0, queued_s=0.75),
        row(11.0, 11.1, failed="503"),
        row(11.5, 15.0, queued_s=2.0),
        row(12.0, 72.0, failed="timeout"),
        row(12.5, 12.6, failed="503"),
    ]
    made = timings(rows)
    assert made.latency_p50 == 2.5
    assert made.under_load.latency_p90 == pytest.approx(np.percentile([1.0, 2.5, 3.5], 90))
    assert made.images_per_second == 3 / 62  # to the last answer, of a request that failed
    assert made.under_load.queueing == 1.0
    assert made.under_load.tells
    assert made.under_load.request_errors == 0.5
    assert made.under_load.kinds == {"503": 2, "timeout": 1}
    assert (made.under_load.requests, made.under_load.parts, made.under_load.loop) == (6, 1, "open")
    assert made.doubt is None


def test_a_second_measurement_has_a_clock_of_its_own() -> None:
    rows = [row(0.0, 1.0), row(1.0, 2.0), row(0.0, 4.0, at=1000.0)]
    assert timings(rows).images_per_second == 3 / 6
    assert timings(rows).under_load.parts == 2


def test_latency_holds_what_this_machine_was_late() -> None:
    """A request that left late counts from its time; where many did, the latencies are doubtful."""
    rows = [row(float(i), i + 1.0, late=0.9) for i in range(20)]
    made = timings(rows)
    assert made.latency_p50 == 1.0
    assert made.under_load.queueing == pytest.approx(0.9)
    assert not made.under_load.tells
    assert made.doubt == (
        "this machine sent 1 request in 20 more than 900 ms late: the latencies are not the service's"
    )


def test_nothing_answered_and_nothing_but_warm_ups() -> None:
    made = timings([row(0.0, 0.1, failed="refused")])
    assert math.isnan(made.latency_p50)
    assert made.images_per_second == 0
    assert made.under_load.request_errors == 1
    warm = timings([row(0.0, 1.0, warmup=True)])
    assert warm.latency_p50 == 1.0
    assert warm.doubt is not None
    assert "warmed up" in warm.doubt


def test_a_closed_loop_without_word_of_the_service_has_no_queueing() -> None:
    closed = timings([row(0.0, 1.0, arrivals="closed")])
    assert closed.under_load.queueing is None
    assert closed.under_load.loop == "closed"


def test_intervals_of_quantiles() -> None:
    """For a median of 10 the ranks are 2 and 9 (97.9 %; e.g. Hahn and Meeker's tables); coverage by simulation."""
    assert quantile_interval(list(map(float, range(1, 11))), 0.5) == (2, 9)
    assert quantile_interval([1.0] * 5, 0.5) is None
    assert quantile_interval(list(map(float, range(367))), 0.99) is None  # 0.99^367 > 0.025
    assert quantile_interval(list(map(float, range(368))), 0.99) is not None
    rng = np.random.default_rng(0)
    for q, n in ((0.5, 40), (0.9, 60), (0.99, 500)):
        truth, hits = -math.log1p(-q), 0
        for _ in range(300):
            ends = quantile_interval(sorted(rng.exponential(1.0, n).tolist()), q)
            assert ends is not None
            hits += ends[0] <= truth <= ends[1]
        assert hits >= 0.93 * 300
