"""One metric over runs: a line per cell (or model) and protocol, each point against the one before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from evalkit.errors import ConfigError, nearest
from evalkit.history.registry import PastRun, Registry
from evalkit.history.scored import Scored
from evalkit.results.compare import verdict_of
from evalkit.results.stats import Difference, holm
from evalkit.results.table import Row, finite

BY = ("cell", "model")


@dataclass(frozen=True)
class Point:
    """A score in one run.

    Attributes:
        run, row: the run and its score.
        step: this score less the one before; none of the first.
        p_holm: corrected for the steps of the series that are shown.
        verdict: of the step: "better", "worse", "not distinguishable", or "" without a standard error.
    """

    run: PastRun
    row: Row
    step: Difference | None = None
    p_holm: float | None = None
    verdict: str = ""

    @property
    def arrow(self) -> str:
        """Where the value went; "=" where it is the same."""
        if self.step is None:
            return ""
        return "=" if self.step.value == 0 else "↑" if self.step.value > 0 else "↓"


@dataclass(frozen=True)
class Series:
    """The scores of one cell or model under one protocol, oldest first."""

    name: str
    protocol_hash: str
    points: Sequence[Point]

    @property
    def protocol(self) -> Mapping[str, Any]:
        return self.points[-1].row.protocol


@dataclass(frozen=True)
class Course:
    """All series of a metric, those of one protocol next to each other, the protocol that was used last first."""

    metric: str
    label: str
    better: str
    series: Sequence[Series]

    @property
    def by_protocol(self) -> dict[str, list[Series]]:
        groups: dict[str, list[Series]] = {}
        for each in self.series:
            groups.setdefault(each.protocol_hash, []).append(each)
        return groups

    def to_json(self) -> dict[str, Any]:
        return {
            "metric": self.metric,
            "label": self.label,
            "better": self.better,
            "series": [
                {
                    "name": each.name,
                    "protocol_hash": each.protocol_hash,
                    "protocol": each.protocol,
                    "points": [_point_json(point) for point in each.points],
                }
                for each in self.series
            ],
        }


def follow(registry: Registry, metric: str, *, by: str = "cell", last: int | None = None, match: str = "") -> Course:
    """A metric's course over the runs of a registry.

    Args:
        registry: the runs.
        metric: its name in the configuration.
        by: "cell": a series per cell's name; "model": per model, of its best cell in each run.
        last: how many points of each series count, from the newest; none: all.
        match: only cells (or models) whose name holds this.

    Each step is paired by sample where the runs' samples are (prompts, seeds), and p is corrected for the steps of its
    series (Holm). Scores of different protocols are in different series.

    Raises:
        ConfigError: no run has the metric, or no name holds `match`.
    """
    if by not in BY:
        raise ConfigError(f"--by {by}: give cell or model")
    found: dict[tuple[str, str], list[Point]] = {}
    before: dict[tuple[str, str], Scored] = {}  # of each series the last score so far
    for run in reversed(registry.runs):
        rows = {key: row for key, row in _rows(run, metric, by).items() if match in key[0]}
        samples = run.samples(metric) if rows else ({}, {})
        for key, row in rows.items():
            score = Scored.of(run, row, samples)
            step = score.less(before[key]) if key in before else None
            found.setdefault(key, []).append(Point(run, row, step))
            before[key] = score
    if not found:
        known = {row.metric for run in registry.runs for row in run.table.rows}
        if metric in known:
            raise ConfigError(f"no {by} with a score of {metric} has '{match}' in its name")
        raise ConfigError(f"no run below {registry.place} has a metric '{metric}'. {nearest(metric, known)}")
    series = [Series(*key, _judged(points, last)) for key, points in found.items()]
    newest: dict[str, Any] = {}  # by protocol the time of its last run
    for each in series:
        date = each.points[-1].run.date
        newest[each.protocol_hash] = max(newest.get(each.protocol_hash, date), date)
    series.sort(key=lambda each: each.name)
    series.sort(key=lambda each: (newest[each.protocol_hash], each.protocol_hash), reverse=True)
    row = series[0].points[-1].row
    return Course(metric, row.label, row.better, series)


def _rows(run: PastRun, metric: str, by: str) -> dict[tuple[str, str], Row]:
    """By series' name and protocol the run's score."""
    rows: dict[tuple[str, str], Row] = {}
    for row in run.table.rows:
        if row.metric != metric or not finite(row):
            continue
        key = (row.cell if by == "cell" else row.model, row.protocol_hash)
        known = rows.get(key)
        if known is None or row.sign * (row.value or 0.0) > known.sign * (known.value or 0.0):
            rows[key] = row
    return rows


def _judged(points: Sequence[Point], last: int | None) -> list[Point]:
    """The last points with their verdicts, p corrected over their steps."""
    shown = list(points[-last:] if last else points)
    corrected = holm([point.step.p if point.step else None for point in shown])
    return [
        replace(point, p_holm=p, verdict=verdict_of(point.step, p, point.row.better) if point.step else "")
        for point, p in zip(shown, corrected, strict=True)
    ]


def _point_json(point: Point) -> dict[str, Any]:
    row, step = point.row, point.step
    return {
        "run": point.run.name,
        "date": point.run.to_json()["date"],
        "cell": row.cell,
        "value": row.value,
        "stderr": row.stderr,
        "low": row.low,
        "high": row.high,
        "n": row.n,
        "git": point.run.made.get("git"),
        "step": None if step is None else {**asdict(step), "p_holm": point.p_holm, "verdict": point.verdict},
    }
