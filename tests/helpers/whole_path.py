"""What the comparisons from image files to the score share: two folders of images, and short cuts for peers' roots."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

N = 8  # images in a folder
RANK = 16  # more than N


def write_folders(root: Path, n: int = N) -> tuple[Path, Path]:
    """`n` small images and `n` large ones, not square, of coarse grain: precision is not recall, nor is coverage."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for name, size, grain in (("small", (41, 50), 6), ("large", (400, 330), 9)):
        (root / name).mkdir()
        for i in range(n):
            coarse = Image.fromarray(rng.integers(0, 256, (grain, grain, 3), dtype=np.uint8))
            coarse.resize(size, Image.Resampling.BICUBIC).save(root / name / f"{i:02}.png")
    return root / "small", root / "large"


def pixels(folder: Path) -> list[np.ndarray]:
    from PIL import Image

    return [np.asarray(Image.open(path)) for path in sorted(folder.iterdir())]


def low_rank_eigenvalues(product: np.ndarray) -> np.ndarray:
    """Those that are not zero, of a matrix [D,D] of rank below RANK: all of its range lies in `basis`."""
    probe = np.random.default_rng(0).standard_normal((len(product), RANK))
    basis = np.linalg.qr(product @ probe)[0]  # [D,RANK]
    values: np.ndarray = plain_eigvals(basis.T @ product @ basis).real.clip(min=0)
    return values


plain_eigvals = np.linalg.eigvals  # tests put `fast_eigvals` in its place


def fast_eigvals(product: np.ndarray) -> np.ndarray:
    """For numpy.linalg.eigvals: zeros are added, as many as there are."""
    return np.concatenate([low_rank_eigenvalues(product), np.zeros(len(product) - RANK)])


def fast_sqrtm(product: np.ndarray, disp: bool = True) -> Any:
    """For scipy.linalg.sqrtm: the trace is right. `disp`, which SciPy 1.18 removes, changes what is returned."""
    root = np.zeros_like(product)
    root[:RANK, :RANK] = np.diag(np.sqrt(low_rank_eigenvalues(product)))
    return root if disp else (root, 0.0)
