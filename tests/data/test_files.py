"""What is opened at all: regular files of limited size, as images of known kinds; never a program, a pipe, a device."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evalkit.data import codec
from evalkit.data.arrays import ArrayImages
from evalkit.data.containers import folder as folder_module
from evalkit.data.containers.archive import Archive
from evalkit.data.containers.torchvision_dataset import TorchvisionOpener
from evalkit.data.open import open_images
from evalkit.data.records import ReadOptions
from evalkit.errors import DataError, EvalkitError
from evalkit.utils.files import open_file, read_file, sha256_file

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"


@pytest.fixture
def ghostscript(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for Ghostscript on the PATH; the file is there once it was started."""
    programs, started = tmp_path / "programs", tmp_path / "started"
    programs.mkdir()
    script = programs / "gs"
    script.write_text(f"#!/bin/sh\ntouch {started}\nexit 1\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    return started


def test_postscript_called_png_starts_no_ghostscript(ghostscript: Path, tmp_path: Path) -> None:
    """In a process of its own: Pillow looks for the program once. Without the list of formats it is started."""
    (tmp_path / "a.png").write_bytes(EPS)
    code = f"""
import contextlib
from pathlib import Path
from PIL import Image
from evalkit.data import codec
from evalkit.errors import DataError
file, started = Path({str(tmp_path / "a.png")!r}), Path({str(ghostscript)!r})
for read in (codec.decode, codec.inspect):
    try:
        read(file)
    except DataError as error:
        assert "not an image file of a kind that is read (PNG, JPEG" in str(error), error
    else:
        raise AssertionError("read")
with codec.without_programs(), contextlib.suppress(OSError):
    Image.open(file).load()
assert not started.exists()
with contextlib.suppress(Exception):
    Image.open(file).load()
assert started.exists(), "the test is blind"
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_torchvision_starts_no_ghostscript(ghostscript: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its ImageFolder opens files with Pillow itself."""
    from PIL import EpsImagePlugin

    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)
    (tmp_path / "set" / "0").mkdir(parents=True)
    (tmp_path / "set" / "0" / "a.png").write_bytes(EPS)
    with pytest.raises(EvalkitError, match=r"row 0: .*Ghostscript"):
        TorchvisionOpener("ImageFolder", str(tmp_path / "set")).open()
    assert not ghostscript.exists()


@pytest.mark.parametrize("kind", ["PSD", "ICO", "PCX", "TGA", "JPEG2000"])
def test_other_kinds_called_png(kind: str, tmp_path: Path) -> None:
    if kind == "PSD":
        data = b"8BPS" + struct.pack(">H6xHIIHH", 1, 3, 8, 8, 8, 3) + bytes(12) + struct.pack(">H", 0) + bytes(192)
        (tmp_path / "a.png").write_bytes(data)
    else:
        Image.new("RGB", (16, 16), "red").save(tmp_path / "a.png", kind)
    with Image.open(tmp_path / "a.png") as image:
        assert image.format == kind  # Pillow reads it when it is not told what to read
    with pytest.raises(DataError, match=rf"{tmp_path}/a.png: not an image file of a kind that is read"):
        codec.decode(tmp_path / "a.png")


SPECIAL = {
    "pipe": (lambda path: os.mkfifo(path), "is a pipe, not a file"),
    "device": (lambda path: path.symlink_to("/dev/zero"), "is a device, not a file"),
    "folder": (lambda path: path.mkdir(), "is a folder, not a file"),
}


@pytest.mark.parametrize("kind", SPECIAL)
@pytest.mark.parametrize("suffix", [".zip", ".tar", ".npz", ".npy", ".png"])
def test_only_regular_files_are_opened(kind: str, suffix: str, tmp_path: Path) -> None:
    """A pipe would wait for ever, and a link to /dev/zero fill the memory."""
    path = tmp_path / f"a{suffix}"
    make, words = SPECIAL[kind]
    make(path)
    readers = {
        ".zip": [Archive],
        ".tar": [Archive],
        ".npz": [ArrayImages.from_npz],
        ".npy": [ArrayImages.from_npy],
        ".png": [codec.decode, codec.inspect, read_file, open_file, sha256_file],
    }[suffix]
    for read in readers:
        with pytest.raises(DataError, match=words):
            read(path)


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_a_folder_with_what_is_no_file(kind: str, tmp_path: Path) -> None:
    make, words = SPECIAL[kind]
    make(tmp_path / "a.png")
    Image.new("RGB", (8, 8)).save(tmp_path / "b.png")
    with pytest.raises(DataError, match=rf"{tmp_path}/a.png: {words}"):
        open_images(tmp_path)
    kept = open_images(tmp_path, ReadOptions(on_error="skip"))
    assert [Path(kept.location(0)).name] == ["b.png"]
    assert kept.headers().skipped == (str(tmp_path / "a.png"),)


def test_the_size_of_a_file_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"x" * 100)
    assert read_file(path, limit=100) == b"x" * 100
    with pytest.raises(DataError, match=r"a.bin: 100 bytes \(limit 99\)"):
        read_file(path, limit=99)
    with (tmp_path / "a.png").open("wb") as file:
        file.truncate((512 << 20) + 1)  # sparse: it takes no room
    with pytest.raises(DataError, match=r"a.png: 536,870,913 bytes \(limit 536,870,912\)"):
        open_images(tmp_path)
    monkeypatch.setattr(folder_module, "MAX_FILE_BYTES", 10)
    memory = __import__("fsspec").filesystem("memory")
    memory.pipe("/limited/a.png", np.zeros(11, np.uint8).tobytes())
    with pytest.raises(DataError, match=r"memory:///limited/a.png: 11 bytes \(limit 10\)"):
        open_images("memory:///limited")


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc")
def test_a_file_whose_size_is_not_told() -> None:
    """Files of /proc have size 0 and content; what grows while it is read is the same case."""
    assert read_file("/proc/self/status").startswith(b"Name:")
    with pytest.raises(DataError, match="limit 4"):
        read_file("/proc/self/status", limit=4)
