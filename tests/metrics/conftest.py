"""Two folders of images, and the features of our Inception networks on them, computed once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from options import extractor_of, features_of
from whole_path import pixels, write_folders

Features = Callable[[str], tuple[np.ndarray, np.ndarray]]


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_folders(tmp_path_factory.mktemp("folders"))


@pytest.fixture(scope="session")
def mine(folders: tuple[Path, Path], inception_weights: Path) -> Features:
    """Features of the two folders at an address such as "inception/pool3", on the seeded weights."""
    known: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    images = [pixels(folder) for folder in folders]

    def features(address: str) -> tuple[np.ndarray, np.ndarray]:
        if address not in known:
            name = address.partition("/")[0]
            extractor = extractor_of(name, weights=str(inception_weights))
            layers = ["pool3", "logits_unbiased", "mixed6_conv7"] if name == "inception" else ["pool3"]
            small, large = (features_of(extractor, shown, *layers) for shown in images)
            known.update({f"{name}/{layer}": (small[layer].numpy(), large[layer].numpy()) for layer in layers})
        return known[address]

    return features
