"""parity.json: pair by pair with the baseline, each cell's worst pairs, and where in the image the difference lies.

The pictures of the worst pairs are of the pairs' own pixels: the baseline's, the cell's, and their absolute difference,
brightened by a whole number so that its largest level is near 255. The map is the mean absolute difference per pixel
over a seeded sample of the pairs, `MAP_PAIRS` at most: these are read once more, and no others.
"""

from __future__ import annotations

import base64
import logging
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.errors import DataError, EvalkitError
from evalkit.metric import PairMetric
from evalkit.results import thumbnails
from evalkit.results.thumbnails import CRISP, SHOWN, Thumbnail, Thumbnailer
from evalkit.utils.files import sha256_json
from evalkit.utils.json_files import read_checked, write_checked

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from evalkit.data.source import Source
    from evalkit.results.rows import Outcome
    from evalkit.results.table import ResultTable

log = logging.getLogger(__name__)

NAME = "parity.json"
VERSION = 1  # a change of the pictures or of their choice remakes the file
WORST = 10  # pairs of a cell
MAP_PAIRS, AT_ONCE = 64, 8  # pairs that a map is the mean of, at most; images in memory at a time
BUDGET = 1_500_000  # bytes of WebP in all; in base64 a third more
SIDE, MAP_SIDE = 256, 160  # pixels of a picture's longer side, and of a map's
PICTURES = ("baseline", "cell", "difference")  # of a pair
STOPS = ("#000004", "#420a68", "#932667", "#dd513a", "#fca50a", "#fcffa4")  # matplotlib's inferno, evenly spaced


@dataclass(frozen=True)
class WorstPair:
    """One pair: its index, prompt and value; pictures of the baseline's image, the cell's, and their difference.

    `gain`: by what the difference was multiplied; `most`: its largest level, of 255.
    """

    index: int
    prompt: str
    value: float
    baseline: Thumbnail
    cell: Thumbnail
    difference: Thumbnail
    gain: int
    most: int


@dataclass(frozen=True)
class DifferenceMap:
    """The mean absolute difference per pixel of `pairs` pairs, in levels of 255.

    `most`: of its brightest pixel, `mean`: of all.
    """

    picture: Thumbnail
    most: float
    mean: float
    pairs: int


@dataclass(frozen=True)
class CellParity:
    """What a cell's pairs look like; `why` there is nothing of it."""

    worst: Sequence[WorstPair] = ()
    map: DifferenceMap | None = None
    why: str = ""


@dataclass(frozen=True)
class Parity:
    """A run's pairs with the baseline: by which metric the worst are chosen, and by cell what they look like."""

    metric: str
    cells: Mapping[str, CellParity]


def main_metric(outcome: Outcome) -> str | None:
    """The first metric of pairs with the baseline; none where there is none."""
    of_pairs = (n for n, m in outcome.metrics.items() if isinstance(m, PairMetric) and m.pairs == "baseline")
    return next(of_pairs, None)


def write_parity(outcome: Outcome, table: ResultTable, out: Path) -> None:
    """parity.json, where a metric compares pairs with the baseline; not written again where it is of the same pairs."""
    metric, baseline = main_metric(outcome), str(table.run.get("baseline"))
    if metric is None or baseline not in outcome.sources:
        (out / NAME).unlink(missing_ok=True)
        return
    values = {
        cell: outcome.influences[cell, metric]
        for cell, source in outcome.sources.items()
        if cell != baseline and len(outcome.influences.get((cell, metric), ())) == len(source)
    }
    sign = 1 if outcome.metrics[metric].better == "higher" else -1
    order = {cell: sorted(range(len(each)), key=lambda i: (sign * each[i], i))[:WORST] for cell, each in values.items()}
    mark = sha256_json([VERSION, metric, order, {cell: outcome.sources[cell].digest for cell in (baseline, *values)}])
    if _mark_of(out / NAME) == mark:
        return
    cells: dict[str, dict[str, Any]] = {cell: {"worst": [], "map": None, "why": ""} for cell in values}
    _add_worst(cells, order, values, outcome, baseline)
    for cell, found in _maps(outcome, baseline, list(values)).items():
        cells[cell] |= {"why": found} if isinstance(found, str) else {"map": asdict(found)}
    write_checked(out / NAME, {"mark": mark, "metric": metric, "cells": cells})


def _add_worst(
    cells: dict[str, dict[str, Any]],
    order: Mapping[str, Sequence[int]],
    values: Mapping[str, Sequence[float]],
    outcome: Outcome,
    baseline: str,
) -> None:
    """The worst pairs, those of all cells by turns until the budget is spent."""
    makers = Thumbnailer(images=3 * WORST * len(cells), budget=BUDGET, side=SIDE)
    for place in range(WORST):
        for cell, indices in order.items():
            if place >= len(indices) or makers.used >= BUDGET:
                continue
            i = indices[place]
            try:
                first, second = (outcome.sources[name].read(range(i, i + 1))[0] for name in (baseline, cell))
            except EvalkitError as error:  # not kept, or damaged since it was scored
                cells[cell]["why"] = str(error)
                continue
            prompt = str(outcome.sources[cell].prompts[i] or "")
            cells[cell]["worst"].append(asdict(_pair(makers, i, prompt, values[cell][i], first, second)))


