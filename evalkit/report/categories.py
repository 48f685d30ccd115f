"""By category: how far each cell's mean over a category's prompts lies from the baseline's, or from the best cell's."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from evalkit.report.run_folder import Run, short
from evalkit.results.render import format_value, signed
from evalkit.results.side_by_side import SampleScores, Scale, make_scale
from evalkit.results.stats import CONFIDENCE, Difference, Estimate, align, difference, holm

SHOWN = 20  # cells of a map that is shown at once
NAMED = 12  # categories of a cell that are named


@dataclass(frozen=True)
class Tile:
    """One cell and category.

    Attributes:
        value, stderr: as text: the difference, or the base's own mean.
        kind: "better", "worse" or "" (equal, or the base itself).
        clear: whether it differs from 0, corrected for all tiles of the map (Holm).
        share: of the map's largest difference, 0 to 1.
    """

    value: str
    stderr: str
    kind: str = ""
    clear: bool = False
    share: float = 0.0


@dataclass(frozen=True)
class HeatMap:
    """A metric's map: (cell, tiles) lines; tiles are none where a cell has no sample of a category.

    `flat` is the value that all tiles share, where they do: then there is nothing to see. `apart`: by cell, in words,
    the categories whose mean is not that of the cell's other samples.
    """

    title: str
    base: str | None
    categories: Sequence[tuple[str, int]]
    lines: Sequence[tuple[str, Sequence[Tile | None]]]
    flat: str | None
    apart: Sequence[tuple[str, str]] = ()

    @property
    def short(self) -> bool:
        """Whether it is shown at once: of a large grid it is folded, and not printed."""
        return len(self.lines) <= SHOWN


Means = Mapping[tuple[str, str], tuple[float, float | None, int]]
"""By cell and category: mean, standard error (none where unknown), samples."""


Headings = Mapping[str, Mapping[str, Mapping[int, float]]]
"""Of a metric, by heading, cell and index, what adds up to the heading's mean, where the metric has headings."""


def make_maps(run: Run) -> list[HeatMap] | str:
    """A map for each metric of single samples; or why there is none."""
    lines = run.categories
    if isinstance(lines, str):
        return f"{lines} It is written where prompts have categories."
    samples = run.samples if isinstance(run.samples, SampleScores) else SampleScores()
    columns = {column.metric: column for column in run.table.columns}
    maps = []
    for metric in dict.fromkeys(line["metric"] for line in lines):
        if metric not in columns:
            continue
        mine = [line for line in lines if line["metric"] == metric and line["cell"] in run.keys]
        means = _means(mine)
        if means:
            cells = [cell for cell in run.keys if any(of == cell for of, _ in means)]
            headings = {heading: by_cell for (of, heading), by_cell in run.headings.items() if of == metric}
            heat = _map(make_scale(run.table, columns[metric], cells), cells, means, samples, headings)
            maps.append(replace(heat, apart=_apart(cells, mine)))
    return maps or "categories.csv holds no metric of this run."


def _means(lines: Sequence[Mapping[str, str]]) -> Means:
    means: dict[tuple[str, str], tuple[float, float | None, int]] = {}
    for line in lines:
        stderr = float(line["stderr"]) if line["stderr"] else None
        means[line["cell"], line["category"]] = (float(line["mean"]), stderr, int(line["n"]))
    return means


def _apart(cells: Sequence[str], lines: Sequence[Mapping[str, str]]) -> list[tuple[str, str]]:
    """By cell, the furthest first, the categories that are apart from the rest after Holm's correction."""
    found = []
    for cell in cells:
        mine = [x for x in lines if x["cell"] == cell and x.get("p_holm") and float(x["p_holm"]) <= 1 - CONFIDENCE]
        mine.sort(key=lambda x: -abs(float(x["difference"])))
        texts = [
            f"{short(x['category'], 40)} {format_value(float(x['mean']))} (the rest {format_value(float(x['rest']))})"
            for x in mine[:NAMED]
        ]
        more = [f"and {len(mine) - NAMED} more"] if len(mine) > NAMED else []
        if texts:
            found.append((cell, "; ".join([*texts, *more])))
    return found[:SHOWN]


def _map(scale: Scale, cells: Sequence[str], means: Means, samples: SampleScores, headings: Headings) -> HeatMap:
    known = dict.fromkeys(category for _, category in means)
    names = sorted(known, key=lambda name: (": " in name, name))  # tags behind categories
    base = scale.base
    differences = {
        (cell, name): _difference(scale, cell, name, means, samples, headings)
        for cell in cells
        for name in names
        if base and cell != base and (cell, name) in means and (base, name) in means
    }
    corrected = dict(zip(differences, holm([d.p for d in differences.values()]), strict=True))
    largest = max((abs(d.value) for d in differences.values() if math.isfinite(d.value)), default=0.0)
    lines = []
    for cell in sorted(cells, key=lambda cell: cell != base):
        tiles: list[Tile | None] = []
        for name in names:
            if (cell, name) in differences:
                tiles.append(_tile(differences[cell, name], scale.sign, largest, corrected[cell, name]))
            elif (cell, name) in means and (cell == base or base is None):
                mean, stderr, _ = means[cell, name]
                tiles.append(Tile(format_value(mean), _stderr(stderr)))
            else:
                tiles.append(None)
        lines.append((cell, tiles))
    counts = [(name, max(n for (_, of), (_, _, n) in means.items() if of == name)) for name in names]
    values = {mean for mean, _, _ in means.values()}
    flat = format_value(next(iter(values))) if len(values) == 1 else None
    return HeatMap(scale.label, base, counts, lines, flat)


def _difference(
    scale: Scale, cell: str, category: str, means: Means, samples: SampleScores, headings: Headings
) -> Difference:
    """A cell's mean less the base's, with the error of paired samples where they share prompts, or seeds as well."""
    assert scale.base is not None
    a, b = (_estimate(scale, one, category, means, samples, headings) for one in (cell, scale.base))
    paired = align(a, b, same=cell in scale.paired)
    return difference((a.value, a.stderr), (b.value, b.stderr), paired, (a.groups, b.groups))


def _estimate(
    scale: Scale, cell: str, category: str, means: Means, samples: SampleScores, headings: Headings
) -> Estimate:
    """A cell's mean over a category, and what it rests on: the mean alone where samples.csv is gone."""
    value, stderr, n = means[cell, category]
    scores, of = samples.scores.get(scale.metric, {}).get(cell), samples.categories.get(cell, ())
    ids = samples.clusters.get(cell)
    if category in headings:
        part = headings[category].get(cell, {})
        return Estimate(value, stderr, n, list(part.values()), [ids[i] if ids else -1 - i for i in part])
    if scores is None:
        return Estimate(value, stderr, n)
    places = [i for i, one in enumerate(of) if one == category]
    return Estimate(value, stderr, n, [scores[i] for i in places], [ids[i] if ids else -1 - i for i in places])


def _tile(difference: Difference, better: int, largest: float, p: float | None) -> Tile:
    value = difference.value
    kind = "" if value == 0 else "better" if (value > 0) == (better > 0) else "worse"
    clear = p is not None and p <= 1 - CONFIDENCE
    share = round(abs(value) / largest, 3) if largest else 0.0
    return Tile(signed(value), _stderr(difference.stderr), kind, clear, share)


def _stderr(value: float | None) -> str:
    return "" if value is None else f"± {format_value(value)}"
