"""Golden values that rest on published weights and data sets: run where these are found, listed as not run elsewhere.

Weights are taken from torch's and Hugging Face's caches and never fetched: the first run of a metric puts them there.
EVALKIT_CIFAR10 names the folder `cifar-10-batches-bin` (the binary version of https://www.cs.toronto.edu/~kriz/cifar.html).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from golden import PUBLISHED, Golden
from options import extractor_of, score_of

from evalkit.errors import ConfigError
from evalkit.extractors.base import Extractor
from evalkit.utils.devices import pick_device

pytestmark = pytest.mark.timeout(7200)
FIDELITY = "torch-fidelity's tests: CIFAR-10"
FILES = {"train": [f"data_batch_{i}.bin" for i in range(1, 6)], "test": ["test_batch.bin"]}


def cifar10(folder: Path, split: str, n: int) -> list[np.ndarray]:
    """Images u8 [32,32,3] that torch-fidelity's util_dump_dataset_as_images.py writes, in the order of their names."""
    records = np.concatenate([np.fromfile(folder / name, np.uint8) for name in FILES[split]]).reshape(-1, 3073)
    images = records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)  # NCHW -> NHWC
    chosen = np.sort(np.random.RandomState(2020).choice(len(images), n, replace=False))
    return [np.ascontiguousarray(image) for image in images[chosen]]


def found_weights(name: str) -> Extractor | str:
    """The extractor on the best device here, or why it has no weights."""
    try:
        extractor = extractor_of(name)
        extractor.load(pick_device("auto"))
    except ConfigError as error:
        return f"no weights of {name} in the cache" if "download=false" in str(error) else str(error)
    return extractor


def extract(extractor: Extractor, images: list[np.ndarray], *layers: str) -> dict[str, torch.Tensor]:
    parts = [extractor(images[i : i + 32], [], layers) for i in range(0, len(images), 32)]
    return {layer: torch.cat([part[layer] for part in parts]).cpu() for layer in layers}


def ready(golden: Golden, metric: str, name: str, expected: str, source: str) -> tuple[Path, Extractor]:
    """The folder of CIFAR-10 and the extractor; else the value is listed as not run."""
    folder = os.environ.get("EVALKIT_CIFAR10")
    extractor = found_weights(name)
    if isinstance(extractor, str):
        golden.skip(metric, expected, source=source, why=extractor)
    if not folder:
        golden.skip(metric, expected, source=source, why="EVALKIT_CIFAR10 is not set")
    return Path(folder), extractor


@pytest.fixture(scope="module")
def cifar_features() -> dict[str, Any]:
    """Of Inception, by split; filled by the first test that can."""
    return {}


@pytest.mark.parametrize("metric", ["fid", "is", "kid"])
def test_cifar10_by_inception(metric: str, cifar_features: dict[str, Any], golden: Golden) -> None:
    expected = {"fid": 10.32333, "is": 10.75051, "kid": -2.907863e-5}[metric]
    source = f"{FIDELITY}, 5000 train against 5000 test"
    folder, extractor = ready(golden, metric, "inception", f"{expected:.7g}", source)
    if not cifar_features:
        for split in FILES:
            cifar_features[split] = extract(extractor, cifar10(folder, split, 5000), "pool3", "logits_unbiased")
    same: dict[str, Any] = {"source": source, "weights": PUBLISHED}
    train, test = (cifar_features[split] for split in FILES)
    if metric == "is":
        found = score_of("is", train["logits_unbiased"])
        golden("is", found.value, expected, abs=1e-3, **same)
        golden("is, std", found.details["std"], 0.5778723, abs=1e-3, **same)
        return
    found = score_of(metric, train["pool3"], reference=test["pool3"])
    golden(metric, found.value, expected, abs={"fid": 1e-2, "kid": 1e-6}[metric], **same)
    if metric == "kid":
        golden("kid, std", found.details["std"], 1.023118e-4, abs=1e-6, **same)


def test_inception_score_of_cifar10(golden: Golden) -> None:
    """All 50,000 training images: half an hour and more without a GPU."""
    source = f"{FIDELITY}, 50,000 train"
    folder, extractor = ready(golden, "is", "inception", "11.23678", source)
    if pick_device("auto") == "cpu":
        golden.skip("is", "11.23678", source=source, why="50,000 images want a GPU")
    found = score_of("is", extract(extractor, cifar10(folder, "train", 50_000), "logits_unbiased")["logits_unbiased"])
    golden("is", found.value, 11.23678, abs=1e-3, source=source, weights=PUBLISHED)
    golden("is, std", found.details["std"], 0.09514, abs=1e-3, source=source, weights=PUBLISHED)


def test_cifar10_by_vgg16(golden: Golden) -> None:
    """torch-fidelity's tests hold the two the other way round: before 0.4.0 it called the one the other."""
    source = f"{FIDELITY}, 5000 train against 5000 test"
    folder, extractor = ready(golden, "precision_vgg", "vgg16", "0.6852", source)
    train, test = (extract(extractor, cifar10(folder, split, 5000), "fc2_relu")["fc2_relu"] for split in FILES)
    precision, recall = (score_of(f"{name}_vgg", train, reference=test).value for name in ("precision", "recall"))
    same: dict[str, Any] = {"source": source, "weights": PUBLISHED}
    golden("precision_vgg", precision, 0.6852, abs=1e-3, **same)
    golden("recall_vgg", recall, 0.6908, abs=1e-3, **same)
    assert precision is not None
    assert recall is not None
    golden("precision_vgg, F", 2 * precision * recall / (precision + recall), 0.68799, abs=1e-3, **same)


def test_clip_score_of_torchmetrics(golden: Golden) -> None:
    """The doctest of torchmetrics.functional.multimodal.clip_score: CLIP B/16, one image of noise."""
    source = "torchmetrics' doctest: CLIP B/16, seed 42, 'a photo of a cat'"
    extractor = found_weights("clip_vit_b16")
    if isinstance(extractor, str):
        golden.skip("clip_score", "24.426", source=source, why=extractor)
    image = torch.randint(255, (3, 224, 224), generator=torch.Generator().manual_seed(42)).byte()
    shown = [np.ascontiguousarray(image.permute(1, 2, 0).numpy())]
    features = {"clip_vit_b32/image": extractor(shown, [], ["image"])["image"].cpu()}
    features["clip_vit_b32/text"] = extractor([], ["a photo of a cat"], ["text"])["text"].cpu()
    both = {address: x.repeat(2, 1) for address, x in features.items()}  # two samples are the fewest of a metric
    golden("clip_score", score_of("clip_score", both).value, 24.426, abs=2e-3, source=source, weights=PUBLISHED)


def test_the_order_of_cifar10(tmp_path: Path) -> None:
    """Planes of one colour after another; chosen images in the order of their indices, as files are read."""
    planes = np.arange(10 * 3 * 1024, dtype=np.uint32).reshape(10, 3072)
    records = np.concatenate([np.zeros((10, 1)), planes % 251], axis=1).astype(np.uint8)
    records.tofile(tmp_path / "test_batch.bin")
    images = cifar10(tmp_path, "test", 4)
    chosen = sorted(np.random.RandomState(2020).permutation(10)[:4])
    for image, i in zip(images, chosen, strict=True):
        assert image[3, 5, 2] == (i * 3072 + 2 * 1024 + 3 * 32 + 5) % 251
