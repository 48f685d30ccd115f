"""The map of features and the shares of the reference's modes, from map.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evalkit.report.run_folder import Run, short
from evalkit.results.feature_map import FeatureMap, Points, wilson
from evalkit.results.thumbnails import Thumbnail

WIDTH, MARGIN = 1000, 20  # of the drawing, in its own units
LOWEST = 450  # of its height; the axes have one scale, unless the map is flatter than that


@dataclass(frozen=True)
class ModeView:
    """One class or cluster of the reference: its share there, and images of it."""

    name: str
    share: str
    images: Sequence[Thumbnail]


@dataclass(frozen=True)
class MapView:
    """The section's content.

    Attributes:
        axes: what x and y are.
        findings: by cell, the modes that it (nearly) lacks.
        modes: those of the reference; none of a small one.
        script: what the page's script draws.
    """

    axes: str
    findings: Sequence[tuple[str, str]]
    modes: Sequence[ModeView]
    classes: bool
    script: Mapping[str, Any]


def make_map(run: Run) -> MapView | str | None:
    """None where the run has no map.json (it has no reference images, say); a text where it cannot be read."""
    found = run.feature_map
    if found is None or isinstance(found, str):
        return found
    cells = {cell: points for cell, points in found.cells.items() if cell in run.keys}
    if not cells:
        return "map.json has none of these cells: it is another run's."
    of_reference = sum(found.modes.counts) or 1
    modes = [
        ModeView(name, f"{count / of_reference:.1%}", images)
        for name, count, images in zip(found.modes.names, found.modes.counts, found.modes.images, strict=True)
    ]
    findings = [(cell, words) for cell, words in found.findings() if cell in cells]
    return MapView(_axes(found), findings, modes, found.modes.classes, _script(run, found, cells))


def _axes(found: FeatureMap) -> str:
    if found.method != "pca" or len(found.explained) < 2:
        return f"{found.method.upper()} of {found.address}"
    x, y = found.explained[:2]
    return f"the reference's first two principal components in {found.address}: {x:.1%} and {y:.1%} of its variance"


def _script(run: Run, found: FeatureMap, cells: Mapping[str, Points]) -> dict[str, Any]:
    """Whole numbers for places, and the shares; of samples with a picture also their index."""
    sets = [found.reference, *cells.values()]
    low_x, low_y = min(min(one.x, default=0.0) for one in sets), min(min(one.y, default=0.0) for one in sets)
    wide = max(max(one.x, default=0.0) for one in sets) - low_x or 1.0
    high = max(max(one.y, default=0.0) for one in sets) - low_y or 1.0
    room = WIDTH - 2 * MARGIN
    height = min(max(round(room * high / wide), LOWEST), WIDTH)

    def places(one: Points) -> dict[str, list[int]]:
        return {
            "x": [MARGIN + round((value - low_x) / wide * room) for value in one.x],
            "y": [MARGIN + round((low_y + high - value) / high * height) for value in one.y],
        }

    pictures = run.thumbnails if isinstance(run.thumbnails, dict) else {}
    of_reference = sum(found.modes.counts) or 1
    return {
        "size": [WIDTH, height + 2 * MARGIN],
        "reference": places(found.reference),
        "names": [short(name, 40) for name in found.modes.names],
        "shares": [round(count / of_reference, 4) for count in found.modes.counts],
        "cells": {
            run.keys[cell]: places(one)
            | {
                "pictures": [[place, i] for place, i in enumerate(one.index) if pictures.get((cell, i))],
                "shares": _shares(one),
                "missing": list(one.missing),
            }
            for cell, one in cells.items()
        },
    }


def _shares(one: Points) -> list[list[float]]:
    """By mode its share of the cell and that share's 95 % interval."""
    n = sum(one.counts)
    return [[round(value, 4) for value in (count / n, *wilson(count, n))] for count in one.counts] if n else []
