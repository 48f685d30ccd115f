"""By category: how far each cell's mean over a category's prompts lies from the baseline's, or from the best cell's."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from evalkit.report.gallery import Scale, make_scale
from evalkit.report.run_folder import Run, Samples
from evalkit.report.summary import signed
from evalkit.results.render import format_value

Z95 = 1.96


@dataclass(frozen=True)
class Tile:
    """One cell and category.

    Attributes:
        value, stderr: as text: the difference, or the base's own mean.
        kind: "better", "worse" or "" (equal, or the base itself).
        clear: whether the 95 % interval leaves 0 out.
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

    `flat` is the value that all tiles share, where they do: then there is nothing to see.
    """

    title: str
    base: str | None
    categories: Sequence[tuple[str, int]]
    lines: Sequence[tuple[str, Sequence[Tile | None]]]
    flat: str | None


Means = Mapping[tuple[str, str], tuple[float, float, int]]
"""By cell and category: mean, standard error (NaN where unknown), samples."""


def make_maps(run: Run) -> list[HeatMap] | str:
    """A map for each metric of single samples; or why there is none."""
    lines = run.categories
    if isinstance(lines, str):
        return f"{lines} It is written where prompts have categories."
    samples = run.samples if isinstance(run.samples, Samples) else Samples()
    columns = {column.metric: column for column in run.table.columns}
    maps = []
    for metric in dict.fromkeys(line["metric"] for line in lines):
        if metric not in columns:
            continue
        means = _means([line for line in lines if line["metric"] == metric and line["cell"] in run.keys])
        if means:
            cells = [cell for cell in run.keys if any(of == cell for of, _ in means)]
            maps.append(_map(make_scale(run, columns[metric], cells), cells, means, samples))
    return maps or "categories.csv holds no metric of this run."


def _means(lines: Sequence[Mapping[str, str]]) -> Means:
    def number(text: str) -> float:
        return float(text) if text else math.nan

    return {(x["cell"], x["category"]): (number(x["mean"]), number(x["stderr"]), int(x["n"])) for x in lines}


def _map(scale: Scale, cells: Sequence[str], means: Means, samples: Samples) -> HeatMap:
    names = sorted(dict.fromkeys(category for _, category in means))
    base = scale.base
    gaps = {
        (cell, name): _gap(scale, cell, name, means, samples)
        for cell in cells
        for name in names
        if base and cell != base and (cell, name) in means and (base, name) in means
    }
    largest = max((abs(gap) for gap, _ in gaps.values() if math.isfinite(gap)), default=0.0)
    lines = []
    for cell in sorted(cells, key=lambda cell: cell != base):
        tiles: list[Tile | None] = []
        for name in names:
            if (cell, name) in gaps:
                tiles.append(_tile(*gaps[cell, name], scale.sign, largest))
            elif (cell, name) in means and (cell == base or base is None):
                mean, spread, _ = means[cell, name]
                tiles.append(Tile(format_value(mean), _spread(spread)))
            else:
                tiles.append(None)
        lines.append((cell, tiles))
    counts = [(name, max(n for (_, of), (_, _, n) in means.items() if of == name)) for name in names]
    values = {mean for mean, _, _ in means.values()}
    flat = format_value(next(iter(values))) if len(values) == 1 else None
    return HeatMap(scale.label, base, counts, lines, flat)


def _gap(scale: Scale, cell: str, name: str, means: Means, samples: Samples) -> tuple[float, float]:
    """A cell's mean less the base's and its standard error: of paired samples where they share prompts and seeds."""
    assert scale.base is not None
    (a, spread_a, _), (b, spread_b, _) = means[cell, name], means[scale.base, name]
    scores = samples.scores.get(scale.metric, {})  # none where samples.csv is gone
    shared = cell in scores and scale.base in scores and samples.categories[cell] == samples.categories[scale.base]
    if cell in scale.paired and shared:
        pairs = zip(scores[cell], scores[scale.base], samples.categories[cell], strict=True)
        each = [x - y for x, y, category in pairs if category == name]
        if len(each) > 1:
            return fmean(each), stdev(each) / math.sqrt(len(each))
    return a - b, math.hypot(spread_a, spread_b)


def _tile(gap: float, spread: float, better: int, largest: float) -> Tile:
    kind = "" if gap == 0 else "better" if (gap > 0) == (better > 0) else "worse"
    clear = math.isfinite(spread) and abs(gap) > Z95 * spread
    return Tile(signed(gap), _spread(spread), kind, clear, round(abs(gap) / largest, 3) if largest else 0.0)


def _spread(value: float) -> str:
    return f"± {format_value(value)}" if math.isfinite(value) else ""
