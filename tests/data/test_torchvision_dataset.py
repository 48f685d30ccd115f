"""torchvision's datasets as images; those that torchvision reads from pickles are refused, or read otherwise."""

from __future__ import annotations

import gzip
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile import image
from PIL import Image

from evalkit.config.build import build
from evalkit.config.compose import compose, resolve
from evalkit.data.arrays import ArrayImages
from evalkit.data.containers.torchvision_dataset import TorchvisionOpener
from evalkit.data.open import open_images
from evalkit.errors import ConfigError, DataError

torchvision = pytest.importorskip("torchvision", reason="torchvision is not installed")


def test_fake_data_is_what_torchvision_gives(tmp_path: Path) -> None:
    options: dict[str, Any] = {"size": 20, "image_size": [3, 9, 7]}
    opening = TorchvisionOpener("FakeData", arguments=options)
    opening.check()
    assert opening.count() == 20
    source = opening.open(cache=tmp_path / "cache")
    plain = torchvision.datasets.FakeData(**options)
    for i, pixels in enumerate(source.read(range(20))):
        np.testing.assert_array_equal(pixels, np.asarray(plain[i][0]))
    assert source.digest == TorchvisionOpener("FakeData", arguments=options).open().digest
    assert source.digest != TorchvisionOpener("FakeData", arguments=options | {"random_offset": 1}).open().digest


def write_mnist(root: Path) -> np.ndarray:
    """The files of MNIST's test set, of four digits."""
    grey = np.random.default_rng(0).integers(0, 256, (4, 28, 28), dtype=np.uint8)
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name in ("t10k", "train"):
        (raw / f"{name}-images-idx3-ubyte").write_bytes(struct.pack(">4L", 2051, 4, 28, 28) + grey.tobytes())
        (raw / f"{name}-labels-idx1-ubyte").write_bytes(struct.pack(">2L", 2049, 4) + bytes([7, 0, 9, 7]))
        with gzip.open(raw / f"{name}-images-idx3-ubyte.gz", "wb") as file:
            file.write(b"")
    return grey


def test_mnist(tmp_path: Path) -> None:
    grey = write_mnist(tmp_path)
    overrides = ["model=[torchvision]", "model.torchvision.name=MNIST", f"model.torchvision.root={tmp_path}"]
    config = resolve(compose([*overrides, "model.torchvision.split=test"]))
    model = build(config.model["torchvision"])
    model.check()
    assert model.num_available() == 4
    source = model.open(3)
    np.testing.assert_array_equal(np.stack(source.read(range(3))), np.repeat(grey[:3, :, :, None], 3, axis=3))
    assert list(source.categories) == ["7 - seven", "0 - zero", "9 - nine"]
    assert source.location(1) == "torchvision://MNIST/test[1]"


def test_image_folder_is_the_folder(tmp_path: Path) -> None:
    for i in range(4):
        path = tmp_path / ("cat", "dog")[i // 2] / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(image(i)).save(path)
    source = TorchvisionOpener("ImageFolder", str(tmp_path)).open()
    assert list(source.categories) == ["cat", "cat", "dog", "dog"]
    for ours, theirs in zip(source.read(range(4)), open_images(tmp_path).read(range(4)), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def write_cifar(root: Path, name: str = "CIFAR10", count: int = 3) -> tuple[np.ndarray, list[int]]:
    """The binary version: pixels u8 [N,H,W,3] and labels of its test set."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    labels = [int(x) for x in rng.integers(0, 10, count)]
    ten = name == "CIFAR10"
    folder = root / ("cifar-10-batches-bin" if ten else "cifar-100-binary")
    folder.mkdir(parents=True)
    records = [
        bytes([k] if ten else [0, k]) + x.transpose(2, 0, 1).tobytes() for k, x in zip(labels, pixels, strict=True)
    ]
    for file in ["test_batch.bin", *(f"data_batch_{i}.bin" for i in range(1, 6))] if ten else ["test.bin", "train.bin"]:
        (folder / file).write_bytes(b"".join(records))
    (folder / ("batches.meta.txt" if ten else "fine_label_names.txt")).write_text("\n".join(f"c{i}" for i in range(10)))
    return pixels, labels


@pytest.mark.parametrize(("name", "train"), [("CIFAR10", 15), ("CIFAR100", 3)])
def test_cifar_is_read_from_its_binary_version(tmp_path: Path, name: str, train: int) -> None:
    pixels, labels = write_cifar(tmp_path, name)
    overrides = [
        "reference=torchvision",
        f"reference.torchvision.name={name}",
        f"reference.torchvision.root={tmp_path}",
    ]
    config = resolve(compose([*overrides, "reference.torchvision.split=test"]))
    reference = build(config.reference["torchvision"])
    reference.check()
    source = reference.open()
    assert isinstance(source, ArrayImages)
    np.testing.assert_array_equal(np.stack(source.read(range(3))), pixels)
    assert list(source.categories) == [f"c{i}" for i in labels]
    assert list(source.head(2).categories) == [f"c{i}" for i in labels[:2]]
    assert TorchvisionOpener(name, str(tmp_path)).count() == train
    path = next(tmp_path.rglob("test*.bin"))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match="are no whole number of records"):
        TorchvisionOpener(name, str(tmp_path), "test").check()


def test_a_pickle_is_never_loaded(tmp_path: Path) -> None:
    """torchvision's CIFAR10 lies there, and would run code: it is not looked at."""

    class Evil:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "ran",))

    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name in ("batches.meta", "test_batch", *(f"data_batch_{i}" for i in range(1, 6))):
        (folder / name).write_bytes(pickle.dumps(Evil()))
    with pytest.raises(
        ConfigError, match=r"torchvision's CIFAR10 is a pickle, which is never loaded; unpack its binary"
    ):
        TorchvisionOpener("CIFAR10", str(tmp_path), "test").check()
    with pytest.raises(ConfigError, match="LSUN is read from a pickle, which is never loaded"):
        TorchvisionOpener("LSUN", str(tmp_path)).check()
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"name": "MNSIT"}, "torchvision has no dataset 'MNSIT'. Did you mean 'MNIST'?"),
        ({"name": "MNIST", "root": "gone", "split": "valid"}, "split=valid: give train or test"),
        (
            {"name": "MNIST", "root": "gone", "split": "test"},
            "torchvision's MNIST (root=gone, split=test): Dataset not found",
        ),
        ({"name": "FakeData", "split": "test"}, "FakeData has no splits: leave split=null"),
        ({"name": "FakeData", "arguments": {"sise": 3}}, "takes no 'sise'. Did you mean 'size'?"),
        ({"name": "CIFAR10", "root": "gone", "split": "val"}, "give train or test"),
    ],
)
def test_what_is_wrong_is_one_line(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        TorchvisionOpener(**given).check()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
