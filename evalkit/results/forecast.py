"""A pilot's table and influences -> how many samples per cell tell which differences apart, and what they cost."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from statistics import median
from typing import Any

from evalkit.errors import ConfigError, nearest
from evalkit.metric import by_cluster, standard_error
from evalkit.results.compare import Clusters, Influences
from evalkit.results.power import ALPHA, POWER, Spread, paired_spread, prompts_needed, spread
from evalkit.results.table import COSTS, ResultTable, Row, finite, group

PER_PROMPT = (1, 2, 4, 8, 16)
_BEYOND = 0.1  # a share of the variance that influences do not show, which is worth a line
_FEW = 30  # prompts of a pilot below which its spread is hardly known


@dataclass(frozen=True)
class Need:
    """What a difference needs.

    Attributes:
        samples, prompts: per cell, at 5 %, for one comparison; none: no number does.
        with_holm: samples per cell at Holm's first step of the metric's comparisons.
        hours: device hours of the two cells' samples, at the pilot's speed; none: that is not known.
    """

    samples: int | None
    prompts: int | None
    with_holm: int | None
    hours: float | None


@dataclass(frozen=True)
class Design:
    """Samples per prompt, against prompts: what a difference needs with `k`; `effect` is Kish's design effect."""

    k: int
    prompts: int | None
    samples: int | None
    effect: float


@dataclass(frozen=True)
class Forecast:
    """One difference of two cells.

    Attributes:
        metric, label, cell, baseline: of what; without a baseline, of two cells like this one.
        delta: the difference, above 0; `asked` whether it was given, or is the pilot's own.
        correlation: of the two cells' influences, prompt by prompt; none where they share none.
        paired, unpaired: what it needs; `paired` is none where the cells share no prompts.
        comparisons: of the metric, which Holm's correction counts.
        doubt: by which share the numbers of samples are unsure (two standard errors of the pilot's variance).
        designs: by samples per prompt, of the way that is compared; empty where the pilot has one per prompt.
    """

    metric: str
    label: str
    cell: str
    baseline: str | None
    delta: float
    asked: bool
    correlation: float | None
    paired: Need | None
    unpaired: Need
    comparisons: int
    doubt: float
    designs: tuple[Design, ...] = ()

    @property
    def need(self) -> Need:
        """What the comparison that a run would make needs."""
        return self.paired or self.unpaired


@dataclass(frozen=True)
class Pilot:
    """What a finished run tells before the next one: its table, and its samples' influences, clusters and pairing.

    Attributes:
        means: metrics whose score is the mean over samples: no bias, and their error shrinks as 1 / sqrt(N).
    """

    table: ResultTable
    influences: Influences
    clusters: Clusters
    pairing: Mapping[str, str]
    means: Collection[str] = ()


@dataclass(frozen=True)
class Outlook:
    """All forecasts, and what must be read with them."""

    power: float
    forecasts: tuple[Forecast, ...]
    notes: tuple[str, ...] = ()
    speeds: Mapping[str, float] = field(default_factory=dict)  # images per second by cell

    def to_json(self) -> dict[str, Any]:
        return {"alpha": ALPHA, **asdict(self)}


def make_outlook(pilot: Pilot, deltas: Mapping[str, float], power: float = POWER) -> Outlook:
    """How many samples per cell tell differences apart.

    Args:
        pilot: a finished run.
        deltas: by metric a difference; of a metric that is not named the pilot's own are taken.
        power: how often a true difference is to be called one.

    Raises:
        ConfigError: a metric that the pilot has no errors of; no difference to forecast; no errors at all.
    """
    scored = [row for row in pilot.table.rows if row.metric not in COSTS and finite(row)]
    sure = group((row for row in scored if _has_error(row, pilot)), lambda row: row.metric)
    if not sure:
        why = next((row.note for row in scored if row.note), "its scores are of too few samples, or have no error")
        raise ConfigError(f"power: no score of this pilot has a standard error ({why}): make more samples, as a pilot")
    for metric in deltas:
        if metric not in sure:
            raise ConfigError(f"--delta {metric}: the pilot has no errors of it. {nearest(metric, sure)}")
    speeds = {
        row.cell: row.value for row in pilot.table.rows if row.metric == "images_per_second" and row.value is not None
    }
    found: list[Forecast] = []
    for metric, rows in sure.items():
        if deltas and metric not in deltas:
            continue
        found += _of_metric(rows, pilot, deltas.get(metric), power, speeds)
    if not found:
        example = f"--delta {next(iter(sure))}=VALUE"
        raise ConfigError(f"power: the pilot has no two cells to compare: say which difference matters, {example}")
    return Outlook(power, tuple(found), tuple(_notes(pilot, sure, found, speeds)), speeds)


