"""Walks between latents as contact sheets: what lies between two samples, and between two seeds."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable, Mapping
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.errors import ConfigError, EvalkitError, nearest, whole_number
from evalkit.samples.cell_generator import CellGenerator
from evalkit.utils import devices
from evalkit.utils.files import sha256_json
from evalkit.utils.text import one_line

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

log = logging.getLogger(__name__)

THROUGH = ("samples", "seeds")
VERSION = 1  # a change of what is drawn remakes the sheets


@dataclass(frozen=True)
class Walk:
    """A run's setting `walk`.

    Attributes:
        lines: of each cell's sheet: line i begins at sample i and keeps its prompt and class; 0: no sheets.
        tiles: images from one latent to the next, both ends included.
        stops: how many latents each line goes on to.
        through: "samples": sample i+1's latent, sample i+2's ...; "seeds": sample i's under the next seed, and so on,
            which under `seed` + 1 is that run's sample i.
        space: "z", "w" or "noise"; none: the model's own, the first that it has.
    """

    lines: int = 0
    tiles: int = 9
    stops: int = 1
    through: str = "samples"
    space: str | None = None


def make_walk(setting: Mapping[str, Any]) -> Walk:
    """The run's `walk`, checked.

    Raises:
        ConfigError: an unknown key or value (the nearest name is offered).
    """
    defaults = asdict(Walk())
    for name in setting:
        if name not in defaults:
            raise ConfigError(f"walk.{name}: no such key. {nearest(str(name), defaults)}")
    walk = Walk(**setting)
    for name, least in (("lines", 0), ("tiles", 2), ("stops", 1)):
        whole_number(getattr(walk, name), f"walk.{name}", least)
    if walk.through not in THROUGH:
        raise ConfigError(f"walk.through={walk.through!r} is not known. {nearest(str(walk.through), THROUGH)}")
    return walk


def check_walk(walk: Walk, generators: Iterable[CellGenerator]) -> None:
    """Raises ConfigError where sheets are asked for and no cell has latents of the space."""
    if walk.lines and not any(_space(walk, generator) for generator in generators):
        known = sorted({space for generator in generators for space in generator.spaces})
        has = f"the chosen ones have {', '.join(known)}" if known else "the chosen ones show none"
        raise ConfigError(
            f"walk: no chosen model shows latents{f' {walk.space}' if walk.space else ''} ({has}): set walk.lines=0"
        )


def _space(walk: Walk, generator: CellGenerator) -> str | None:
    return next((space for space in generator.spaces if walk.space in (None, space)), None)


def write_walks(walk: Walk, generators: Iterable[CellGenerator], folder: Path, batch_size: int) -> list[Path]:
    """Writes `<cell>-walk.png` of each cell whose model shows latents; one that is there already is not made again.

    A model that fails at it is named in the log, and only its sheet is missing.

    Returns:
        The files that were written.
    """
    from evalkit.results import sheets

    written: list[Path] = []
    for generator in generators:
        cell, space = generator.cell, _space(walk, generator)
        if not walk.lines or space is None:
            log.info("%s: no walk, its model shows no such latents", cell.name)
            continue
        path = folder / f"{cell.name}-walk.png"
        mark = sha256_json([cell.key, cell.num_samples, *astuple(walk), sheets.VERSION, VERSION])
        if sheets.mark_of(path) == mark:
            continue
        try:
            lines = {
                generator.caption(i): walk_line(generator, i, walk, space, batch_size)
                for i in range(min(walk.lines, cell.num_samples))
            }
        except Exception as error:
            if not isinstance(error, EvalkitError) and not devices.is_out_of_memory(error):
                raise
            log.warning("%s: no walk: %s", cell.name, one_line(error))
            continue
        way = "straight lines" if space == "w" else "great circles"
        to = "that of the next seed" if walk.through == "seeds" else "the next"
        title = f"{cell.name}: from each sample to {to}, along {way} in {space}"
        sheets.write_lines(lines, path, title=title, mark=mark)
        written.append(path)
    return written


def walk_line(
    generator: CellGenerator, index: int, walk: Walk, space: str, batch_size: int = 64
) -> list[NDArray[np.uint8]]:
    """The images of one line, u8 [H,W,3] each: stops * (tiles - 1) + 1 of them, the first of them sample `index`."""
    import torch

    from evalkit.models.latent import to_pixels
    from evalkit.numerics.interpolation import lerp, slerp

    seeds = walk.through == "seeds"
    stops = [
        generator.latents([index if seeds else index + k], [index], space, generator.cell.seed + k if seeds else None)
        for k in range(walk.stops + 1)
    ]
    between = lerp if space == "w" else slerp
    t = torch.linspace(0, 1, walk.tiles, dtype=torch.float64)
    parts = [stops[0]]
    for a, b in itertools.pairwise(stops):
        inner = [between(a, b, t[j : j + 1]) for j in range(1, walk.tiles - 1)]
        parts += [*inner, b]  # both ends as they are, to the last bit
    latents = torch.cat(parts)
    images: list[NDArray[np.uint8]] = []
    for block in torch.split(latents, batch_size):
        images += list(to_pixels(generator.images(block, [index] * len(block), space)))
    return images
