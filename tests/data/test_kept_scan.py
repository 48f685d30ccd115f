"""The scan of a folder or an archive is kept: what is looked at again, and what is not believed."""

from __future__ import annotations

import logging
import os
import re
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from png_folders import fill, image

from evalkit.data import scan
from evalkit.data.codec import encode_png
from evalkit.data.containers.folder import Folder
from evalkit.data.open import open_images
from evalkit.data.records import ReadOptions
from evalkit.errors import DataError


@pytest.fixture
def looked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that are looked at. All are old enough for the index: their ctime cannot be set back."""
    real, seen = scan.make_record, []

    def counted(data: bytes, name: str, *more: Any, **named: Any) -> Any:
        seen.append(Path(name).name)
        return real(data, name, *more, **named)

    monkeypatch.setattr(scan, "make_record", counted)
    monkeypatch.setattr(scan, "_SETTLED_NS", 0)
    return seen


@pytest.mark.parametrize("on_error", ["refuse", "skip"])
def test_a_scan_is_kept(tmp_path: Path, on_error: Any, looked: list[str]) -> None:
    folder, cache = fill(tmp_path / "images", "a.png", "b.png", "c.png", "new.png"), tmp_path / "cache"
    (folder / "b.png").write_bytes(b"broken" if on_error == "skip" else encode_png(image(1)))
    os.utime(folder / "new.png", (4e9, 4e9))
    first = open_images(folder, ReadOptions(on_error=on_error), cache=cache)
    assert sorted(looked) == ["a.png", "b.png", "c.png", "new.png"]
    looked.clear()
    again = open_images(folder, ReadOptions(on_error=on_error), cache=cache)
    assert looked == ["new.png"]  # a file of this very second may change within a tick of its mtime
    assert (again.digest, again.skipped, again.warnings) == (first.digest, first.skipped, first.warnings)
    for path in cache.iterdir():
        path.write_text('{"a.png": 1}')
    assert open_images(folder, ReadOptions(on_error=on_error), cache=cache).digest == first.digest  # broken: no matter


@pytest.mark.parametrize("how", ["overwritten", "replaced"])
def test_a_file_changed_under_its_size_and_time_is_looked_at_again(tmp_path: Path, how: str, looked: list[str]) -> None:
    """As `rsync -t`, `cp -p` and a clock that is set back leave it (F5)."""
    folder, cache = tmp_path / "images", tmp_path / "cache"
    folder.mkdir()
    for i in range(3):
        Image.fromarray(image(i)).save(folder / f"{i}.bmp")
    first = open_images(folder, cache=cache)
    about = (folder / "1.bmp").stat()
    target = folder / "1.bmp" if how == "overwritten" else tmp_path / "new.bmp"
    Image.fromarray(image(7)).save(target)
    os.utime(target, ns=(about.st_atime_ns, about.st_mtime_ns))
    target.replace(folder / "1.bmp")
    now = (folder / "1.bmp").stat()
    assert (now.st_size, now.st_mtime_ns) == (about.st_size, about.st_mtime_ns)
    looked.clear()
    again = open_images(folder, cache=cache)
    assert looked == ["1.bmp"]
    assert again.digest != first.digest
    assert again.read(range(1, 2))[0].tolist() == image(7).tolist()


def _other_digest(line: str) -> str:
    return re.sub(r'"([0-9a-f]{64})"', f'"{"0" * 64}"', line)


@pytest.mark.parametrize("kind", ["folder", "archive"])
@pytest.mark.parametrize(
    "harm",
    [
        _other_digest,
        lambda line: line.replace(", 5, 6, ", ", 5, 7, "),
        lambda line: line.replace('"PNG", "RGB", null', '"PNG", "RGB", "boo"'),
        lambda line: line.replace(', [], "PNG"', ', ["cmyk"], "PNG"'),
        lambda line: line.replace("false, null", "true, null"),
        lambda line: line[:60],
        lambda line: "",
        lambda line: "[" * 100_000,
    ],
)
def test_an_altered_index_accuses_no_file(
    tmp_path: Path,
    kind: str,
    harm: Any,
    looked: list[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each line is believed only as it was written; that file alone is looked at anew (F6)."""
    place, cache = fill(tmp_path / "images", "0.png", "1.png", "2.png"), tmp_path / "cache"
    if kind == "archive":
        with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
            for file in sorted(place.iterdir()):
                archive.write(file, file.name)
        place = tmp_path / "images.zip"
    first = open_images(place, cache=cache)
    (index,) = cache.iterdir()
    lines = index.read_text().splitlines()
    assert harm(lines[2]) != lines[2]
    lines[2] = harm(lines[2])
    index.write_text("\n".join(lines) + "\n")
    looked.clear()
    monkeypatch.setattr(logging.getLogger("evalkit"), "propagate", True)
    again = open_images(place, cache=cache)
    assert [name.removeprefix("images.zip: ") for name in looked] == ["1.png"]
    assert (again.digest, again.warnings, again.skipped) == (first.digest, first.warnings, ())
    assert [x.tolist() for x in again.read(range(3))] == [image(i).tolist() for i in range(3)]
    assert f"{index}: 1 lines are altered or cut short: these files are looked at anew" in caplog.text
    looked.clear()
    open_images(place, cache=cache)
    assert looked == []