def _has_error(row: Row, pilot: Pilot) -> bool:
    return not row.together and ((row.cell, row.metric) in pilot.influences or bool(row.stderr))


def _of_metric(
    rows: Sequence[Row], pilot: Pilot, delta: float | None, power: float, speeds: Mapping[str, float]
) -> Iterator[Forecast]:
    """With a given delta one forecast, of the pair with the median spread; else those of the pilot's own differences:
    the smallest, the median and the largest."""
    baselines = {c.cell: c.baseline for c in pilot.table.comparisons if c.metric == rows[0].metric}
    by_cell = {row.cell: row for row in rows}
    pairs = [(by_cell[a], by_cell[b]) for a, b in baselines.items() if a in by_cell and b in by_cell]
    if not pairs:  # such as of a run whose cells stopped early: those of one N are compared
        alike = max(group(rows, lambda row: row.protocol_hash).values(), key=len)
        top = max(alike, key=lambda row: row.sign * (row.value or 0.0))
        pairs = [(row, top) for row in alike if row is not top]
    count = max(len(pairs), 1)
    if pilot.table.run.get("baseline") is None and len(rows) > 1:  # the best is chosen by the data: all pairs count
        count = len(rows) * (len(rows) - 1) // 2
    if delta is not None:
        every = [_forecast(a, b, pilot, delta, True, power, count, speeds) for a, b in pairs]
        every = every or [_forecast(rows[0], None, pilot, delta, True, power, count, speeds)]
        yield sorted(every, key=lambda f: f.need.samples or math.inf)[len(every) // 2]
        return
    gaps = sorted(((abs((a.value or 0) - (b.value or 0)), a, b) for a, b in pairs), key=lambda gap: gap[0])
    gaps = [gap for gap in gaps if gap[0] > 0]
    for place in sorted({0, len(gaps) // 2, len(gaps) - 1}) if gaps else ():
        gap, a, b = gaps[place]
        yield _forecast(a, b, pilot, gap, False, power, count, speeds)


def _forecast(
    row: Row,
    base: Row | None,
    pilot: Pilot,
    delta: float,
    asked: bool,
    power: float,
    comparisons: int,
    speeds: Mapping[str, float],
) -> Forecast:
    first = _spread(row, pilot)
    both = first + (_spread(base, pilot) if base is not None else first)
    paired, correlation = _paired(row, base, pilot) if base is not None else (None, None)
    k = _per_prompt(row)
    cells = [row.cell, (base or row).cell]
    speed = [speeds[cell] for cell in cells if cell in speeds]

    def need(of: Spread) -> Need:
        prompts = prompts_needed(delta, of, k if of.separate else 1, power)
        holm = prompts_needed(delta, of, k if of.separate else 1, power, ALPHA / comparisons)
        samples, with_holm = (None if p is None else p * (k if of.separate else 1) for p in (prompts, holm))
        hours = sum(samples / s for s in speed) / 3600 if samples is not None and len(speed) == 2 else None
        return Need(samples, prompts, with_holm, hours)

    used = paired or both
    designs: list[Design] = []
    for each in PER_PROMPT if used.separate else ():
        prompts = prompts_needed(delta, used, each, power)
        designs.append(Design(each, prompts, None if prompts is None else each * prompts, used.effect(each)))
    return Forecast(
        *(row.metric, row.label, row.cell, base.cell if base is not None else None, delta, asked, correlation),
        paired=need(paired) if paired is not None else None,
        unpaired=need(both),
        comparisons=comparisons,
        doubt=2 * used.doubt,
        designs=tuple(designs),
    )


def _per_prompt(row: Row) -> int:
    """The pilot's samples per prompt."""
    return max(1, round(row.n / row.clusters)) if row.clusters else 1


def _spread(row: Row, pilot: Pilot) -> Spread:
    """Of a score; without influences by its standard error alone."""
    each = pilot.influences.get((row.cell, row.metric))
    found = spread(each, pilot.clusters.get(row.cell)) if each is not None else None
    if found is not None:
        more = 1 / (1 - max(0.0, _beyond(row, pilot)))  # unpaired, the whole standard error counts
        return replace(found, between=more * found.between, within=more * found.within)
    count = row.clusters or row.n
    return Spread((row.stderr or 0.0) ** 2 * count, 0.0, count, False, math.sqrt(2 / max(count - 1, 1)))


def _paired(row: Row, base: Row, pilot: Pilot) -> tuple[Spread | None, float | None]:
    """The spread of the difference, and how the two cells' influences go together, prompt by prompt."""
    import numpy as np

    first, second = (pilot.influences.get((one.cell, one.metric)) for one in (row, base))
    ids = (pilot.clusters.get(row.cell), pilot.clusters.get(base.cell))
    digest = pilot.pairing.get(row.cell)
    same = digest is not None and digest == pilot.pairing.get(base.cell)
    if first is None or second is None:
        return None, None
    found = paired_spread(first, second, ids, same=same)
    if found is None:
        return None, None
    sums = [by_cluster(values, own) for values, own in zip((first, second), ids, strict=True)]
    flat = any(side.std() == 0 for side in sums) or len(sums[0]) != len(sums[1])
    return found, None if flat else float(np.corrcoef(sums[0], sums[1])[0, 1])


def _notes(
    pilot: Pilot, sure: Mapping[str, Sequence[Row]], found: Sequence[Forecast], speeds: Mapping[str, float]
) -> Iterator[str]:
    shown = {forecast.metric: sure[forecast.metric] for forecast in found}
    whole = [rows[0].label for metric, rows in shown.items() if metric not in pilot.means]
    if whole:
        n = next(rows[0].n for metric, rows in shown.items() if metric not in pilot.means)
        yield (
            f"{', '.join(whole)}: of the set as a whole, and their values move with N: compare equal N alone. Their "
            f"spread is that at the pilot's N = {n}; at a smaller N it is larger, and such forecasts are too low."
        )
    few = {rows[0].label: n for rows in shown.values() if (n := min(r.clusters or r.n for r in rows)) < _FEW}
    if few:
        counts = f"{min(few.values())} prompts or samples"
        yield f"{', '.join(few)}: a pilot of {counts} hardly knows their spread: heed the column ±."
    for rows in shown.values():
        beyond = [b for row in rows if (b := _beyond(row, pilot)) > _BEYOND]
        if beyond:
            yield (
                f"{rows[0].label}: {100 * median(beyond):.0f} % of its variance is not seen sample by sample (draws of "
                f"subsets, say). It counts where cells are compared unpaired, and need not shrink with N."
            )
    if not any(key[1] in shown for key in pilot.influences):
        yield "There is no samples.csv next to the results: nothing is paired, and prompts are not told from samples."
    elif not any(forecast.designs for forecast in found):
        yield "Each sample counts by itself (one per prompt, or prompts that are all there are): more prompts, no k."
    if not any(forecast.asked for forecast in found):
        yield (
            "These differences are the pilot's own, which chance made larger or smaller: say which one matters, "
            "--delta METRIC=VALUE."
        )
    if not speeds:
        yield "What samples cost is not known: these images were not made by evalkit."


def _beyond(row: Row, pilot: Pilot) -> float:
    """The share of a score's variance that its influences do not show."""
    each = pilot.influences.get((row.cell, row.metric))
    own = standard_error(each, pilot.clusters.get(row.cell)) if each is not None else None
    return 1 - own**2 / row.stderr**2 if own is not None and row.stderr else 0.0
