"""A training's checkpoints as a series: the best step, what cannot be told from it, and where it stopped gaining."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from evalkit.cell import setting_name
from evalkit.metric import by_cluster
from evalkit.results.compare import Clusters, Influences, compare, estimate, row_difference
from evalkit.results.stats import CONFIDENCE, NO_SPREAD, holm, two_sided
from evalkit.results.table import COSTS, Row, finite, group

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

STEP = "step"
MAX_TIES = 6
MAX_SAID = 3  # metrics per series that are said in sentences; results.json has all


def step_of(row: Row) -> float | None:
    """The training step of a row's cell; none where it is no checkpoint of a series."""
    steps = [value for key, value in row.settings.items() if setting_name(key) == STEP]
    known = len(steps) == 1 and isinstance(steps[0], int | float) and not isinstance(steps[0], bool)
    return steps[0] if known else None


def group_steps(rows: Sequence[Row]) -> dict[str, dict[str, float]]:
    """By name each series of two steps or more: the steps of its cells, which differ in nothing else, in order."""
    groups: dict[tuple[str, ...], dict[str, float]] = {}
    about: dict[tuple[str, ...], Row] = {}
    for row in rows:
        step = step_of(row)
        if step is None:
            continue
        key = (row.model, str(row.sampler), str(row.prompts), str(row.seed), *_rest(row))
        groups.setdefault(key, {})[row.cell] = step
        about.setdefault(key, row)
    several = {key: steps for key, steps in groups.items() if len(steps) > 1}
    series: dict[str, dict[str, float]] = {}
    for key, steps in several.items():
        differs = [i for i in range(len(key)) if len({other[i : i + 1] for other in several}) > 1]
        row = about[key]
        parts = [row.model, *([row.sampler] if row.sampler else [])]
        parts += [key[i] for i in differs if i == 2]
        parts += [f"seed{key[3]}"] if 3 in differs else []
        parts += [key[i] for i in differs if i > 3]
        name = re.sub(r"[^A-Za-z0-9._+-]+", "_", "-".join(parts))[:120]
        while name in series:
            name += "_"
        series[name] = dict(sorted(steps.items(), key=lambda pair: pair[1]))
    return series


def _rest(row: Row) -> list[str]:
    """A row's other settings, as text."""
    return [f"{setting_name(k)}_{v}" for k, v in sorted(row.settings.items()) if setting_name(k) != STEP]


def find_series(
    rows: Sequence[Row], *, influences: Influences, pairing: Mapping[str, str], clusters: Clusters
) -> list[dict[str, Any]]:
    """What results.json says of a run's series (JSON values): of each its steps, and by metric of quality `trend`."""
    found = []
    for name, steps in group_steps(rows).items():
        trends = {}
        mine = [row for row in rows if row.cell in steps and row.metric not in COSTS and finite(row) and not row.unsure]
        for metric, scored in group(mine, lambda row: row.metric).items():
            by_step = sorted(scored, key=lambda row: steps[row.cell])
            if len(by_step) > 1 and len({row.protocol_hash for row in by_step}) == 1:
                trends[metric] = trend(by_step, influences=influences, pairing=pairing, clusters=clusters)
        found.append({"name": name, "steps": steps, "trends": trends})
    return found


def trend(
    rows: Sequence[Row], *, influences: Influences, pairing: Mapping[str, str], clusters: Clusters
) -> dict[str, Any]:
    """How one metric goes along a series.

    Args:
        rows: of one metric and protocol, in the order of their steps.
        influences, pairing, clusters: as of `compare`.

    Returns:
        `best`, the best cell; `ties`, those that are not significantly worse; `plateau`, the first cell from which no
        later one is significantly better: paired comparisons of all pairs of steps, corrected together (Holm); none
        where the scores have no standard errors.
    """
    _, best = compare(rows, baseline=None, influences=influences, pairing=pairing, clusters=clusters)
    top, *ties = next(iter(best.values()))
    p = _pairwise(rows, influences, pairing, clusters)
    pairs = [(i, j) for j in range(len(rows)) for i in range(j)]
    gains = [(i, j) for i, j in pairs if rows[i].sign * ((rows[j].value or 0.0) - (rows[i].value or 0.0)) > 0]
    corrected = holm([p[i, j] for i, j in gains], len(pairs))
    beaten = {i for (i, _), q in zip(gains, corrected, strict=True) if q is not None and q <= 1 - CONFIDENCE}
    known = any(value is not None for value in p.values())
    plateau = next(row.cell for i, row in enumerate(rows) if i not in beaten) if known else None
    return {"best": top, "ties": ties, "plateau": plateau}


