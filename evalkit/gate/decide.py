"""Bounds against a limit: passed, failed or inconclusive."""

from __future__ import annotations

from dataclasses import replace

from evalkit.gate.bounds import Bounds
from evalkit.gate.verdict import Result, Status
from evalkit.results.table import Row


def decided(result: Result, status: Status, text: str, n: int | None, row: Row) -> Result:
    """The result with its status and reason; `n` samples of the row's cell would decide it, or as many more votes."""
    if status != "inconclusive":
        return replace(result, status=status, reason=text)
    more = "it lies too near to the limit for any number of samples to decide"
    if n is not None and row.together:
        votes = round(row.details.get("votes", row.n) * n / row.n)
        more = f"about {votes:,} votes on this cell, cast as these were, would decide it (4 times in 5)"
        return replace(result, status=status, reason=f"{text}; {more}")
    if n is not None:
        more = f"about {n:,} samples per cell would decide it (4 times in 5, were this the true value)"
    return replace(result, status=status, reason=f"{text}; {more}", needed_n=n)


def decide(bounds: Bounds, limit: float, *, upper: bool) -> tuple[Status, float]:
    """Pass where the bound on the far side clears the limit, fail where the near one is beyond it; and which bound."""
    far, near = (bounds.high, bounds.low) if upper else (bounds.low, bounds.high)
    if far <= limit if upper else far >= limit:
        return "pass", far
    if near > limit if upper else near < limit:
        return "fail", near
    return "inconclusive", far
