"""Costs are no surer than they are: one batch, the warm-up batch and a loaded machine are told; repeats give errors."""

from __future__ import annotations

import math
import random
import re
import statistics
from typing import Any

import pytest

from evalkit.samples import costs
from evalkit.utils.devices import LoadMeter


def rows(*batches: tuple[int, float], warmup: int = 0, **more: Any) -> list[dict[str, Any]]:
    """Lines of batches of (images, seconds an image), of which the first `warmup` also warmed up."""
    return [
        {"latency_s": each, "batch": count, "warmup": number < warmup, **more}
        for number, (count, each) in enumerate(batches)
        for _ in range(count)
    ]


def test_a_batch_is_one_repeat() -> None:
    assert costs.repeats(rows((4, 0.5), (4, 0.25), (2, 0.25))) == [(4, 2.0), (4, 1.0), (2, 0.5)]
    assert costs.repeats(rows((130, 0.003071))) == [(130, 130 * 0.003071)]
    assert costs.repeats(rows((4, 0.5), (4, 0.5))) == [(4, 2.0), (4, 2.0)]  # two that took the same time
    asked = [{"latency_s": 0.5, "clock_s": 0.1, "batch": 8}, {"latency_s": 0.25, "clock_s": None, "batch": 8}]
    assert costs.repeats(asked) == [(1, 0.5), (1, 0.25)]


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (rows((4, 0.5), warmup=1), "also warmed up"),
        (rows((4, 0.5), (4, 0.25), warmup=1), "timed on one batch"),
        (rows((4, 0.5), (4, 0.2), (4, 0.3), warmup=1, load=2.5, others=0.6), "under load: 2.5 tasks per core, .* 60%"),
        (rows((4, 0.5), (4, 0.2), (4, 0.3), warmup=1, load=2.5, others=0.05), None),  # the load is its own
        (rows((4, 0.5), (4, 0.2), (4, 0.3), warmup=1, load=0.9, others=0.6), None),
        (rows((4, 0.5), (4, 0.2), (4, 0.3), warmup=1), None),  # of an earlier version: not known
    ],
)
def test_what_is_doubtful(lines: list[dict[str, Any]], words: str | None) -> None:
    said = costs.doubt(lines)
    assert said is None if words is None else re.search(words, said or "")


def test_timings_rest_on_what_was_made_alone_where_there_is_any() -> None:
    warmup, next_to = rows((4, 0.5), warmup=1), rows((4, 0.3), (4, 0.2), beside=2)
    alone = rows((4, 0.1), (4, 0.15))
    assert costs.timed([*warmup, *next_to, *alone]) == alone
    assert costs.timed([*warmup, *next_to]) == next_to
    assert costs.timed(warmup) == []


def test_repeats_give_standard_errors_that_cover() -> None:
    """1.96 of them hold the truth about 95 times in 100, of 12 batches of lognormal seconds."""
    rng = random.Random(0)
    truth_rate, truth_median = 1 / (0.1 * math.exp(0.2**2 / 2)), 0.1
    hits = [0, 0]
    for _ in range(1000):
        batches = [(8, 8 * 0.1 * rng.lognormvariate(0, 0.2)) for _ in range(12)]
        rate = sum(n for n, _ in batches) / sum(s for _, s in batches)
        error, median = costs.rate_stderr(batches), statistics.median(s / n for n, s in batches)
        spread = costs.median_stderr(batches)
        assert error is not None
        assert spread is not None
        hits[0] += abs(rate - truth_rate) < 1.96 * error
        hits[1] += abs(median - truth_median) < 1.96 * spread
    assert 900 < hits[0] < 970
    assert 920 < hits[1] < 995
    assert costs.rate_stderr([(8, 1.0)] * 2) is None
    assert costs.median_stderr([(8, 1.0)] * 5) is None


def test_own_work_is_not_that_of_others() -> None:
    meter = LoadMeter()
    sum(i * i for i in range(300_000))
    found = meter.read()
    assert set(found) == {"load", "others"}
    assert 0 <= found["others"] <= 1
