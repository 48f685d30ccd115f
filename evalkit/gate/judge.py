"""A run's scores under a gate's rules. A score that is missing, not a number or not comparable never passes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime

from evalkit.gate.against import against_baseline
from evalkit.gate.bounds import CONFIDENCE, Bounds, agreement_bounds, needed_n, ratio_bounds, score_bounds
from evalkit.gate.decide import decide, decided
from evalkit.gate.rules import IMAGE_SHARES, JUDGED, MEAN, Gate, Rule, Waiver
from evalkit.gate.scores import Scores, unusable
from evalkit.gate.statistic import COUNTED, needed_values, statistic_bounds
from evalkit.gate.verdict import WORST_FIRST, Result, Status, Verdict
from evalkit.results.compare import Clusters, Influences
from evalkit.results.real_text import multiple_of
from evalkit.results.stats import Estimate
from evalkit.results.table import ResultTable, Row

UNRELATED = "pairs look unrelated (different noise?): no closer than shuffled ones"


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
    run = Scores(table, influences, pairing, clusters or {}, confidence)
    results: list[Result] = []
    notes: list[str] = []
    for gate in gates.values():
        judged = [_judge(run, gate.name, rule, cell) for rule in gate.rules for cell in rule.cells]
        notes += _waive(judged, gate.waivers, day)
        results += judged
    statuses: set[Status] = {result.status for result in results if not result.waived}
    status = next((status for status in WORST_FIRST if status in statuses), WORST_FIRST[-1])
    return Verdict(status, tuple(results), tuple(notes), now.strftime("%Y-%m-%dT%H:%M:%S"))


def _judge(run: Scores, gate: str, rule: Rule, cell: str) -> Result:
    row = run.row(cell, rule.metric)
    about = (gate, rule.text, cell, rule.metric, row.label if row else rule.metric, rule.kind, rule.limit)
    baseline = rule.baselines[cell].name if rule.baselines else None
    lacks = unusable(row, "the score")
    if lacks:
        return Result(*about, None, None, None, *lacks, baseline=baseline)
    assert row is not None
    result = Result(*about, row.value, row.stderr, None, "inconclusive", "", baseline=baseline)
    if rule.samples is not None and row.n != rule.samples:
        return replace(result, reason=f"of {row.n:,} samples, where {rule.samples:,} are asked for: that says nothing")
    if rule.limit is None:
        result = against_baseline(run, result, row, rule, rule.baselines[cell])
    else:
        result = (_against_limit if rule.statistic == MEAN else _statistic)(run, result, row, rule)
    return _of_unrelated(result, row)


def _of_unrelated(result: Result, row: Row) -> Result:
    """A verdict on pairs that look unrelated says so, and is no pass: it tells nothing of two forms of one model."""
    if row.metric in IMAGE_SHARES or not row.details.get("unrelated"):
        return result
    status: Status = "inconclusive" if result.status == "pass" else result.status
    return replace(result, status=status, reason=f"{UNRELATED}; {result.reason}")


def _against_limit(run: Scores, result: Result, row: Row, rule: Rule) -> Result:
    limit = _limit_of(rule)
    estimate = run.estimate(row)
    if row.metric in IMAGE_SHARES:
        why = f"{round(estimate.value * row.n)} of {row.n} images, counted"
        return _by_value(replace(result, counted=True), estimate.value, limit, why)
    bounds = _bounds(run, row, estimate)
    if bounds is None:
        lacks = "it has no standard error" if estimate.stderr is None else "its standard error is 0"
        return _by_value(result, estimate.value, limit, f"{estimate.value:.7g}, judged by its value: {lacks}")
    status, bound = decide(bounds, limit, upper=rule.kind == "max")
    if rule.by_value:
        says = {"pass": "pass", "fail": "fail", "inconclusive": "decide nothing"}[status]
        about = f"between {bounds.low:.6g} and {bounds.high:.6g} with 95 % confidence on each side, which would {says}"
        why = f"{estimate.value:.7g}, judged by its value as the rule asks (± {bounds.stderr:.2g}: {about})"
        return _by_value(replace(result, stderr=bounds.stderr), estimate.value, limit, why)
    edge = f"{'at most' if bound == bounds.high else 'at least'} {bound:.4g} with 95 % confidence"
    text = f"{estimate.value:.4g} ± {bounds.stderr:.2g}: {edge}; the limit is {limit:g}"
    result, needed = replace(result, stderr=bounds.stderr, bound=bound), needed_n(bounds, limit)
    if row.metric == JUDGED and status == "inconclusive" and needed is not None:
        return replace(result, reason=f"{text}; about {needed:,} known answers would decide it")
    return decided(result, status, text, needed, row)


def _bounds(run: Scores, row: Row, estimate: Estimate) -> Bounds | None:
    """None where the score has no standard error, or one of 0."""
    if row.metric == JUDGED:
        return agreement_bounds(row, run.confidence)
    return ratio_bounds(row, run.confidence) if multiple_of(row.metric) else score_bounds(estimate, run.confidence)


def _statistic(run: Scores, result: Result, row: Row, rule: Rule) -> Result:
    """A rule on another statistic of a metric's values per sample than their mean."""
    limit, statistic = _limit_of(rule), rule.statistic
    values = run.influences.get((row.cell, row.metric))
    if values is None:
        return replace(result, value=None, stderr=None, reason="there is no value per sample to take it of")
    clusters = run.clusters.get(row.cell)
    value, n = statistic(values), len(values)
    result = replace(result, value=value if math.isfinite(value) else None, stderr=None)
    if statistic.kind in COUNTED:
        wrong = sum(each > limit if rule.kind == "max" else each < limit for each in values)
        why = f"{value:.4g}, that of sample {list(values).index(value)}; {wrong:,} of {n:,} are beyond the limit"
        return _by_value(replace(result, counted=True), value, limit, why)
    bounds = statistic_bounds(statistic, values, clusters, run.confidence)
    if rule.by_value or bounds is None:  # of a single sample nothing is estimated
        return _by_value(result, value, limit, f"{value:.4g}, judged by its value")
    status, bound = decide(bounds, limit, upper=rule.kind == "max")
    side = "at most" if bound == bounds.high else "at least"
    text = f"{value:.4g}: {side} {bound:.4g} with 95 % confidence; the limit is {limit:g}"
    if not math.isfinite(bound):
        text = f"{value:.4g}, and {n:,} values are too few to bound it on that side; the limit is {limit:g}"
    result = replace(result, bound=bound if math.isfinite(bound) else None)
    return decided(result, status, text, needed_values(statistic, values, clusters, bounds, rule.kind, limit), row)


def _limit_of(rule: Rule) -> float:
    assert rule.limit is not None
    return rule.limit


def _by_value(result: Result, value: float, limit: float, why: str) -> Result:
    ok = value <= limit if result.kind == "max" else value >= limit
    return replace(result, status="pass" if ok else "fail", reason=f"{why}; the limit is {limit:.10g}")


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
