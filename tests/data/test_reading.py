"""Files read by processes: the same pixels, records and errors as by this one; and when there are any."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from evalkit.data import codec, reading
from evalkit.data.open import open_images
from evalkit.data.records import ReadOptions
from evalkit.data.source import MOST_AT_ONCE
from evalkit.errors import ConfigError, DataError
from evalkit.utils.processes import Processes

MIXED = ReadOptions(mixed_sizes=True)


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    yield
    reading.use("auto")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """More images of several kinds than a process reads at a time."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(2 * MOST_AT_ONCE + 3):
        image = Image.fromarray(rng.integers(0, 256, (20 + i, 24, 3), dtype=np.uint8))
        mode, kind = (("RGB", "png"), ("L", "png"), ("P", "gif"), ("RGBA", "webp"), ("CMYK", "jpeg"))[i % 5]
        image.convert(mode).save(folder / f"{i:03d}.{kind}")
    return folder


def test_processes_read_what_threads_read(folder: Path) -> None:
    reading.use(0)
    here = open_images(folder, MIXED)
    expected = here.read(range(len(here)))
    reading.use(2)
    there = open_images(folder, MIXED)
    images = there.read(range(len(there)))
    assert reading._helpers is not None
    assert len(reading._helpers.call._all) == 2
    assert there.records == here.records
    assert there.digest == here.digest
    assert [image.shape for image in images] == [image.shape for image in expected]
    for image, other in zip(images, expected, strict=True):
        np.testing.assert_array_equal(image, other)
        assert image.flags["WRITEABLE"]
        assert image.flags["C_CONTIGUOUS"]
    helpers = list(reading._helpers.call._all)
    reading.use(0)
    assert all(process.returncode is not None for process in helpers)


@pytest.mark.parametrize("damage", ["altered", "gone", "broken"])
def test_errors_are_the_same(folder: Path, damage: str) -> None:
    messages = []
    for readers in (0, 2):
        reading.use(readers)
        images = open_images(folder, MIXED)
        first, second = (folder / images.files[i] for i in (5, 30))
        kept = [(path, path.read_bytes()) for path in (first, second)]
        for path, data in kept:
            if damage == "gone":
                path.unlink()
            else:
                path.write_bytes(data[: len(data) // 2] if damage == "broken" else data + b"\0")
        with pytest.raises(DataError) as caught:
            (open_images(folder, MIXED) if damage == "broken" else images).read(range(len(images)))
        messages.append(str(caught.value))
        for path, data in kept:
            path.write_bytes(data)
    assert messages[0] == messages[1]
    assert str(first) in messages[0], "the first of two"
    assert "\n" not in messages[0]


def test_images_that_are_no_files_of_their_own(folder: Path, tmp_path: Path) -> None:
    import zipfile

    archive = tmp_path / "images.zip"
    with zipfile.ZipFile(archive, "w") as zipped:
        for file in sorted(folder.iterdir()):
            zipped.write(file, file.name)
    reading.use(0)
    expected = open_images(folder, MIXED)
    reading.use(2)
    images = open_images(archive, MIXED)
    assert images.digest == expected.digest
    for image, other in zip(images.read(range(9, 30)), expected.read(range(9, 30)), strict=True):
        np.testing.assert_array_equal(image, other)


def test_processes_are_started_where_they_pay(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[int] = []
    monkeypatch.setattr(reading, "_helpers", None)
    monkeypatch.setattr(Processes, "start", lambda self, count: started.append(count))
    monkeypatch.setattr(reading, "_spent", 0.0)
    monkeypatch.setattr(reading, "cores", lambda: 4)
    assert reading.helpers(100.0) is None, "threads do for so few cores"
    monkeypatch.setattr(reading, "_spent", 0.0)
    monkeypatch.setattr(reading, "cores", lambda: 16)
    assert reading.helpers(0.6) is None, "few images so far"
    helpers = reading.helpers(0.6)
    assert helpers is not None
    assert helpers.count == 16
    assert started == [16]
    assert reading.helpers(0.0) is helpers
    monkeypatch.setattr(reading, "beside", lambda: 4)
    assert not reading._count(), "16 cores among 4 workers of the run"


@pytest.mark.parametrize("readers", [-1, "many", 1.5, True])
def test_a_setting_that_makes_no_sense(readers: int | str) -> None:
    with pytest.raises(ConfigError, match=r"^readers=.*: give a whole number >= 0, or auto$"):
        reading.use(readers)


@pytest.mark.parametrize("where", ["before", "after", "text", "none"])
def test_exif_of_a_png_is_found_by_its_chunks(where: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    texts, file = PngImagePlugin.PngInfo(), io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (30, 50, 3), dtype=np.uint8)
    if where == "text":  # as ImageMagick writes it
        raw = b"Exif\0\0" + exif.tobytes()[6:] if not exif.tobytes().startswith(b"Exif") else exif.tobytes()
        texts.add_text("Raw profile type exif", f"\nexif\n{len(raw):8d}\n{raw.hex()}\n")
    Image.fromarray(noise).save(file, "png", pnginfo=texts, **({"exif": exif} if where == "before" else {}))
    data = file.getvalue()
    if where == "after":  # of the pixels, where Pillow writes none
        chunk = b"eXIf" + exif.tobytes()[6:]
        end = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
        data = data[:-12] + end + data[-12:]
    assert codec._may_have_exif(data) == (where != "none")
    assert codec.decode(data).shape == ((30, 50, 3) if where == "none" else (50, 30, 3))
    assert codec._may_have_exif(data[:-40]) == (b"eXIf" in data[:-40] or b"Raw profile type" in data[:-40]), "cut short"
