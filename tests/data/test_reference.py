"""References: a folder, an .npz, the embedded digits, nothing; each error one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fakes import random_images

from evalkit.data.reference import DigitsReference, FolderReference, NoReference, StatsReference
from evalkit.errors import ConfigError, DataError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    from PIL import Image

    for i, image in enumerate(random_images(6)):
        path = tmp_path / "images" / f"{i % 2}" / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    return tmp_path / "images"


def test_folder(folder: Path) -> None:
    reference = FolderReference(folder)
    reference.check()
    source = reference.open()
    assert len(source) == 6
    images = random_images(6)
    for position, i in enumerate([0, 2, 4, 1, 3, 5]):  # sorted by relative path
        np.testing.assert_array_equal(source.read(range(position, position + 1))[0], images[i])
    assert len(FolderReference(folder, num_samples=4).open()) == 4


def test_content_decides_the_digest(folder: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(folder, tmp_path / "copy")
    assert FolderReference(folder).open().digest == FolderReference(tmp_path / "copy").open().digest
    assert FolderReference(folder).open().digest != FolderReference(folder, num_samples=5).open().digest


def test_npz(tmp_path: Path) -> None:
    np.savez(tmp_path / "set.npz", arr_0=np.stack(random_images(5)))
    source = FolderReference(tmp_path / "set.npz").open()
    assert len(source) == 5
    np.testing.assert_array_equal(source.read(range(2, 3))[0], random_images(5)[2])


@pytest.mark.parametrize("name", ["nothing", "nothing.npz"])
def test_missing(tmp_path: Path, name: str) -> None:
    for call in (FolderReference(tmp_path / name).check, FolderReference(tmp_path / name).open):
        with pytest.raises(
            ConfigError, match=r"no (folder|file) of reference images .*nothing.*reference\.folder\.path"
        ):
            call()


def test_broken_image(folder: Path) -> None:
    (folder / "0" / "0.png").write_bytes(b"not an image")
    with pytest.raises(DataError, match=r"0\.png"):
        FolderReference(folder).open()
    assert len(FolderReference(folder, on_error="skip").open()) == 5


def test_unknown_on_error(folder: Path) -> None:
    with pytest.raises(ConfigError, match="Did you mean 'skip'"):
        FolderReference(folder, on_error="skp")  # type: ignore[arg-type]


def test_digits() -> None:
    reference = DigitsReference()
    reference.check()
    source = reference.open()
    assert len(source) == 5000
    first = source.read(range(1))[0]
    assert first.shape == (32, 32, 3)
    assert first.dtype == np.uint8
    assert str(source.prompts[0]).startswith("a ")
    assert [source.categories.count(word) for word in ("zero", "nine")] == [500, 500]
    assert source.digest == DigitsReference().open().digest


def test_stats(tmp_path: Path) -> None:
    from evalkit.data.moments import Moments

    reference = StatsReference(tmp_path / "stats.npz")
    for call in (reference.check, reference.open):
        with pytest.raises(ConfigError, match=r"no file of reference statistics .*stats\.npz.*reference\.stats\.path"):
            call()
    np.savez(tmp_path / "stats.npz", mu=np.zeros(3), sigma=np.eye(3))
    reference.check()
    found = reference.open()
    assert isinstance(found, Moments)
    np.testing.assert_array_equal(found.cov, np.eye(3))
    np.savez(tmp_path / "stats.npz", mu=np.zeros(3), sigma=np.eye(4))
    with pytest.raises(DataError, match="'sigma'"):
        reference.check()


def test_none() -> None:
    reference = NoReference()
    reference.check()
    assert reference.open() is None
