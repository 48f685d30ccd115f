"""A run's scores under a gate's rules. A score that is missing, not a number or not comparable never passes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from typing import Any

from evalkit.gate.bounds import CONFIDENCE, Bounds, difference_bounds, needed_n, score_bounds
from evalkit.gate.rules import IMAGE_SHARES, LINTED, Baseline, Gate, Rule, Waiver
from evalkit.gate.verdict import WORST_FIRST, Result, Status, Verdict
from evalkit.results.compare import Clusters, Influences, estimate
from evalkit.results.protocols import protocol_difference
from evalkit.results.stats import Estimate
from evalkit.results.table import ResultTable, Row


def judge(
    table: ResultTable,
    gates: Mapping[str, Gate],
    *,
    influences: Influences,
    pairing: Mapping[str, str],
    clusters: Clusters | None = None,
    today: date | None = None,
    confidence: float = CONFIDENCE,
) -> Verdict:
    """Judges every rule on every cell that it selects.

    Args:
        table: the run's scores, warnings and findings.
        gates: from `make_gates`.
        influences: by (cell, metric), of the scores that have them.
        pairing: by cell the digest of its prompts and seed: cells that share it are compared sample by sample.
        clusters: by cell, of its samples; cells that share some are compared prompt by prompt.
        today: the day on which waivers must still hold; none: today, UTC.
        confidence: of each bound; above `CONFIDENCE` where the data were looked at several times before N was settled.
    """
    now = datetime.now(UTC)
    day = today or now.date()
    run = _Scores(table, influences, pairing, clusters or {}, confidence)
    results: list[Result] = []
    notes: list[str] = []
    for gate in gates.values():
        judged = [_judge(run, gate.name, rule, cell) for rule in gate.rules for cell in rule.cells]
        notes += _waive(judged, gate.waivers, day)
        results += judged
    statuses: set[Status] = {result.status for result in results if not result.waived}
    status = next((status for status in WORST_FIRST if status in statuses), WORST_FIRST[-1])
    return Verdict(status, tuple(results), tuple(notes), now.strftime("%Y-%m-%dT%H:%M:%S"))


@dataclass(frozen=True)
class _Scores:
    """The scores of one run, of this one or of an earlier one."""

    table: ResultTable
    influences: Influences
    pairing: Mapping[str, str]
    clusters: Clusters
    confidence: float = CONFIDENCE

    def row(self, cell: str, metric: str) -> Row | None:
        if metric in IMAGE_SHARES:
            return self._share(cell, metric)
        return next((row for row in self.table.rows if row.cell == cell and row.metric == metric), None)

    def estimate(self, row: Row) -> Estimate:
        return estimate(row, self.influences, self.clusters)

    def key(self, cell: str) -> Any:
        return self.table.run.get("cells", {}).get(cell)

    def _share(self, cell: str, metric: str) -> Row | None:
        """A row for images that are counted; it stands in no table."""
        known = self.table.run.get("images", {}).get(cell)
        first = next((row for row in self.table.rows if row.cell == cell), None)
        if known is None or first is None:
            return None
        n, count = known["count"], known["warnings"].get(metric, 0)
        if metric in LINTED:
            findings = [f for f in self.table.lint if f["where"] == cell and f["kind"] == metric]
            n = findings[0]["of"] if findings else n  # of a large set the lint decodes a part
            count = sum(f["count"] for f in findings)
        share = {"metric": metric, "label": IMAGE_SHARES[metric], "value": count / n, "stderr": None, "n": n}
        return replace(first, **share, better="lower", note=None)


def _judge(run: _Scores, gate: str, rule: Rule, cell: str) -> Result:
    row = run.row(cell, rule.metric)
    about = (gate, rule.text, cell, rule.metric, row.label if row else rule.metric, rule.kind, rule.limit)
    baseline = rule.baselines[cell].name if rule.baselines else None
    unusable = _unusable(row, "the score")
    if unusable:
        return Result(*about, None, None, None, *unusable, baseline=baseline)
    assert row is not None
    result = Result(*about, row.value, row.stderr, None, "inconclusive", "", baseline=baseline)
    if rule.limit is not None:
        return _against_limit(run, result, row, rule.limit)
    return _against_baseline(run, result, row, rule, rule.baselines[cell])


def _unusable(row: Row | None, what: str) -> tuple[Status, str] | None:
    """What to say of a score that is not there (it cannot be judged), or is not a number (something broke)."""
    if row is None:
        return "inconclusive", f"{what} is missing: there is none in the results"
    if row.value is None:
        return "fail" if row.broken else "inconclusive", f"{what} is missing: {row.note or 'no reason is recorded'}"
    if not math.isfinite(row.value):
        return "fail", f"{what} is {row.value}: not a finite number"
    return None


def _against_limit(run: _Scores, result: Result, row: Row, limit: float) -> Result:
    estimate = run.estimate(row)
    bounds = score_bounds(estimate, run.confidence)
    if bounds is None:
        ok = estimate.value <= limit if result.kind == "max" else estimate.value >= limit
        if row.metric in IMAGE_SHARES:
            why = f"{round(estimate.value * row.n)} of {row.n} images, counted"
        else:
            lacks = "it has no standard error" if estimate.stderr is None else "its standard error is 0"
            why = f"{estimate.value:.4g}, judged by its value: {lacks}"
        return replace(result, status="pass" if ok else "fail", reason=f"{why}; the limit is {limit:g}")
    status, bound = _decide(bounds, limit, upper=result.kind == "max")
    edge = f"{'at most' if bound == bounds.high else 'at least'} {bound:.4g} with 95 % confidence"
    text = f"{estimate.value:.4g} ± {bounds.stderr:.2g}: {edge}; the limit is {limit:g}"
    return _decided(replace(result, stderr=bounds.stderr, bound=bound), status, text, needed_n(bounds, limit))


def _against_baseline(run: _Scores, result: Result, row: Row, rule: Rule, baseline: Baseline) -> Result:
    earlier = baseline.earlier
    other = run if earlier is None else _Scores(earlier.table, earlier.influences, earlier.pairing, earlier.clusters)
    base = other.row(baseline.cell, rule.metric)
    unusable = _unusable(base, "the baseline's score")
    if unusable:
        return replace(result, reason=unusable[1])  # not this cell's fault: it cannot be judged
    assert base is not None
    assert base.value is not None
    a, b = run.estimate(row), other.estimate(base)
    worse, amount, relative = (1 if row.better == "lower" else -1), rule.margin.amount, rule.margin.relative
    # Judged is the score less `factor` times the baseline, against `offset`.
    factor = 1 + worse * math.copysign(amount, b.value) if relative and b.value else 1.0
    offset = 0.0 if relative else worse * amount
    result = replace(result, baseline_value=b.value, limit=factor * b.value + offset)
    if row.protocol_hash != base.protocol_hash:
        reason = f"not comparable with the baseline: {protocol_difference(row.protocol, base.protocol)}"
        return replace(result, stderr=None, reason=reason)
    result = replace(result, difference=a.value - b.value)
    digest, key = run.pairing.get(row.cell), run.key(row.cell)
    common = digest is not None and digest == other.pairing.get(base.cell)
    same = key is not None and key == other.key(base.cell)
    bounds = difference_bounds(a, b, factor=factor, common=common, same=same, confidence=run.confidence)
    both = f"{a.value:.4g} against the baseline's {b.value:.4g}"
    if bounds is None:
        reason = f"{both}: without a standard error of both, their difference cannot be judged"
        return replace(result, stderr=None, reason=reason)
    status, bound = _decide(bounds, offset, upper=worse > 0)
    by = worse * (a.value - b.value)
    edge = worse * (bound - (1 - factor) * b.value)  # by how much worse the bound says it is
    margin = f"{rule.margin} of it, {amount * abs(b.value):.3g}" if relative else f"{rule.margin}"
    text = (
        f"{both}: {'better' if by < 0 else 'worse'} by {abs(by):.3g} ± {bounds.stderr:.2g} "
        f"({'paired' if bounds.paired else 'unpaired'}); worse by {'at least' if status == 'fail' else 'at most'} "
        f"{edge:.3g} with 95 % confidence; the margin is {margin}"
    )
    result = replace(result, stderr=bounds.stderr, bound=bound + factor * b.value, paired=bounds.paired)
    return _decided(result, status, text, needed_n(bounds, offset))


def _decided(result: Result, status: Status, text: str, n: int | None) -> Result:
    if status != "inconclusive":
        return replace(result, status=status, reason=text)
    more = "it lies too near to the limit for any number of samples to decide"
    if n is not None:
        more = f"about {n:,} samples per cell would decide it (4 times in 5, were this the true value)"
    return replace(result, status=status, reason=f"{text}; {more}", needed_n=n)


def _decide(bounds: Bounds, limit: float, *, upper: bool) -> tuple[Status, float]:
    """Pass where the bound on the far side clears the limit, fail where the near one is beyond it; and which bound."""
    far, near = (bounds.high, bounds.low) if upper else (bounds.low, bounds.high)
    if far <= limit if upper else far >= limit:
        return "pass", far
    if near > limit if upper else near < limit:
        return "fail", near
    return "inconclusive", far


def _waive(results: list[Result], waivers: Sequence[Waiver], today: date) -> list[str]:
    """Puts the waivers that still hold into the results, in place; returns notes on the others."""
    notes = []
    for waiver in waivers:
        about = f"the waiver of {waiver.metric} ({waiver.reason})"
        covered = [i for i, r in enumerate(results) if r.metric == waiver.metric and r.cell in waiver.cells]
        hit = [i for i in covered if results[i].status != "pass"]
        if waiver.until < today:
            notes.append(f"{about} expired on {waiver.until}: it does not count")
        elif not hit:
            notes.append(f"{about} is not needed: all that it covers passes")
        else:
            for i in hit:
                results[i] = replace(results[i], waived={"reason": waiver.reason, "until": waiver.until.isoformat()})
    return notes
