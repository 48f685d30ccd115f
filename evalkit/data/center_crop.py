"""Images resized to one square: the shorter side to `size` (Pillow, Lanczos), then the middle, as rFID is taken."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from evalkit.data.source import WithoutRecords
from evalkit.errors import whole_number
from evalkit.utils.files import sha256_json

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from evalkit.data.arrays import ArrayImages
    from evalkit.data.stored import StoredImages


def fit(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """u8 [H,W,3] -> u8 [size,size,3]; an image of that size stays as it is, to the bit."""
    import numpy as np
    from PIL import Image

    height, width = image.shape[:2]
    scale = size / min(height, width)
    across, down = max(size, round(width * scale)), max(size, round(height * scale))
    if (across, down) != (width, height):
        image = np.asarray(Image.fromarray(image).resize((across, down), Image.Resampling.LANCZOS))
    top, left = (down - size) // 2, (across - size) // 2
    return np.ascontiguousarray(image[top : top + size, left : left + size])


@dataclass(frozen=True, eq=False)
class CenterCropped(WithoutRecords):
    """A source whose images are resized and cut to `size` as they are read. It is a `Source` itself.

    Attributes:
        source: the images as they are.
        size: sides of the square.
    """

    source: StoredImages | ArrayImages
    size: int

    def __post_init__(self) -> None:
        whole_number(self.size, f"{self.source.name}: size")

    @property
    def name(self) -> str:
        return self.source.name

    def __len__(self) -> int:
        return len(self.source)

    @property
    def conversion(self) -> str | None:
        """As `StoredImages.conversion`."""
        return getattr(self.source, "conversion", None)

    @functools.cached_property
    def digest(self) -> str:
        return self._digest(self.source.digest)

    def chunk_digest(self, chunk: range) -> str:
        return self._digest(self.source.chunk_digest(chunk))

    def _digest(self, digest: str) -> str:
        return sha256_json({"source": digest, "size": self.size, "fit": "shorter side lanczos, middle"})

    def read(self, indices: range) -> list[NDArray[np.uint8]]:
        return [fit(image, self.size) for image in self.source.read(indices)]

    def head(self, num_samples: int | None) -> CenterCropped:
        """The first `num_samples` images (none: all); ConfigError where there are fewer."""
        return CenterCropped(self.source.head(num_samples), self.size)

    def take(self, indices: Sequence[int]) -> CenterCropped:
        """Some of the images, in this order."""
        return CenterCropped(self.source.take(indices), self.size)

    def location(self, index: int) -> str:
        return self.source.location(index)

    @property
    def prompts(self) -> Sequence[str | None]:
        return self.source.prompts

    @property
    def categories(self) -> Sequence[str | None]:
        return self.source.categories

    @property
    def warnings(self) -> Mapping[str, int]:
        return self.source.warnings