def _pairwise(
    rows: Sequence[Row], influences: Influences, pairing: Mapping[str, str], clusters: Clusters
) -> dict[tuple[int, int], float | None]:
    """The p-value of each pair's difference, as `compare` has it; none without a standard error."""
    matrix = _aligned(rows, influences, pairing, clusters)
    ps: dict[tuple[int, int], float | None] = {}
    for j in range(len(rows)):
        errors = None if matrix is None or not j else (matrix[:j] - matrix[j]).std(axis=1, ddof=1)
        for i in range(j):
            value = (rows[j].value or 0.0) - (rows[i].value or 0.0)
            stderr = 0.0 if errors is None or matrix is None else float(errors[i]) / matrix.shape[1] ** 0.5
            if matrix is not None and stderr > NO_SPREAD * abs(value):
                ps[i, j] = two_sided(value, stderr, matrix.shape[1] - 1)
            else:
                ps[i, j] = row_difference(rows[j], rows[i], influences, pairing, clusters).p
    return ps


def _aligned(
    rows: Sequence[Row], influences: Influences, pairing: Mapping[str, str], clusters: Clusters
) -> NDArray[np.float64] | None:
    """The influences by cluster, f64 [rows, clusters], where all rows are of the same prompts and seeds; else none.

    60 steps of 50,000 samples are 1,770 pairs: one by one they would take minutes.
    """
    import numpy as np

    scores = [estimate(row, influences, clusters) for row in rows]
    first = scores[0]
    digests = {pairing.get(row.cell) for row in rows}
    if len(digests) > 1 or None in digests or any(score.influence is None for score in scores):
        return None
    ids = [list(score.clusters) if score.clusters is not None else None for score in scores]
    sizes = {len(score.influence or ()) for score in scores}
    if any(own != ids[0] for own in ids) or len(sizes) > 1 or len(first.influence or ()) < 2:
        return None
    lines = [by_cluster(score.influence or (), own) for score, own in zip(scores, ids, strict=True)]
    return np.stack(lines) if len(lines[0]) > 1 else None


def sentences(series: Sequence[Mapping[str, Any]], labels: Mapping[str, str]) -> list[str]:
    """What is said of each series: the best step, its ties, and where it stopped getting better."""
    lines = []
    for one in series:
        for metric, along in list(one["trends"].items())[:MAX_SAID]:
            lines.append(f"{one['name']}, {labels.get(metric, metric)} by step: {summary(one['steps'], along)}.")
    return lines


def of_metric(series: Sequence[Mapping[str, Any]], metric: str) -> list[str]:
    """The trends of one metric in words, each after its series' name where there are several."""
    with_it = [one for one in series if metric in one["trends"]]
    return [
        (f"{one['name']}: " if len(with_it) > 1 else "") + summary(one["steps"], one["trends"][metric])
        for one in with_it
    ]


def summary(steps: Mapping[str, float], along: Mapping[str, Any]) -> str:
    """One metric's trend in words."""
    best, last = steps[along["best"]], max(steps.values())
    shown = [str(step) for step in sorted(steps[cell] for cell in along["ties"])]
    shown = shown if len(shown) <= MAX_TIES else [*shown[: MAX_TIES - 1], f"{len(shown) - MAX_TIES + 1} more"]
    ties = f", not distinguishable from it: {', '.join(shown)}" if shown else ""
    plateau = None if along.get("plateau") is None else steps[along["plateau"]]
    stop = f"no significant gain after {plateau}"
    if plateau is None:
        stop = "without standard errors nobody can tell where gains end"
    elif plateau == last:
        stop = "still significantly better at the last step"
    return f"best at {best}{ties}; {stop}"
