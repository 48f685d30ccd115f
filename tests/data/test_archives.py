"""Zips, tars and arrays are read in place as the same images that a folder holds; hostile ones are refused by name."""

from __future__ import annotations

import io
import json
import os
import random
import tarfile
import time
import tracemalloc
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile import HOSTILE, image, pngs, write_tar, write_zip
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from evalkit.config.build import build
from evalkit.config.compose import compose, resolve
from evalkit.data import remote, scan
from evalkit.data.arrays import ArrayImages
from evalkit.data.codec import encode_png
from evalkit.data.containers import archive_index
from evalkit.data.open import PathOpener, open_images
from evalkit.data.records import ReadOptions
from evalkit.data.reference import FolderReference
from evalkit.data.stored import StoredImages
from evalkit.errors import ConfigError, DataError

FUZZ_SECONDS = float(os.environ.get("EVALKIT_FUZZ_SECONDS", "60"))  # of the long run


def write_folder(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def read_all(opening: PathOpener) -> None:
    source = opening.open()
    for i in range(len(source)):
        source.read(range(i, i + 1))


FILES = {
    "b/2.png": encode_png(image(2)),
    "b/10.PNG": encode_png(image(10)),
    "a.png": encode_png(image(0)),
    "b/.hidden.png": b"not looked at",
    "__MACOSX/._a.png": b"not looked at",
    "readme.md": b"no image",
}
KINDS: dict[str, Any] = {
    "deflated.zip": lambda path: write_zip(path, FILES),
    "stored.zip": lambda path: write_zip(path, FILES, zipfile.ZIP_STORED),
    "gnu.tar": lambda path: write_tar(path, FILES, tarfile.GNU_FORMAT),
    "pax.tar": lambda path: write_tar(path, FILES, tarfile.PAX_FORMAT),
    "ustar.TAR": lambda path: write_tar(path, FILES, tarfile.USTAR_FORMAT),
}


@pytest.mark.parametrize("kind", KINDS)
def test_an_archive_is_the_folder_it_was_made_of(tmp_path: Path, kind: str) -> None:
    folder = open_images(write_folder(tmp_path / "folder", FILES))
    archive = open_images(KINDS[kind](tmp_path / kind))
    assert isinstance(archive, StoredImages)
    assert archive.files == folder.files == ("a.png", "b/10.PNG", "b/2.png")
    assert archive.digest == folder.digest
    for ours, theirs in zip(archive.read(range(3)), folder.read(range(3)), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert archive.location(1) == f"{tmp_path / kind}[1]"
    assert open_images(tmp_path / kind, ReadOptions(recursive=False)).files == ("a.png",)  # type: ignore[union-attr]
    assert len(archive.head(2)) == 2
    np.testing.assert_array_equal(archive.head(2).read(range(1, 2))[0], image(10))
    with pytest.raises(ConfigError, match="num_samples=4, but there are 3 images"):
        archive.head(4)


@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_names_of_all_lengths_and_alphabets(tmp_path: Path, format: int) -> None:
    files = {f"{'x' * 99}/{'y' * 150}.png": encode_png(image(1)), "./füchslein/狐.png": encode_png(image(2))}
    expected = tuple(sorted(name.removeprefix("./") for name in files))
    tar = open_images(write_tar(tmp_path / "a.tar", files, format))
    assert isinstance(tar, StoredImages)
    assert tar.files == expected
    zipped = open_images(write_zip(tmp_path / "a.zip", files))
    assert zipped.digest == tar.digest
    assert zipped.files == expected  # type: ignore[union-attr]


def test_zip64_and_sizes_behind_the_data(tmp_path: Path) -> None:
    """As numpy and streaming writers make them: zip64 fields in small archives, sizes after the data, a comment."""

    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w") as archive:
        for name, data in pngs().items():
            with archive.open(name, "w", force_zip64=True) as file:
                file.write(data)
        archive.comment = b"PK\x05\x06 is no second end"
    (tmp_path / "a.zip").write_bytes(b"a self-extracting head" + pipe.getvalue())
    source = open_images(tmp_path / "a.zip")
    np.testing.assert_array_equal(source.read(range(2, 3))[0], image(2))


def test_a_zip_with_more_entries_than_16_bits_count(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for i in range(65_600):
            archive.writestr(zipfile.ZipInfo(f"{i}.txt"), b"")
    assert len(archive_index.list_members(tmp_path / "a.zip")) == 65_600


def test_stylegan_labels_become_categories(tmp_path: Path) -> None:
    files = {f"0000{i}/img{i:08d}.png": encode_png(image(i)) for i in range(3)}
    labels: Any = {"labels": [[name, i % 2] for i, name in enumerate(files)]}
    source = open_images(write_zip(tmp_path / "a.zip", files | {"dataset.json": json.dumps(labels).encode()}))
    assert list(source.categories) == ["0", "1", "0"]
    assert list(source.head(2).categories) == ["0", "1"]
    for wrong, message in (
        ({"labels": [["gone.png", 1]]}, "names 'gone.png', which is not there"),
        ({"labels": ["x"]}, "must be"),
    ):
        write_zip(tmp_path / "b.zip", files | {"dataset.json": json.dumps(wrong).encode()})
        with pytest.raises(DataError, match=message):
            open_images(tmp_path / "b.zip")
    write_zip(tmp_path / "c.zip", files | {"dataset.json": b'{"labels": null}'})
    assert list(open_images(tmp_path / "c.zip").categories) == [None] * 3


def test_webdataset_captions_and_classes(tmp_path: Path) -> None:
    names = ["000.png", "001.png", "002.png"]
    files = {name: encode_png(image(i)) for i, name in enumerate(names)}
    beside = {"000.txt": b" a cat \n", "001.json": b'{"caption": "a dog", "w": 3}', "001.cls": b"7"}
    source = open_images(write_tar(tmp_path / "a.tar", files | beside))
    assert source.prompts == ("a cat", "a dog", None)
    assert list(source.categories) == [None, "7", None]
    assert open_images(tmp_path / "a.tar", ReadOptions(prompts=None)).prompts == (None,) * 3
    with pytest.raises(DataError, match=r"002.png: no prompt for this image \(prompts=sidecar\)"):
        open_images(tmp_path / "a.tar", ReadOptions(prompts="sidecar"))
    for bad, message in ((b"\xff\xfe", "not UTF-8"), (b"x" * (2 << 20), "more than 1,048,576 bytes")):
        with pytest.raises(DataError, match=message):
            open_images(write_tar(tmp_path / "b.tar", files | {"000.txt": bad}))
    for bad in (b"{", b"[" * 100_000, b'{"prompt": 3}'):
        with pytest.raises(DataError, match=r"000.json: (not JSON|the prompt is not a text)"):
            open_images(write_tar(tmp_path / "b.tar", files | {"000.json": bad}))


def test_metadata_in_an_archive(tmp_path: Path) -> None:
    files = {"a/x.png": encode_png(image(1)), "b/x.png": encode_png(image(2))}
    meta = {
        "metadata.csv": b"file_name,prompt\na/x.png,A\nb/x.png,B\n",
        "b/metadata.jsonl": b'{"file_name": "x.png", "text": "nearer"}',
        "mine.csv": b"file_name,prompt\na/x.png,1\nb/x.png,2\n",
        "a/x.txt": b"not asked",
    }
    path = write_zip(tmp_path / "a.zip", files | meta)
    assert open_images(path).prompts == ("A", "nearer")
    assert open_images(path, ReadOptions(prompts="mine.csv")).prompts == ("1", "2")
    with pytest.raises(ConfigError, match=r"gone\.csv: the file of prompts is missing"):
        open_images(path, ReadOptions(prompts="gone.csv"))
    for bad, message in (
        (b"file_name,prompt\ngone.png,A\n", "names 'gone.png', which is not there"),
        (b"name,prompt\na/x.png,A\n", "no column 'file_name'"),
    ):
        with pytest.raises(DataError, match=message):
            open_images(write_zip(tmp_path / "b.zip", files | {"metadata.csv": bad}))
    for bad in (b"[" * 200_000, b'{"file_name": "000.png", "n": ' + b"9" * 6000 + b"}", b'{"prompt": "\\ud800"}'):
        with pytest.raises(DataError, match=r"metadata\.jsonl:1: not JSON: ") as caught:
            open_images(write_zip(tmp_path / "b.zip", files | {"metadata.jsonl": bad}))
        assert len(str(caught.value)) < 500


def test_broken_images_and_sizes(tmp_path: Path) -> None:
    files = pngs() | {"001.png": encode_png(image(1))[:-40]}
    path = write_tar(tmp_path / "a.tar", files)
    source = open_images(path)  # the header is whole
    with pytest.raises(DataError, match=r"a.tar: 001.png: cannot be decoded"):
        source.read(range(3))
    skipping = PathOpener(path, ReadOptions(on_error="skip"))
    assert skipping.count() == 2
    assert skipping.open().files == ("000.png", "002.png")  # type: ignore[union-attr]
    assert skipping.open().warnings == {"skipped": 1}
    mixed = write_zip(tmp_path / "b.zip", pngs() | {"z.png": encode_png(image(1, 8, 8))})
    with pytest.raises(DataError, match="images of different sizes"):
        open_images(mixed)
    assert len(open_images(mixed, ReadOptions(mixed_sizes=True))) == 4
    with pytest.raises(ConfigError, match="no images in it"):
        PathOpener(write_zip(tmp_path / "c.zip", {"a.txt": b""})).check()


def test_a_changed_archive_is_never_scored_silently(tmp_path: Path) -> None:
    """Stored, so that every byte of the file stands for one of the image."""
    path = write_zip(tmp_path / "a.zip", pngs(), zipfile.ZIP_STORED)
    source = open_images(path)
    data = bytearray(path.read_bytes())
    data[data.index(b"IDAT") + 30] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"a.zip: 000.png: altered"):
        source.read(range(3))
    path.write_bytes(b"")
    with pytest.raises(DataError, match="is not where the directory says"):
        source.read(range(3))
    path.unlink()
    with pytest.raises(DataError, match="No such file"):
        source.read(range(3))


def test_the_scan_is_kept_until_the_archive_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, cache = write_tar(tmp_path / "a.tar", pngs()), tmp_path / "cache"
    monkeypatch.setattr(scan, "_SETTLED_NS", 0)
    reads: list[str] = []
    plain = scan.make_record
    monkeypatch.setattr(
        scan, "make_record", lambda data, name, *a, **k: reads.append(name) or plain(data, name, *a, **k)
    )
    first = open_images(path, cache=cache)
    assert len(reads) == 3
    assert open_images(path, cache=cache).digest == first.digest  # this process
    assert open_images(path, cache=cache).digest == first.digest  # the next one
    assert len(reads) == 3
    write_tar(path, pngs(4))
    assert open_images(path, cache=cache).digest != first.digest
    assert len(reads) == 7


@pytest.mark.parametrize("name", ["a.zip", "a.tar"])
def test_many_threads_read_one_archive(tmp_path: Path, name: str) -> None:
    files = {f"{i:03d}.png": encode_png(image(i, 90, 90)) for i in range(32)}  # large enough for the pool
    source = open_images((write_zip if name == "a.zip" else write_tar)(tmp_path / name, files))
    ranges = [range(i, i + 4) for i in range(28)] * 4
    random.Random(0).shuffle(ranges)
    with ThreadPoolExecutor(8) as pool:
        for asked, got in zip(ranges, pool.map(source.read, ranges), strict=True):
            for i, pixels in zip(asked, got, strict=True):
                np.testing.assert_array_equal(pixels, image(i, 90, 90))


def test_memory_is_that_of_the_images_being_read(tmp_path: Path) -> None:
    """An archive of 60 MB of noise: listing, scanning and reading it hold a few images at a time."""
    files = {f"{i:03d}.bmp": b"" for i in range(20)}
    from PIL import Image

    for i, name in enumerate(files):
        buffer = io.BytesIO()
        Image.fromarray(image(i, 1000, 1000)).save(buffer, "BMP")
        files[name] = buffer.getvalue()
    path = write_tar(tmp_path / "a.tar", files)
    del files
    tracemalloc.start()
    source = open_images(path)
    for i in range(20):
        source.read(range(i, i + 1))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert path.stat().st_size > 60_000_000
    assert peak < 40_000_000  # eight threads at a time, when it is scanned


# Arrays -----------------------------------------------------------------------------------------------------------


def test_npy_is_mapped_and_equals_npz(tmp_path: Path) -> None:
    pixels = np.stack([image(i) for i in range(4)])
    np.save(tmp_path / "a.npy", pixels)
    np.savez(tmp_path / "a.npz", arr_0=pixels)
    source = open_images(tmp_path / "a.npy")
    assert isinstance(source, ArrayImages)
    assert isinstance(source.pixels, np.memmap)
    assert source.digest == open_images(tmp_path / "a.npz").digest
    np.testing.assert_array_equal(source.read(range(1, 3)), pixels[1:3])
    assert PathOpener(tmp_path / "a.npy").count() == 4
    np.save(tmp_path / "wrong.npy", pixels.astype(np.float32))
    with pytest.raises(DataError, match=r"images must be uint8 \[N,H,W,3\]"):
        open_images(tmp_path / "wrong.npy")
    with pytest.raises(ConfigError, match="the array of images is missing"):
        PathOpener(tmp_path / "gone.npy").check()


# As a model and as a reference ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.zip", "a.tar"])
def test_archives_stand_in_the_grid_and_as_reference(tmp_path: Path, name: str) -> None:
    path = (write_zip if name == "a.zip" else write_tar)(tmp_path / name, pngs())
    config = resolve(
        compose(["model=[folder]", f"model.folder.path={path}", "reference=folder", f"reference.folder.path={path}"])
    )
    model = build(config.model["folder"])
    model.check()
    assert model.num_available() == 3
    reference = build(config.reference["folder"])
    assert isinstance(reference, FolderReference)
    assert reference.open().digest == model.open().digest
    assert model.open(2).files == ("000.png", "001.png")
    with pytest.raises(ConfigError, match="there is no file of reference images"):
        FolderReference(tmp_path / f"gone-{name}").check()
    with pytest.raises(ConfigError, match="the archive of images is missing"):
        build(config.model["folder"] | {"path": str(tmp_path / f"gone-{name}")}).check()


# Hostile ----------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:Image size")
@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_archives_are_refused_in_one_line(tmp_path: Path, what: str) -> None:
    (tmp_path / "in").mkdir()
    make, words = HOSTILE[what]
    path = make(tmp_path / "in")
    with pytest.raises((DataError, ConfigError)) as caught:
        read_all(PathOpener(path))
    message = str(caught.value)
    assert words in message
    assert str(path) in message
    assert "\n" not in message
    assert len(message) < 500
    assert sorted(tmp_path.rglob("*")) == [tmp_path / "in", path], "a file was written"


def test_the_documentation_lists_them_all() -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "formats.md").read_text(encoding="utf-8")
    for what, (_, words) in HOSTILE.items():
        row = next((line for line in text.splitlines() if line.startswith(f"| {what} |")), "")
        assert words in row, f"docs/formats.md does not show {what!r} with {words!r}"


def test_limits_on_the_number_and_the_sum_of_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [write_zip(tmp_path / "a.zip", pngs()), write_tar(tmp_path / "a.tar", pngs())]
    monkeypatch.setattr(archive_index, "MAX_FILES", 2)
    for path in paths:
        with pytest.raises(DataError, match="more than 2 files: a bomb"):
            open_images(path)
    monkeypatch.setattr(archive_index, "MAX_FILES", 3)
    monkeypatch.setattr(archive_index, "MAX_TOTAL_BYTES", 300)
    for path in paths:
        with pytest.raises(DataError, match="unpack to more than 300 bytes: a bomb"):
            open_images(path)


def _seeds(folder: Path) -> list[tuple[str, bytes]]:
    """Small archives of every kind that is read, with all the small files beside the images."""
    files = {
        "a/000.png": encode_png(image(0)),
        "a/001.png": encode_png(image(1)),
        "a/000.txt": b"a cat",
        "a/001.json": b'{"prompt": "a dog"}',
        "dataset.json": b'{"labels": [["a/000.png", 1]]}',
    }
    long = files | {
        f"{'n' * 120}.png": files["a/000.png"],
        "metadata.jsonl": b'{"file_name": "a/000.png", "text": "x"}',
    }
    made = [
        write_zip(folder / "0.zip", files),
        write_zip(folder / "1.zip", long, zipfile.ZIP_STORED),
        write_tar(folder / "2.tar", files),
        write_tar(folder / "3.tar", long, tarfile.GNU_FORMAT),
        write_tar(folder / "4.tar", long, tarfile.PAX_FORMAT),
    ]
    return [(path.suffix, path.read_bytes().rstrip(b"\0") + b"\0" * 1024 * (path.suffix == ".tar")) for path in made]


_NUMBERS = st.sampled_from([0, 1, 0x7F, 0x80, 0xFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF])
_BYTES = st.one_of(
    st.binary(max_size=12),
    st.sampled_from(
        [b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06", b"PK\x06\x06", b"ustar\x00", b"../", b"77777777", b"\0" * 512]
    ),
    st.builds(lambda n, w: (n & (256**w - 1)).to_bytes(w, "little"), _NUMBERS, st.sampled_from([1, 2, 4, 8])),
)
_MUTATION = st.tuples(
    st.sampled_from(["put", "insert", "delete", "copy", "cut"]), st.floats(0, 1), st.floats(0, 1), _BYTES
)


def _mutate(data: bytes, mutations: list[tuple[str, float, float, bytes]], checksums: bool) -> bytes:
    for kind, where, length, fresh in mutations:
        at, count = int(where * len(data)), int(length**4 * 600)
        if kind == "put":
            data = data[:at] + fresh + data[at + len(fresh) :]
        elif kind == "insert":
            data = data[:at] + fresh + data[at:]
        elif kind == "delete":
            data = data[:at] + data[at + count :]
        elif kind == "copy":
            data = data[:at] + data[at : at + count] * 2 + data[at + count :]
        else:
            data = data[: max(at, 1)]
    if not checksums:
        return data
    blocks = bytearray(data)  # headers of a tar with right checksums: else nearly all are refused for these alone
    for at in range(0, len(blocks) - 511, 512):
        if blocks[at + 257 : at + 262] == b"ustar":
            blocks[at + 148 : at + 156] = b" " * 8
            blocks[at + 148 : at + 156] = b"%06o\0 " % sum(blocks[at : at + 512])
    return bytes(blocks)


@pytest.mark.timeout(FUZZ_SECONDS + 300)
@pytest.mark.parametrize("seconds", [2.0, pytest.param(FUZZ_SECONDS, marks=pytest.mark.slow)])
def test_fuzz_mutated_archives(tmp_path: Path, record_property: Any, seconds: float) -> None:
    """Whatever is done to an archive's bytes, here or behind a URL, it is read or refused in one line, at once.

    Nothing is written.

    `-m slow` runs it for a minute, and with EVALKIT_FUZZ_SECONDS=600 for ten.
    """
    seeds = _seeds(tmp_path)
    (tmp_path / "in").mkdir()
    counts = {"examples": 0, "read": 0, "refused": 0, "of several lines": 0}
    end = time.monotonic() + seconds

    @settings(
        max_examples=250,
        deadline=5000,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(
        st.sampled_from(seeds),
        st.lists(_MUTATION, min_size=1, max_size=4),
        st.booleans(),
        st.sampled_from(["refuse", "skip"]),
        st.booleans(),
    )
    def refuses_or_reads(start: tuple[str, bytes], mutations: Any, checksums: bool, on_error: Any, far: bool) -> None:
        remote._OPEN.clear()
        path = tmp_path / "in" / f"a{start[0]}"
        path.write_bytes(_mutate(start[1], mutations, checksums and start[0] == ".tar"))
        counts["examples"] += 1
        place = remote.Remote(f"memory://fuzz/{path.name}") if far else path
        if isinstance(place, remote.Remote):
            place.put(path)
        try:
            read_all(PathOpener(place, ReadOptions(on_error=on_error, mixed_sizes=True)))
            counts["read"] += 1
        except (DataError, ConfigError) as error:
            counts["refused"] += 1
            counts["of several lines"] += "\n" in str(error)
        finally:
            path.unlink()

    batch = 0
    while batch == 0 or time.monotonic() < end:
        seed(batch)(refuses_or_reads)()
        batch += 1
    assert not list((tmp_path / "in").iterdir()), "a file was written"
    assert counts["read"] > 0 < counts["refused"], counts
    assert not counts["of several lines"]
    record_property("fuzz", counts)
    print(f"{counts} in {seconds:g} s")
