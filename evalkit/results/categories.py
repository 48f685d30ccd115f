"""categories.csv: each metric by category, class or attribute, with intervals, and each against all other samples.

A difference from the rest is taken sample by sample and clustered by prompt, and its p-value is corrected for all lines
of its metric: by Holm (no line of a metric is called by mistake, in 95 % of runs) and by Benjamini and Hochberg (of
those that are called, 5 % are so by mistake).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from evalkit.metric import standard_error
from evalkit.results.csv_files import write_csv
from evalkit.results.stats import Difference, Estimate, benjamini_hochberg, difference, holm, interval

if TYPE_CHECKING:
    from evalkit.metric import Metric, Score
    from evalkit.results.rows import Outcome

HEADS = ("cell", "metric", "category", "mean", "stderr", "n", "clusters", "low", "high")
AGAINST = ("rest", "difference", "difference_low", "difference_high", "p", "p_holm", "q")


@dataclass(frozen=True)
class Heading:
    """One line.

    Attributes:
        cell, metric, name: what it is of.
        estimate: over its samples.
        rest: the mean of all other samples; none where a sample's own value is not known there, or there are none.
        against: its mean less the rest's.
    """

    cell: str
    metric: str
    name: str
    estimate: Estimate
    rest: float | None = None
    against: Difference | None = None


def write_categories(outcome: Outcome, out: Path) -> None:
    """categories.csv, and headings.csv with the values per sample of headings that the metrics give themselves."""
    lines: list[list[Any]] = []
    for name in outcome.metrics:
        found = [heading for cell in outcome.cells for heading in headings_of(outcome, cell.name, name)]
        lines += _lines(found)
    order = {cell.name: i for i, cell in enumerate(outcome.cells)}
    if lines:
        lines.sort(key=lambda line: order[line[0]])  # stable: by cell, then by metric
        write_csv(out / "categories.csv", [[*HEADS, *AGAINST], *lines])
    parts: list[list[Any]] = [["cell", "index", "metric", "category", "value"]]
    for cell in outcome.cells:
        for name in outcome.metrics:
            for heading, each in outcome.scored[cell.name, name].score.headings.items():
                given = ((i, value) for i, value in enumerate(each) if value is not None)
                parts += [[cell.name, i, name, heading, f"{value:.6g}"] for i, value in given]
    if len(parts) > 1:
        write_csv(out / "headings.csv", parts)


def _lines(found: Sequence[Heading]) -> list[list[Any]]:
    """The lines of one metric: p-values are corrected for all of them."""
    ps = [heading.against.p if heading.against else None for heading in found]
    lines: list[list[Any]] = []
    for heading, p_holm, q in zip(found, holm(ps), benjamini_hochberg(ps), strict=True):
        one, against = heading.estimate, heading.against or Difference(0.0)
        figures = [one.value, one.stderr, one.n, one.groups, *(interval(one) or (None, None))]
        value = against.value if heading.against else None
        compared = [heading.rest, value, against.low, against.high, against.p, p_holm, q]
        lines.append([heading.cell, heading.metric, heading.name, *figures, *compared])
    return lines


def headings_of(outcome: Outcome, cell: str, metric: str) -> list[Heading]:
    """The headings of one metric in one cell: its own, or the prompts' categories; and attributes of images, whose rest
    are the images that are known to lack them."""
    score = outcome.scored[cell, metric].score
    values = _values(outcome.metrics[metric], score)
    parts: dict[str, tuple[Sequence[float | None], Sequence[float | None] | None]] = {
        name: (each, values) for name, each in score.headings.items()
    }
    if values is not None and outcome.metrics[metric].per_sample:
        categories = by_category(outcome.sources[cell].categories, values)
        parts = parts or {name: (each, values) for name, each in categories.items()}
        for name, flags in outcome.attributes.get(cell, {}).items():
            pairs = list(zip(values, flags, strict=True))
            each = [value if flag else None for value, flag in pairs]
            parts[name] = (each, [value if flag is not None else None for value, flag in pairs])
    clusters = outcome.clusters_of(cell)
    return [
        _heading((cell, metric, name), each, known, clusters)
        for name, (each, known) in parts.items()
        if any(value is not None for value in each)
    ]


def _values(metric: Metric, score: Score) -> Sequence[float | None] | None:
    """Each sample's own value: of a metric of single samples, or as its headings have it; none where unknown."""
    if metric.per_sample and score.influence is not None:
        return score.influence
    if not score.headings:
        return None
    columns = zip(*score.headings.values(), strict=True)
    return [next((value for value in column if value is not None), None) for column in columns]


def _heading(
    about: tuple[str, str, str],
    each: Sequence[float | None],
    values: Sequence[float | None] | None,
    clusters: Sequence[int],
) -> Heading:
    inside = [i for i, value in enumerate(each) if value is not None]
    mine = [value for value in each if value is not None]
    ids = [clusters[i] for i in inside]
    estimate = Estimate(fmean(mine), standard_error(mine, ids), len(mine), mine, ids)
    if values is None or any(values[i] != each[i] for i in inside):  # a mean of answers, not of images
        return Heading(*about, estimate)
    pairs = [(value, clusters[i]) for i, value in enumerate(values) if value is not None and each[i] is None]
    if not pairs:
        return Heading(*about, estimate)
    others, of_others = zip(*pairs, strict=True)
    rest = Estimate(fmean(others), standard_error(others, of_others), len(others), others, of_others)
    return Heading(*about, estimate, rest.value, apart(estimate, rest))


def apart(a: Estimate, b: Estimate) -> Difference:
    """The difference of the means of two sets of samples of one cell, whose clusters may be the same."""
    assert a.influence is not None
    assert b.influence is not None
    assert a.clusters is not None
    assert b.clusters is not None
    n = a.n + b.n
    deviations = [n / a.n * (v - a.value) for v in a.influence] + [n / b.n * (b.value - v) for v in b.influence]
    ids = [*a.clusters, *b.clusters]
    stderr = standard_error(deviations, ids)
    if stderr is None:
        return Difference(a.value - b.value)
    return difference((a.value - b.value, stderr), (0.0, 0.0), None, (a.groups, b.groups))


def by_category(
    categories: Sequence[str | None], values: Sequence[float | None]
) -> dict[str, tuple[float | None, ...]]:
    """By category each sample's value, none where the sample is of another."""
    known = dict.fromkeys(category for category in categories if category is not None)
    pairs = list(zip(categories, values, strict=True))
    return {name: tuple(value if category == name else None for category, value in pairs) for name in known}
