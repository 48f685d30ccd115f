"""Images that show several pictures side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evalkit.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def tiles(image: NDArray[np.uint8], grid: int) -> list[NDArray[np.uint8]]:
    """The pictures u8 [H/grid,W/grid,3] of an image u8 [H,W,3] of grid x grid of them, row by row.

    Raises:
        DataError: its sides are no multiples of `grid`.
    """
    height, width = (side // grid for side in image.shape[:2])
    if (height * grid, width * grid) != image.shape[:2]:
        size = f"{image.shape[1]}x{image.shape[0]}"
        raise DataError(f"an image of {size} is no grid of {grid}x{grid} pictures of one size")
    rows = (image[i * height : (i + 1) * height] for i in range(grid))
    return [row[:, j * width : (j + 1) * width] for row in rows for j in range(grid)]
