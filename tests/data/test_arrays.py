"""Arrays as people save them: refused with a command that converts them, and works; labels; moments next to images."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from evalkit.data.arrays import ArrayImages
from evalkit.data.moments import read_moments
from evalkit.data.open import open_images
from evalkit.data.reference import FolderReference, StatsReference
from evalkit.errors import DataError
from evalkit.scoring.protocol import _describe

U8 = np.random.default_rng(0).integers(0, 256, (6, 9, 10, 3), dtype=np.uint8)
GREY = U8[..., 0]
UNIT = U8.astype(np.float32) / 255

FORMS: dict[str, tuple[Callable[[], np.ndarray], np.ndarray]] = {
    "float32 of 0 to 1": (lambda: UNIT, U8),
    "float64 of -1 to 1": (lambda: UNIT.astype(np.float64) * 2 - 1, U8),
    "float16 of 0 to 255": (lambda: U8.astype(np.float16), U8),
    "int64": (lambda: U8.astype(np.int64), U8),
    "NCHW": (lambda: U8.transpose(0, 3, 1, 2), U8),
    "NCHW float of -1 to 1": (lambda: (UNIT * 2 - 1).transpose(0, 3, 1, 2), U8),
    "grey": (lambda: GREY, GREY[..., None].repeat(3, -1)),
    "grey with a channel": (lambda: GREY[..., None], GREY[..., None].repeat(3, -1)),
    "grey NCHW float": (lambda: UNIT[..., 0][:, None], GREY[..., None].repeat(3, -1)),
    "RGBA": (lambda: np.concatenate([U8, np.full_like(U8[..., :1], 255)], -1), U8),
    "16 bit": (lambda: U8.astype(np.uint16) * 257, U8),
    "bool grey": (lambda: GREY > 99, ((GREY > 99) * np.uint8(255))[..., None].repeat(3, -1)),
    "one image": (lambda: U8[0], U8[:1]),
}


@pytest.mark.parametrize("suffix", [".npz", ".npy"])
@pytest.mark.parametrize("form", FORMS)
def test_the_command_converts_it(form: str, suffix: str, tmp_path: Path) -> None:
    """One line; what it says to type makes a file that is read, with the pixels that are meant, and the labels kept."""
    make, expected = FORMS[form]
    folder = tmp_path / "with 'quotes' and $spaces"
    folder.mkdir()
    path = folder / f"a{suffix}"
    labels = np.arange(len(expected))
    if suffix == ".npz":
        np.savez(path, arr_0=make(), arr_1=labels)
    else:
        np.save(path, make())
    with pytest.raises(DataError) as caught:
        open_images(path)
    message = str(caught.value)
    assert "\n" not in message
    assert f"images must be uint8 [N,H,W,3] with N >= 1, not {make().dtype} {list(make().shape)}" in message
    command = message[message.index("python -c") :].replace("python", sys.executable, 1)
    subprocess.run(command, shell=True, check=True, cwd=tmp_path, timeout=60)
    images = open_images(tmp_path / f"a-uint8{suffix}")
    np.testing.assert_array_equal(np.stack(images.read(range(len(images)))), expected)
    if suffix == ".npz":
        assert list(images.categories) == [str(label) for label in labels]


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.where(UNIT > 0.5, np.nan, UNIT), r", with [\d,]+ of 1,620 values in the first 6 NaN or infinite: find out"),
        (np.full_like(UNIT, np.inf), ", with 1,620 of 1,620 values in the first 6 NaN or infinite"),
        (UNIT * 7 - 3, r" of -3 to 4: save it so$"),
        (U8.astype(np.int32) - 40, r" of -40 to 2\d\d: save it so$"),
        (UNIT[0, 0], r"\[10, 3\] of 0.* to .*: save it so$"),
        (U8[:0], r"uint8 \[0, 9, 10, 3\]: save it so$"),
        (U8[..., :2], r"uint8 \[6, 9, 10, 2\] of 0 to 255: save it so$"),
        (np.array(["a", "b"]), r"<U1 \[2\]: save it so$"),
        (UNIT.astype(np.complex64), r"complex64 .*: save it so$"),
    ],
)
def test_what_cannot_be_told(array: np.ndarray, words: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", arr_0=array)
    with pytest.raises(DataError, match=words):
        open_images(tmp_path / "a.npz")


@pytest.mark.parametrize(
    ("name", "labels", "expected"),
    [
        ("arr_1", np.array([3, 1, 2, 0, 999, 7]), ["3", "1", "2", "0", "999", "7"]),  # ADM's class-conditional batches
        ("labels", np.array([[3], [1], [2], [0], [9], [7]], np.int16), ["3", "1", "2", "0", "9", "7"]),
        ("y", np.array([0.0, 1, 2, 3, 4, 5]), ["0", "1", "2", "3", "4", "5"]),
        ("label", np.array(["cat", "dog", "cat", "dog", "cat", "owl"]), ["cat", "dog", "cat", "dog", "cat", "owl"]),
        ("label", np.array([b"cat", b"dog"] * 3), ["cat", "dog"] * 3),
        ("arr_1", np.eye(8, dtype=np.float32)[[3, 1, 2, 0, 5, 7]], ["3", "1", "2", "0", "5", "7"]),
        ("latents", np.zeros((6, 4)), [None] * 6),
    ],
)
def test_labels_are_categories(name: str, labels: np.ndarray, expected: list[str | None], tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", arr_0=U8, **{name: labels})
    images = open_images(tmp_path / "a.npz")
    assert list(images.categories) == expected
    np.savez(tmp_path / "b.npz", arr_0=U8)
    assert open_images(tmp_path / "b.npz").digest == images.digest


@pytest.mark.parametrize("labels", [np.arange(5), np.full(6, np.nan), np.full(6, 0.5), np.zeros((6, 4))])
def test_labels_that_are_none(labels: np.ndarray, tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", arr_0=U8, arr_1=labels)
    with pytest.raises(DataError, match=r"a.npz: 'arr_1' is .*, no class for each of the 6 images"):
        open_images(tmp_path / "a.npz")


def test_moments_and_images_in_one_file_are_two_references(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As ADM's VIRTUAL_*.npz: statistics of 50,000 images and 10,000 of them. Each is used where it is asked for."""
    path, mean, cov = tmp_path / "adm.npz", np.arange(4.0), np.eye(4)
    np.savez(path, arr_0=U8, mu=mean, sigma=cov)
    with caplog.at_level(logging.INFO):
        images, moments = FolderReference(path).open(), StatsReference(path).open()
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert (
        "the 6 images in it are read; its statistics (mu, sigma), which may be of more images, are not" in caplog.text
    )
    assert "its statistics (mu, sigma) are used, not the images in it" in caplog.text
    assert isinstance(images, ArrayImages)
    described = [_describe(images), _describe(moments)]
    assert [("statistics" in text, text["n"]) for text in described] == [(False, 6), (True, None)]
    assert described[0]["digest"] != described[1]["digest"]
    np.savez(path, arr_0=U8[:5], mu=mean, sigma=cov)
    assert FolderReference(path).open().digest != images.digest
    assert StatsReference(path).open().digest == moments.digest


def test_statistics_that_zipfile_cannot_unpack(tmp_path: Path) -> None:
    """An unknown method of compression is a NotImplementedError of zipfile's."""
    np.savez(tmp_path / "s.npz", mu=np.zeros(3), sigma=np.eye(3))
    data = bytearray((tmp_path / "s.npz").read_bytes())
    for match in list(re.finditer(rb"PK\x01\x02", bytes(data))):
        data[match.start() + 10] = 77
    for match in list(re.finditer(rb"PK\x03\x04", bytes(data))):
        data[match.start() + 8] = 77
    (tmp_path / "s.npz").write_bytes(data)
    for read in (read_moments, ArrayImages.from_npz):
        with pytest.raises(DataError, match=r"s.npz: (not a readable .npz: .*compression|no array 'arr_0')"):
            read(tmp_path / "s.npz")


def test_statistics_that_are_a_bomb(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "s.npz", mu=np.zeros(3), sigma=np.zeros((3000, 3000)))
    assert zipfile.ZipFile(tmp_path / "s.npz").infolist()
    with pytest.raises(DataError, match=r"'sigma' unpacks to 72,000,128 bytes .*: a bomb"):
        read_moments(tmp_path / "s.npz")
