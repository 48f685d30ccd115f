"""What making a sample set cost, and how surely that is known: from the lines of its metadata.jsonl.

A batch is one repeat: its images share their time. Of fewer than `FEWEST` repeats there is no standard error; one that
was the only one, or only the one that also warmed up, and repeats under load are doubtful, and are never called best.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist, fmean
from typing import Any

FEWEST = 3  # repeats that a standard error of a rate takes
FEWEST_MEDIAN = 6  # of a median: the least and the largest of six hold it 97 times in 100
OTHERS = 0.1  # of the machine's time, that other processes took: less is no load
_REACH = NormalDist().inv_cdf(0.975)

Row = Mapping[str, Any]


def timed(rows: Sequence[Row]) -> list[Row]:
    """The rows that timings rest on: not of a batch that also warmed up; alone, rather than beside other workers."""
    warm = [row for row in rows if not row["warmup"]]
    return [row for row in warm if "beside" not in row] or warm


def repeats(rows: Sequence[Row]) -> list[tuple[int, float]]:
    """Images and seconds of each timed batch; a service's images each by themselves."""
    batches: list[tuple[int, float]] = []  # images, seconds of each
    left = 0  # images of the batch at hand that are still to come
    for row in rows:
        each = float(row["latency_s"])
        if "clock_s" not in row and left > 0 and batches[-1][1] == each:
            batches[-1] = (batches[-1][0] + 1, each)
            left -= 1
        else:
            batches.append((1, each))
            left = 0 if "clock_s" in row else int(row["batch"]) - 1
    return [(count, count * each) for count, each in batches]


def rate_stderr(batches: Sequence[tuple[int, float]]) -> float | None:
    """The standard error of images per second: of a ratio of means over the batches (delta method)."""
    m, images, seconds = len(batches), sum(n for n, _ in batches), math.fsum(s for _, s in batches)
    if m < FEWEST or seconds <= 0:
        return None
    each = seconds / images
    squares = math.fsum((s - n * each) ** 2 for n, s in batches)
    return math.sqrt(m / (m - 1) * squares) / images / each**2


def median_stderr(batches: Sequence[tuple[int, float]]) -> float | None:
    """The standard error of the median latency: of the 95 % interval that order statistics of the batches give."""
    latencies = sorted(s / n for n, s in batches)
    m = len(latencies)
    if m < FEWEST_MEDIAN:
        return None
    low = max(math.floor(m / 2 - _REACH * math.sqrt(m) / 2), 0)
    return (latencies[m - 1 - low] - latencies[low]) / (2 * _REACH)


def doubt(rows: Sequence[Row]) -> str | None:
    """Why the timings say little; none where they can be relied on."""
    rows = timed(rows)
    if not rows:
        return "timed on the batch that also warmed up: ask for more samples, or a smaller batch_size"
    if len(repeats(rows)) == 1:
        return "timed on one batch: ask for more samples, or a smaller batch_size"
    loaded = [row for row in rows if "load" in row]
    load, others = (fmean(float(row[name]) for row in loaded) if loaded else 0.0 for name in ("load", "others"))
    if load > 1 and others > OTHERS:
        return f"timed under load: {load:.1f} tasks per core, other processes took {others:.0%} of the machine"
    return None
