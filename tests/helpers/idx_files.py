"""MNIST's idx format, for tests that need a folder of digits."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np

_SEGMENTS = {
    "top": (slice(4, 7), slice(8, 20)),
    "middle": (slice(13, 16), slice(8, 20)),
    "bottom": (slice(21, 24), slice(8, 20)),
    "left": (slice(4, 24), slice(8, 11)),
    "right": (slice(4, 24), slice(17, 20)),
}


def write_idx(path: Path, array: np.ndarray) -> None:
    """Write unsigned bytes of any shape."""
    header = struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    with gzip.open(path, "wb") as file:
        file.write(header + array.astype(np.uint8).tobytes())


def write_mnist(folder: Path, images: np.ndarray, labels: np.ndarray) -> None:
    """Write images uint8 [N,28,28] and labels uint8 [N] as MNIST's t10k files."""
    write_idx(folder / "t10k-images-idx3-ubyte.gz", images)
    write_idx(folder / "t10k-labels-idx1-ubyte.gz", labels)


def fake_mnist(folder: Path, count: int = 40) -> None:
    """Write made-up digits: each class lights the segments of its bits."""
    images = np.zeros((count, 28, 28), np.uint8)
    labels = (np.arange(count) % 10).astype(np.uint8)
    for image, label in zip(images, labels, strict=True):
        for bit, (rows, columns) in enumerate(_SEGMENTS.values()):
            if (label + 1) >> bit & 1:
                image[rows, columns] = 255
    write_mnist(folder, images, labels)
