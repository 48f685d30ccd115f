"""What a score of pairs holds next to its mean: other statistics of the same values, identical pairs, shares.

All of it is formed of the pairs' stored values whenever a score is asked for, and is part of no key: scores that were
cached before have it too, and another threshold computes nothing anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from evalkit.metric import PairMetric, Score
from evalkit.numerics.statistics import Statistic, statistic
from evalkit.scoring.pair_pass import Paired

REPORTED = ("mean", "median", "min", "max", "p1", "p99")


def with_statistics(
    metric: PairMetric,
    score: Score,
    values: Sequence[float],
    same: Sequence[bool] | None = None,
    threshold: float | None = None,
) -> Score:
    """A score with the statistics of its pairs' values among its details.

    They are `pairs` (how many), `REPORTED`, `identical` (how many of the pairs are, where that is known),
    `mean_of_others` (of those that are not, where some are), and `share_below(T)` (of metrics where higher is better)
    or `share_above(T)`: the share of pairs that are worse than the threshold T.

    A mean that holds identical pairs at a cap, since their value is infinite, has a note that says so.

    Args:
        values: of the pairs, one at least.
        same: by pair whether both images are identical; none: not known.
        threshold: T; none: no share.
    """
    details = {**score.details, "pairs": float(len(values))} | {name: statistic(name, values) for name in REPORTED}
    others = list(values)
    if same is not None:
        details["identical"] = float(sum(same))
        others = [value for value, equal in zip(values, same, strict=True) if not equal]
        if others and len(others) < len(values):
            details["mean_of_others"] = statistic("mean", others)
    if threshold is not None:
        share = beyond(metric, threshold)
        details[str(share)] = share(values)
    score = replace(score, details=details)
    cap = cap_of(metric)
    capped = 0 if cap is None else sum(value >= cap for value in values)
    return score if cap is None or not capped else _noted(score, _capped(values, capped, cap, details.get("identical")))


def pooled(score: Score, parts: Sequence[Score]) -> Score:
    """A score of several seeds with the statistics of all their pairs, given what each seed's score holds.

    Where its pairs' values are not there (of pairs within a set), those of the seeds: the worst of the extremes, the
    mean of all others. Pairs look unrelated where those of one seed do.
    """
    details = dict(score.details)
    each = {name: [part.details[name] for part in parts] for name in details if all(name in p.details for p in parts)}
    for name, values in each.items():
        if name in ("pairs", "identical", "shuffled_pairs"):
            details[name] = sum(values)
        elif name in ("unrelated", "unrelated_p"):
            details[name] = max(values)
        elif name in REPORTED or name.startswith("share_"):
            if score.influence is not None:
                details[name] = statistic(name, score.influence)
            elif name in ("min", "max"):
                details[name] = statistic(name, values)
    return replace(score, details=details)


def beyond(metric: PairMetric, threshold: float) -> Statistic:
    """The share of pairs that are worse than a threshold."""
    return Statistic("share_below" if metric.better == "higher" else "share_above", threshold)


def cap_of(metric: PairMetric) -> float | None:
    """What a pair of equal images counts where its value is infinite, in dB: what the protocol says; none: no cap."""
    cap = metric.constants().get("cap_db")
    return None if cap is None else float(cap)


def _capped(values: Sequence[float], capped: int, cap: float, identical: float | None) -> str:
    n = len(values)
    are = "are identical" if identical == capped else f"lie at or beyond the cap ({identical or 0:g} are identical)"
    if capped == n:
        return f"all {n} pairs {are} and count as {cap:g} dB"
    rest = statistic("mean", [value for value in values if value < cap])
    return f"{capped} of {n} pairs {are} and count as {cap:g} dB; mean of the others {rest:.4g}"


def identical(paired: Paired, values: Mapping[str, Sequence[float]]) -> list[bool] | None:
    """By pair whether both images are identical; none where neither files nor values tell.

    They are where both files have one sha256. Files of different writers may differ though their pixels do not: so
    they are also where a metric says so that counts all levels: one with `equal`, the value that equal images alone
    have; else one with a cap, at the cap (one level in one value of a 512x512 image lies beyond 100 dB).

    Args:
        values: by metric of `paired`, of all pairs.
    """
    same = _same_files(paired)
    exact = {
        name: metric.equal for name, metric in paired.metrics.items() if name in values and hasattr(metric, "equal")
    }
    telling = exact or {
        name: cap for name, metric in paired.metrics.items() if name in values and (cap := cap_of(metric)) is not None
    }
    if same is None and not telling:
        return None
    found = list(same or [False] * len(paired.pairs))
    for name, value in telling.items():
        found = [equal or each == value for equal, each in zip(found, values[name], strict=True)]
    return found


def _same_files(paired: Paired) -> list[bool] | None:
    first, second = (_digests(of) for of in (paired.source, paired.other))
    if not first or not second:
        return None
    return [first[i] == second[j] for i, j in paired.pairs]


def _digests(source: object) -> Sequence[str]:
    headers = getattr(source, "headers", None)  # images in memory have none
    return list(headers().sha256s) if headers is not None else ()


def _noted(score: Score, note: str) -> Score:
    return replace(score, note="; ".join(filter(None, (score.note, note))))
