"""`floor=split|DIR`: real images that nobody generated, scored as one more cell of the same N (`results.real_floor`).

A distance to a reference is above 0 for real images too: by its bias at N, and by chance. What images of the same
world have is the floor that a generator's distance is held against. `split` takes them out of the reference, so that
all cells are compared with what is left of it; a folder leaves the reference as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evalkit.cell import Cell
from evalkit.config.build import build
from evalkit.config.schema import RunConfig
from evalkit.data.moments import Moments
from evalkit.data.reference import Reference
from evalkit.data.source import Source
from evalkit.errors import ConfigError
from evalkit.metric import Metric, ReferenceMetric
from evalkit.models.held import OpenedSource
from evalkit.plan.grid import Missing
from evalkit.plan.look import AUTO
from evalkit.results.real_text import REAL
from evalkit.samples.model_pool import BuiltCell
from evalkit.utils.files import sha256_json

SPLIT = "split"
SEED = 2020  # of the images that are held out
FOLDER = "evalkit.data.reference.FolderReference"

Side = Source | Moments | None


@dataclass(frozen=True)
class Floor:
    """Real images, and what the table says of them.

    Attributes:
        images: at least as many as the largest cell has samples.
        about: `table.run["floor"]`, but for what scores add (JSON).
    """

    images: Source
    about: Mapping[str, Any]

    @property
    def linted(self) -> bool:
        """Whether the lint looks over the images: those of a reference it sees as the reference."""
        return bool(self.about["kind"] != SPLIT)


def is_distance(metric: Metric) -> bool:
    """Whether a metric tells how far samples are from the reference: then the floor's is what it is measured by."""
    return isinstance(metric, ReferenceMetric) and "reference" in metric.sides and metric.better == "lower"


def open_floor(
    config: RunConfig, reference: Side, cells: Sequence[Cell], missing: Missing, cache: Path | None
) -> tuple[Side, Floor | None]:
    """What the cells are compared with, and the real images that `floor` asks for.

    Args:
        config: the run's.
        reference: all of it.
        cells: of the grid: the floor has as many images as the largest.
        missing: of a dry run: what files are missing.
        cache: keeps the scan of a folder.

    Raises:
        ConfigError: there is no reference, or too few images.
        DataError: an image is broken.
    """
    asked = config.floor
    if asked in (None, False):
        return reference, None
    if not isinstance(asked, str):
        raise ConfigError(f"floor={asked!r}: give split, or a folder of real images that were held out")
    if missing.any_of("reference") or not cells:
        return reference, None
    if reference is None:
        raise ConfigError("floor: there is no reference to measure distances to: give reference=folder, say")
    n = max(cell.num_samples for cell in cells)
    if asked == SPLIT:
        return _split(config, reference, n)
    floor: Floor | None = None
    with missing.noted("floor"):
        floor = _folder(config, reference, n, cache)
    return reference, floor


def _split(config: RunConfig, reference: Source | Moments, n: int) -> tuple[Source, Floor]:
    import numpy as np

    fix = "give floor=DIR, a folder of real images that are not in the reference"
    if config.num_samples == AUTO:
        raise ConfigError(f"floor=split: with num_samples=auto each look would have another reference: {fix}")
    if isinstance(reference, Moments) or getattr(reference, "moments", None) is not None:
        raise ConfigError(f"floor=split: {reference.name} holds statistics, which cannot be split: {fix}")
    if not hasattr(reference, "take"):
        raise ConfigError(f"floor=split: {reference.name} cannot be split: {fix}")
    total = len(reference)
    if 2 * n > total:
        raise ConfigError(
            f"floor=split: {n:,} images as the cells have samples would be more than half of the {total:,} of "
            f"{reference.name}: num_samples={total // 2} at most, or {fix}"
        )
    order = np.random.default_rng(SEED).permutation(total).tolist()
    rest, held = (reference.take(sorted(part)) for part in (order[n:], order[:n]))
    about = {"kind": SPLIT, "of": reference.name, "seed": SEED, "left": total - n, "images": n}
    return rest, Floor(held, about)


def _folder(config: RunConfig, reference: Source | Moments, n: int, cache: Path | None) -> Floor:
    """The images of a folder, read as those of the reference are where that is a folder as well."""
    option = next((dict(o) for o in config.reference.values() if o.get("_target_") == FOLDER), {"_target_": FOLDER})
    made: Reference = build(option | {"path": config.floor, "num_samples": None}, "floor", Reference)
    try:
        images = made.open(cache=cache)
    except ConfigError as error:
        raise ConfigError(f"floor={config.floor}: give split, or real images: {error}") from None
    assert not isinstance(images, Moments | None)
    if len(images) < n:
        raise ConfigError(
            f"floor={config.floor} holds {len(images):,} images, and the cells have up to {n:,} samples: give as many "
            f"real images, or num_samples={len(images)}"
        )
    shared = 0 if isinstance(reference, Moments) else _shared(images, reference)
    return Floor(images, {"kind": "folder", "of": str(config.floor), "images": len(images), "shared": shared})


def _shared(images: Source, reference: Source) -> int:
    """How many files are files of the reference too, where both tell."""
    known = set(reference.headers().sha256s)
    return sum(sha256 in known for sha256 in images.headers().sha256s)


def make_floors(
    floor: Floor | None, cells: Sequence[Cell], metrics: Mapping[str, Metric]
) -> list[tuple[Cell, BuiltCell]]:
    """A cell of real images for each number of samples that the grid's cells have, with its objects.

    Raises:
        ConfigError: no metric is a distance to the reference.
    """
    if floor is None:
        return []
    if not any(map(is_distance, metrics.values())):
        raise ConfigError("floor: no metric of the run is a distance to the reference: add metric=[fid], say")
    sizes = sorted({cell.num_samples for cell in cells})
    return [_cell(floor, size, f"{REAL}, N = {size}" if len(sizes) > 1 else REAL) for size in sizes]


def _cell(floor: Floor, size: int, name: str) -> tuple[Cell, BuiltCell]:
    model = OpenedSource(floor.images)
    identity = {"model": model.identity(), "floor": True}
    cell = Cell(
        model=REAL,
        sampler=None,
        prompts=None,
        settings={},
        seed=0,
        num_samples=size,
        key=sha256_json(identity),
        name=name,
        options={"model": None, "sampler": None, "prompts": None},
        call_settings={},
        identity=identity,
    )
    return cell, BuiltCell(model, None, None)
