"""The pictures that the report shows: small WebP images, crisp where they are small, within a budget of bytes.

thumbnails.json holds those of single samples, so that the report needs nothing but the run's folder.
"""

from __future__ import annotations

import base64
import io
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.errors import DataError, EvalkitError
from evalkit.results.side_by_side import LIMIT, SampleScores, choose, make_scales
from evalkit.utils.files import sha256_json
from evalkit.utils.json_files import CHECK, read_checked, read_json, write_checked

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

    from evalkit.results.rows import Outcome
    from evalkit.results.table import ResultTable

NAME = "thumbnails.json"
VERSION = 1  # a change of the thumbnails or of their choice remakes the file
BUDGET = 2_400_000  # bytes of WebP in all; in base64 a third more
CRISP = 96  # images of at most this many pixels per side stay as they are, without loss
SIDE = 160  # larger ones are shrunk to this
SHOWN = 104  # pixels on the screen that a crisp image is enlarged towards, by a whole factor
LARGE_SHOWN = 128  # pixels on the screen of a shrunk image: less than its own, so that it is sharp on a fine screen too
SHEET_SIDE, SHEET_BYTES = 1400, 150_000  # of a contact sheet; one with more bytes is stored with loss


@dataclass(frozen=True)
class Thumbnail:
    """An image as WebP in base64, the size it is shown at, and whether its pixels are enlarged."""

    webp: str
    width: int
    height: int
    crisp: bool

    @property
    def uri(self) -> str:
        """As a page embeds it."""
        return f"data:image/webp;base64,{self.webp}"


@dataclass
class Thumbnailer:
    """Makes thumbnails and counts their bytes.

    Attributes:
        images: about how many are to come: with the first one's size this gives the others' resolution.
        budget: in bytes of WebP.
    """

    images: int
    budget: int
    used: int = 0
    side: int = SIDE

    def make(self, pixels: NDArray[np.uint8]) -> Thumbnail:
        """The thumbnail of an image u8 [H,W,3]."""
        from PIL import Image

        image = Image.fromarray(pixels)
        if max(image.size) <= CRISP:
            data, scale = encode(image, lossless=True), float(max(1, round(SHOWN / max(image.size))))
            crisp = scale > 1
        else:
            data, scale, crisp = self._shrunk(image), LARGE_SHOWN / max(image.size), False
        self.used += len(data)
        width, height = (max(1, round(side * scale)) for side in image.size)
        return Thumbnail(base64.b64encode(data).decode(), width, height, crisp)

    def _shrunk(self, image: Image) -> bytes:
        data = encode(fit(image, self.side))
        while self.used == 0 and self.side > CRISP and len(data) * self.images > self.budget:
            self.side -= 32
            data = encode(fit(image, self.side))
        return data


def write_thumbnails(outcome: Outcome, table: ResultTable, out: Path) -> None:
    """thumbnails.json: the samples that are shown side by side; not written again where they are the same ones."""
    sources, influences = outcome.sources, outcome.influences
    scores = {
        name: {cell: influences[cell, name] for cell in sources if (cell, name) in influences}
        for name, metric in outcome.metrics.items()
        if metric.per_sample
    }
    samples = SampleScores.of({cell: len(source) for cell, source in sources.items()}, scores)
    chosen = choose(samples, make_scales(table, samples))
    mark = sha256_json([VERSION, chosen, [[cell, source.digest] for cell, source in sources.items()]])
    if _mark_of(out / NAME) == mark:
        return
    thumbnailer = Thumbnailer(images=LIMIT * len(table.cells), budget=BUDGET)
    images: dict[str, dict[int, Any]] = {cell: {} for cell in sources}
    for index in chosen:
        if thumbnailer.used >= BUDGET:
            break
        for cell, source in sources.items():
            if index < len(source):
                try:
                    pixels = source.read(range(index, index + 1))[0]
                except EvalkitError:  # damaged since it was scored
                    images[cell][index] = None
                else:
                    images[cell][index] = asdict(thumbnailer.make(pixels))
    write_checked(out / NAME, {"mark": mark, "images": images})


def read_thumbnails(path: Path) -> dict[tuple[str, int], Thumbnail | None]:
    """By cell and index; none where the image was damaged.

    Raises:
        OSError, DataError, ValueError, LookupError, TypeError: the file cannot be read, or was altered.
    """
    data = read_json(path)
    images = (read_checked(path) if CHECK in data else data)["images"]  # evalkit 0.1.0 wrote no digest
    return {
        (cell, int(index)): None
        if image is None
        else Thumbnail(str(image["webp"]), int(image["width"]), int(image["height"]), bool(image["crisp"]))
        for cell, by_index in images.items()
        for index, image in by_index.items()
    }


def _mark_of(path: Path) -> str | None:
    try:
        return str(read_checked(path)["mark"])
    except (OSError, DataError, LookupError):
        return None  # none, or a broken one


def fit(image: Image, side: int) -> Image:
    """Shrunk to `side` pixels at most; never enlarged."""
    from PIL import Image as Pillow

    scale = min(1.0, side / max(image.size))
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image if size == image.size else image.resize(size, Pillow.Resampling.LANCZOS)


def encode(image: Image, *, lossless: bool = False) -> bytes:
    out = io.BytesIO()
    image.convert("RGB").save(out, "WEBP", lossless=lossless, quality=40 if lossless else 78, method=4)
    return out.getvalue()


def sheet(path: Path, most: int = SHEET_BYTES) -> Thumbnail | None:
    """A contact sheet of the run; without loss where that is small enough. None where it cannot be read."""
    from PIL import Image

    try:
        with Image.open(path, formats=["PNG"]) as opened:
            image = fit(opened.convert("RGB"), SHEET_SIDE)
    except (OSError, ValueError):
        return None
    data = encode(image, lossless=True)
    if len(data) > most:
        data = encode(image)
    return Thumbnail(base64.b64encode(data).decode(), image.width, image.height, False)
