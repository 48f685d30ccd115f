"""Rules on a score and its baseline's: no worse by more than a margin, or within a margin of it on either side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from evalkit.gate.bounds import POWER, Bounds, difference_bounds, needed_n
from evalkit.gate.decide import decide, decided
from evalkit.gate.rules import Baseline, Margin, Rule
from evalkit.gate.scores import Scores, unusable
from evalkit.gate.verdict import WORST_FIRST, Result, Status
from evalkit.results.protocols import protocol_difference
from evalkit.results.table import Row

BoundsOf = Callable[[float], Bounds | None]  # of a score less so many times its baseline


def against_baseline(run: Scores, result: Result, row: Row, rule: Rule, baseline: Baseline) -> Result:
    """The result of a rule that compares; `result` is what is known of it before."""
    earlier = baseline.earlier
    other = run if earlier is None else Scores(earlier.table, earlier.influences, earlier.pairing, earlier.clusters)
    base = other.row(baseline.cell, rule.metric)
    lacks = unusable(base, "the baseline's score")
    if lacks:
        return replace(result, reason=lacks[1])  # not this cell's fault: it cannot be judged
    assert base is not None
    a, b = run.estimate(row), other.estimate(base)
    worse = 1 if row.better == "lower" else -1
    factor, offset = rule.margin.edge(b.value, worse)
    result = replace(result, baseline_value=b.value, limit=factor * b.value + offset)
    if row.protocol_hash != base.protocol_hash:
        reason = f"not comparable with the baseline: {protocol_difference(row.protocol, base.protocol)}"
        return replace(result, stderr=None, reason=reason)
    result = replace(result, difference=a.value - b.value)
    digest, key = run.pairing.get(row.cell), run.key(row.cell)
    common = row.together or (digest is not None and digest == other.pairing.get(base.cell))
    same = key is not None and key == other.key(base.cell)

    def bounds_of(factor: float) -> Bounds | None:
        return difference_bounds(a, b, factor=factor, common=common, same=same, confidence=run.confidence)

    signs = (worse,) if rule.kind == "no_worse_than" else (worse, -worse)
    sides = [side for sign in signs if (side := _side(b.value, rule.margin, sign, bounds_of)) is not None]
    both = f"{a.value:.4g} against the baseline's {b.value:.4g}"
    if len(sides) < len(signs):
        reason = f"{both}: without a standard error of both, their difference cannot be judged"
        return replace(result, stderr=None, reason=reason)
    side = max(sides, key=lambda side: (-WORST_FIRST.index(side.status), side.beyond(a.value)))
    result = replace(result, stderr=side.bounds.stderr, paired=side.bounds.paired)
    result = replace(result, limit=side.limit, bound=side.limit + side.bound - side.offset)
    margin = f"{rule.margin} of it, {rule.margin.amount * abs(b.value):.3g}" if rule.margin.relative else rule.margin
    how = "paired" if side.bounds.paired else "unpaired"
    if rule.kind == "within":
        text = f"{both}: {_apart(a.value - b.value, sides, how)}; the margin is {margin} to either side"
        return decided(result, side.status, text, _needed(sides, a.value), row)
    by = worse * (a.value - b.value)
    edge = worse * (side.bound + side.shift)  # by how much worse the bound says it is
    text = (
        f"{both}: {'better' if by < 0 else 'worse'} by {abs(by):.3g} ± {side.bounds.stderr:.2g} ({how}); worse by "
        f"{'at least' if side.status == 'fail' else 'at most'} {edge:.3g} with 95 % confidence; the margin is {margin}"
    )
    return decided(result, side.status, text, needed_n(side.bounds, side.offset), row)


@dataclass(frozen=True)
class _Side:
    """One edge of a margin, and what is known of the score less `factor` times its baseline.

    Attributes:
        sign: 1 of the edge above the baseline, -1 below.
        limit: the edge, in the score's units.
        bounds, offset: of that difference, and what it is held against.
        shift: from there to the plain difference.
        status, bound: what the bounds say of this edge, and which of them does.
    """

    sign: int
    limit: float
    bounds: Bounds
    offset: float
    shift: float
    status: Status
    bound: float

    def beyond(self, value: float) -> float:
        """How far a score lies beyond the edge; below 0: on the side of the baseline."""
        return self.sign * (value - self.limit)


def _side(baseline: float, margin: Margin, sign: int, bounds_of: BoundsOf) -> _Side | None:
    factor, offset = margin.edge(baseline, sign)
    bounds = bounds_of(factor)
    if bounds is None:
        return None
    status, bound = decide(bounds, offset, upper=sign > 0)
    return _Side(sign, factor * baseline + offset, bounds, offset, (factor - 1) * baseline, status, bound)


def _apart(difference: float, sides: Sequence[_Side], how: str) -> str:
    """The difference and its bounds, each of the edge that it is held against.

    A candidate just beyond one edge passes where both tests do: 5 % of the time at most, as the one of that edge does
    (Schuirmann 1987). One that is as good as the baseline fails by either edge's other bound.
    """
    above, below = sorted(sides, key=lambda side: -side.sign)
    low, high = below.bounds.low + below.shift, above.bounds.high + above.shift
    stderr = max(side.bounds.stderr for side in sides)
    return f"{difference:+.3g} ± {stderr:.2g} ({how}), {low:+.3g} to {high:+.3g} with 95 % confidence on each side"


def _needed(sides: Sequence[_Side], value: float) -> int | None:
    """Samples that would decide: between the edges both tests must pass, each so much the surer."""
    outside = [side for side in sides if side.beyond(value) >= 0]
    if outside:
        return needed_n(outside[0].bounds, outside[0].offset)
    ns = [needed_n(side.bounds, side.offset, 1 - (1 - POWER) / 2) for side in sides if side.status == "inconclusive"]
    known = [n for n in ns if n is not None]
    return max(known) if known and len(known) == len(ns) else None