def test_an_index_is_of_one_folder_and_of_one_reader(
    tmp_path: Path, looked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    a, b = fill(tmp_path / "a", "0.png", "1.png"), fill(tmp_path / "b", "1.png", "0.png")
    digests = [open_images(folder, cache=cache).digest for folder in (a, b)]
    first, second = sorted(cache.iterdir())
    first.rename(tmp_path / "kept")
    second.rename(first)
    (tmp_path / "kept").rename(second)
    looked.clear()
    assert [open_images(folder, cache=cache).digest for folder in (a, b)] == digests
    assert len(looked) == 4
    monkeypatch.setattr(scan, "module_digest", lambda *modules: "edited")
    assert [open_images(folder, cache=cache).digest for folder in (a, b)] == digests
    assert len(looked) == 8


def test_a_file_that_no_stamp_tells_of_is_looked_at_by_the_next_run(
    tmp_path: Path, looked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a disk that keeps neither ctime nor inode: the reader finds it, and the index goes (F6)."""
    folder, cache = fill(tmp_path / "images", "0.png", "1.png"), tmp_path / "cache"
    monkeypatch.setattr(Folder, "stamp", lambda self, name: (1, 1, 1, 1))
    open_images(folder, cache=cache)
    (folder / "1.png").write_bytes(encode_png(image(5)))
    with pytest.raises(DataError, match=r"1\.png: altered"):
        open_images(folder, cache=cache).read(range(2))
    assert open_images(folder, cache=cache).read(range(2))[1].tolist() == image(5).tolist()


def test_a_header_scan_does_not_serve_for_skipping(tmp_path: Path) -> None:
    folder = fill(tmp_path, "a.png", "b.png")
    (folder / "b.png").write_bytes(encode_png(image(3, 6, 500))[:-2000])
    open_images(folder, ReadOptions(mixed_sizes=True))
    assert open_images(folder, ReadOptions(on_error="skip")).skipped == (str(folder / "b.png"),)


def test_a_cache_that_cannot_be_written_is_no_matter(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where a folder is wanted")
    assert len(open_images(fill(tmp_path / "i", "a.png"), cache=tmp_path / "cache" / "deeper")) == 1


def test_the_second_digest_is_quick(tmp_path: Path, looked: list[str]) -> None:
    fill(tmp_path, "0.png")
    data = (tmp_path / "0.png").read_bytes()
    for i in range(1, 2000):
        (tmp_path / f"{i}.png").write_bytes(data)
    cache = tmp_path.parent / f"{tmp_path.name}-cache"
    first = open_images(tmp_path, cache=cache)
    began = time.process_time()
    assert open_images(tmp_path, cache=cache).digest == first.digest
    assert time.process_time() - began < 1.0  # seen: 0.06 s
