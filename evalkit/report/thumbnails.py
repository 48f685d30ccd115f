"""Images for the page: small WebP data URIs, kept crisp where they are small, within a budget of bytes."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from evalkit.errors import EvalkitError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

BUDGET = 2_400_000  # bytes of WebP in all; in base64 a third more
CRISP = 96  # images of at most this many pixels a side are kept as they are, without loss
SIDE = 160  # larger ones are shrunk to this
SHOWN = 104  # pixels on the screen that a crisp image is enlarged towards, by a whole factor


@dataclass(frozen=True)
class Thumb:
    """An image as a data URI, the size it is shown at, and whether its pixels are enlarged."""

    uri: str
    width: int
    height: int
    crisp: bool


@dataclass
class Shelf:
    """Makes thumbnails until the budget is spent.

    Attributes:
        images: about how many are to come: with the first one's size this gives the others' resolution.
        budget: in bytes of WebP.
    """

    images: int
    budget: int = BUDGET
    used: int = 0
    side: int = SIDE
    _count: int = field(default=0)

    @property
    def is_full(self) -> bool:
        return self.used >= self.budget

    def add(self, source: Path | NDArray[np.uint8]) -> tuple[Thumb | None, str]:
        """The thumbnail of a file or of pixels u8 [H,W,3]; or none, and why."""
        from PIL import Image

        from evalkit.data.codec import decode

        try:
            image = Image.fromarray(decode(source) if isinstance(source, Path) else source)
        except EvalkitError:
            return None, "damaged"
        if max(image.size) <= CRISP:
            data, size = encode(image, lossless=True), image.size
            factor = max(1, round(SHOWN / max(size)))
        else:
            data, factor = self._shrunk(image), 1
            scale = 128 / max(image.size)  # less than its pixels: sharp on a fine screen too
            size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        self.used += len(data)
        self._count += 1
        return Thumb(data_uri(data), size[0] * factor, size[1] * factor, factor > 1), ""

    def _shrunk(self, image: Image) -> bytes:
        data = encode(fit(image, self.side))
        if self._count == 0:
            while self.side > 96 and len(data) * self.images > self.budget:
                self.side -= 32
                data = encode(fit(image, self.side))
        return data


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


def data_uri(webp: bytes) -> str:
    return "data:image/webp;base64," + base64.b64encode(webp).decode("ascii")


def sheet(path: Path, most: int = 150_000) -> Thumb | None:
    """A contact sheet of the run; without loss where that is small enough. None where it cannot be read."""
    from PIL import Image

    try:
        with Image.open(path) as opened:
            image = fit(opened.convert("RGB"), 1400)
    except (OSError, ValueError):
        return None
    data = encode(image, lossless=True)
    if len(data) > most:
        data = encode(image)
    return Thumb(data_uri(data), image.width, image.height, False)
