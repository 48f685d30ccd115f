"""What a service did under load: latencies, throughput and errors, from the lines of a sample set's metadata.

A request that failed counts among the errors, and in no latency. Throughput is what was answered by an image in the
time from the first measured request's leaving to the last answer, the run-out at the end included. Intervals are those
of order statistics (David and Nagaraja, Order Statistics, 2003, section 7.1); they take requests as independent, which
requests of one queue are not: near saturation they are too narrow, and several seeds tell more.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evalkit.data.source import UnderLoad

Row = Mapping[str, Any]

_QUANTILES = {"latency_p50": 0.5, "latency_p90": 0.9, "latency_p99": 0.99}
_Z = 1.959963984540054  # a normal interval's 95 % reach, in standard errors
LATE = 0.1  # of the median latency: requests that left later than that are this machine's doing


@dataclass(frozen=True)
class LoadTimings:
    """Attributes as of `GenerationStats`."""

    latency_p50: float
    latency_p95: float
    images_per_second: float
    stderrs: Mapping[str, float | None]
    doubt: str | None
    beside: int
    under_load: UnderLoad


def timings(rows: Sequence[Row]) -> LoadTimings:
    """The timings of a set's requests under load (lines that have `measured_at`), one at least."""
    import numpy as np

    measured = [row for row in rows if not row["warmup"]]
    doubt = None if measured else "timed on the requests that warmed up: ask for more samples, or a smaller load.warmup"
    measured = measured or list(rows)
    answered = [row for row in measured if "failed" not in row]
    latencies = sorted(row["answered_s"] - row["scheduled_s"] for row in answered)
    quantile = {q: float(np.percentile(latencies, q)) if latencies else math.nan for q in (50, 90, 95, 99)}
    intervals = {name: ends for name, q in _QUANTILES.items() if (ends := quantile_interval(latencies, q)) is not None}
    if answered and doubt is None:
        doubt = _late(measured, quantile[50])
    loop = "closed" if measured[0]["arrivals"] == "closed" else "open"
    waits, tells = _queueing(answered, loop)
    return LoadTimings(
        latency_p50=quantile[50],
        latency_p95=quantile[95],
        images_per_second=_throughput(measured),
        stderrs={name: (high - low) / (2 * _Z) for name, (low, high) in intervals.items()},
        doubt=doubt,
        beside=max(int(row.get("beside", 1)) for row in measured),
        under_load=UnderLoad(
            loop=loop,
            latency_p90=quantile[90],
            latency_p99=quantile[99],
            queueing=waits,
            tells=tells,
            request_errors=1 - len(answered) / len(measured),
            kinds=dict(Counter(row["failed"] for row in measured if "failed" in row).most_common()),
            requests=len(measured),
            parts=len({row["measured_at"] for row in rows}),
            intervals=intervals,
        ),
    )


def _throughput(measured: Sequence[Row]) -> float:
    """Images per second over all measurements: of each the clock from the first request to the last answer."""
    seconds, images = 0.0, 0
    for at in {row["measured_at"] for row in measured}:
        part = [row for row in measured if row["measured_at"] == at]
        seconds += max(row["answered_s"] for row in part) - min(row["scheduled_s"] for row in part)
        images += sum("failed" not in row for row in part)
    return images / max(seconds, 1e-9)


def _queueing(answered: Sequence[Row], loop: str) -> tuple[float | None, bool]:
    """The mean wait before a request's image was begun, and whether the service tells of its part."""
    late = [row["sent_s"] - row["scheduled_s"] for row in answered]
    queued = [row.get("queued_s") for row in answered]
    if answered and None not in queued:
        return (sum(late) + sum(map(float, filter(None, queued)))) / len(answered), True
    return (sum(late) / len(late) if late and loop == "open" else None), False


def _late(measured: Sequence[Row], median: float) -> str | None:
    """What to say where this machine sent requests late."""
    late = sorted(row["sent_s"] - row["scheduled_s"] for row in measured)
    worst = late[math.ceil(0.95 * len(late)) - 1]
    if worst <= LATE * median:
        return None
    return (
        f"this machine sent 1 request in 20 more than {worst * 1000:.0f} ms late: the latencies are not the service's"
    )


def quantile_interval(values: Sequence[float], q: float, confidence: float = 0.95) -> tuple[float, float] | None:
    """The order statistics that hold a quantile; none where there are too few values for one.

    Args:
        values: sorted, independent.
        q: 0 < q < 1.
        confidence: of the interval, half of the rest on each side at most.
    """
    n, tail, total = len(values), (1 - confidence) / 2, 0.0
    low = high = None
    for k in range(n):  # total: the probability that k values at most are below the quantile
        log = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
        total += math.exp(log + k * math.log(q) + (n - k) * math.log1p(-q))
        if total <= tail:
            low = values[k]
        if total >= 1 - tail:
            high = values[k]
            break
    return None if low is None or high is None else (low, high)
