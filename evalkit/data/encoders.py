"""Processes that encode PNGs, for programs that feed a GPU.

fpng holds the GIL: 1.6 ms per image of 512 px, 7.5 of 1,024. Threads that encode so stop the one that launches kernels,
again and again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from evalkit.data import codec
from evalkit.utils.processes import Processes

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Encoders(Processes):
    """Encodes as `codec.encode_png`, to the same bytes, in processes: one per thread that asks at a time."""

    def __init__(self) -> None:
        super().__init__("evalkit.data.codec", "numpy", "fpng")

    def encode(self, pixels: NDArray[np.uint8]) -> bytes:
        """The PNG of u8 [H,W,3]. ValueError: as `codec.encode_png`."""
        return self(codec.encode_png, pixels)