def _pair(
    makers: Thumbnailer, index: int, prompt: str, value: float, first: NDArray[np.uint8], second: NDArray[np.uint8]
) -> WorstPair:
    import numpy as np

    gap = np.abs(first.astype(np.int16) - second)  # [H,W,3], 0 to 255
    most = int(gap.max())
    gain = 255 // most if most else 1
    one, other, between = (makers.make(each) for each in (first, second, (gap * gain).astype(np.uint8)))
    return WorstPair(index, prompt, float(value), one, other, between, gain, most)


def _maps(outcome: Outcome, baseline: str, cells: Sequence[str]) -> dict[str, DifferenceMap | str]:
    """By cell its map, or why there is none; the baseline's images are read once for all cells."""
    import numpy as np

    base, n = outcome.sources[baseline], len(outcome.sources[baseline])
    chosen = sorted(random.Random(0).sample(range(n), min(n, MAP_PAIRS)))
    sums: dict[str, NDArray[np.float64]] = {}
    failed: dict[str, str] = {}
    for start in range(0, len(chosen), AT_ONCE):
        some = chosen[start : start + AT_ONCE]
        try:
            firsts = _read(base, some)
        except EvalkitError as error:
            return dict.fromkeys(cells, str(error))
        for cell in cells:
            if cell in failed:
                continue
            try:
                gaps = [
                    np.abs(a.astype(np.int16) - b)
                    for a, b in zip(firsts, _read(outcome.sources[cell], some), strict=True)
                ]
                total = np.sum([gap.mean(-1) for gap in gaps], axis=0)  # u8 [H,W,3] each -> f64 [H,W]
                sums[cell] = sums[cell] + total if cell in sums else total
            except EvalkitError as error:
                failed[cell] = str(error)
            except ValueError:
                failed[cell] = "its images are of several sizes: there is no mean of them"
    return {cell: failed[cell] if cell in failed else _map(sums[cell] / len(chosen), len(chosen)) for cell in cells}


def _read(source: Source, indices: Sequence[int]) -> list[NDArray[np.uint8]]:
    return [image for i in indices for image in source.read(range(i, i + 1))]


def _map(mean: NDArray[np.float64], pairs: int) -> DifferenceMap:
    """A mean difference f64 [H,W] as a picture: black at 0, the last colour at its largest value."""
    import numpy as np
    from PIL import Image

    image = thumbnails.fit(Image.fromarray(mean.astype(np.float32)), MAP_SIDE)
    levels = np.asarray(image, np.float64).clip(0)
    most = float(levels.max())
    stops = np.array([[int(stop[k : k + 2], 16) for k in (1, 3, 5)] for stop in STOPS], np.float64)
    at = levels / most * (len(STOPS) - 1) if most else levels
    colours = np.stack([np.interp(at, np.arange(len(STOPS)), stops[:, k]) for k in range(3)], -1)
    picture = Image.fromarray(colours.round().astype(np.uint8))
    scale = max(1, round(SHOWN * 1.5 / max(picture.size))) if max(picture.size) <= CRISP else 1
    data = base64.b64encode(thumbnails.encode(picture, lossless=True)).decode()
    shown = Thumbnail(data, picture.width * scale, picture.height * scale, scale > 1)
    return DifferenceMap(shown, most, float(mean.mean()), pairs)


def read_parity(path: Path) -> Parity:
    """What parity.json holds.

    Raises:
        OSError, DataError, ValueError, LookupError, TypeError: the file cannot be read, or was altered.
    """
    data = read_checked(path)
    cells = {}
    for cell, found in data["cells"].items():
        worst = [WorstPair(**{**pair, **{k: _thumbnail(pair[k]) for k in PICTURES}}) for pair in found["worst"]]
        drawn = found["map"]
        if drawn is not None:
            drawn = DifferenceMap(**{**drawn, "picture": _thumbnail(drawn["picture"])})
        cells[str(cell)] = CellParity(worst, drawn, str(found["why"]))
    return Parity(str(data["metric"]), cells)


def _thumbnail(image: Mapping[str, Any]) -> Thumbnail:
    return Thumbnail(str(image["webp"]), int(image["width"]), int(image["height"]), bool(image["crisp"]))


def _mark_of(path: Path) -> str | None:
    try:
        return str(read_checked(path)["mark"])
    except (OSError, DataError, LookupError):
        return None  # none, or a broken one
