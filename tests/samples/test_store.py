"""Sample sets, folders and arrays as sources: content digests, verified reading, and every kind of bad folder."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import time
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_models import make_cell
from PIL import Image

from evalkit.config.build import build
from evalkit.config.compose import compose, resolve
from evalkit.data import scan
from evalkit.data.arrays import ArrayImages
from evalkit.data.codec import encode_png
from evalkit.data.containers.folder import Folder
from evalkit.data.open import open_images
from evalkit.data.records import ReadOptions
from evalkit.data.source import Source
from evalkit.data.stored import StoredImages
from evalkit.errors import ConfigError, DataError, StoreError
from evalkit.models.base import ExistingImages
from evalkit.models.folder import FolderModel
from evalkit.samples.generate import generate_cells
from evalkit.samples.model_pool import ModelPool
from evalkit.samples.store import SampleSet, Store
from evalkit.utils.json_files import read_checked, write_checked

RNG = np.random.default_rng(0)


def image(seed: int, height: int = 6, width: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def fill(folder: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_png(image(number)))
    return folder


@pytest.fixture
def made(tmp_path: Path) -> tuple[Store, Any, SampleSet]:
    """A store with one cell of 12 samples in two shards."""
    store, cell = Store(tmp_path / "runs"), make_cell(12)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("evalkit.samples.cells.SHARD_SAMPLES", 8)
        generate_cells([cell], store, batch_size=4, device="cpu")
    return store, cell, SampleSet.open(store, cell)


# Sample sets ------------------------------------------------------------------------------------------------------


def test_reading(made: tuple[Store, Any, SampleSet]) -> None:
    source: Source = made[2]
    assert (source.name, len(source)) == ("noise-contrast_200", 12)
    every = source.read(range(12))
    assert [a.shape for a in every] == [(8, 8, 3)] * 12
    np.testing.assert_array_equal(source.read(range(5, 11, 2))[2], every[9])
    assert source.read(range(0)) == []
    assert source.prompts == ("a red fox", "zwei Füchse", "drei") * 4


def test_the_digest_is_that_of_the_files_wherever_they_are(made: tuple[Store, Any, SampleSet], tmp_path: Path) -> None:
    samples = made[2]
    for number, path in enumerate(samples.files):
        (tmp_path / "copy").mkdir(exist_ok=True)
        shutil.copy(path, tmp_path / "copy" / f"{number:03d}.png")
    assert open_images(tmp_path / "copy").digest == samples.digest


def test_a_chunk_is_a_shard(made: tuple[Store, Any, SampleSet]) -> None:
    store, cell, samples = made
    assert list(samples.chunks) == [range(8), range(8, 12)]
    head = SampleSet.open(store, replace(cell, num_samples=10))
    assert list(head.chunks) == [range(8), range(8, 10)]
    first, last = (samples.chunk_digest(chunk) for chunk in samples.chunks)
    assert head.chunk_digest(head.chunks[0]) == first
    assert last not in {first, head.chunk_digest(head.chunks[1])}
    assert open_images(samples.files[0].parent).digest == first


def test_an_altered_image_is_never_scored(made: tuple[Store, Any, SampleSet]) -> None:
    _, _, samples = made
    path = samples.files[9]
    whole = path.read_bytes()
    for data in (encode_png(image(1, 8, 8)), whole[:-1], b"", whole[:100]):
        path.write_bytes(data)
        samples.read(range(9))
        with pytest.raises(DataError, match=r"000009\.png: altered or half written.*delete this shard's folder"):
            samples.read(range(8, 12))
    path.write_bytes(whole)
    assert len(samples.read(range(8, 12))) == 4


def test_damaged_shards(made: tuple[Store, Any, SampleSet]) -> None:
    store, cell, samples = made
    shard = samples.files[9].parent
    (shard / "Thumbs.db").write_bytes(b"")  # what a file manager leaves is no matter
    assert len(SampleSet.open(store, cell)) == 12
    samples.files[9].unlink()
    with pytest.raises(StoreError, match="damaged: 3 images where 4 were made: delete this folder"):
        SampleSet.missing(store, cell)
    (shard / "metadata.jsonl").unlink()
    with pytest.raises(StoreError, match=r"damaged: metadata\.jsonl is missing"):
        SampleSet.open(store, cell)
    shutil.rmtree(shard)
    assert SampleSet.missing(store, cell) == [(8, 12)]
    with pytest.raises(StoreError, match="4 of 12 samples are not made yet"):
        SampleSet.open(store, cell)
    generate_cells([cell], store, batch_size=4, device="cpu")
    assert SampleSet.open(store, cell).digest == samples.digest


@pytest.mark.parametrize("lines", [[], ["{"], ['{"index": 3}'] * 4])
def test_damaged_metadata(made: tuple[Store, Any, SampleSet], lines: list[str]) -> None:
    store, cell, samples = made
    (samples.files[9].parent / "metadata.jsonl").write_text("\n".join(lines))
    with pytest.raises(StoreError, match=r"is damaged: metadata\.jsonl.*: delete this folder"):
        SampleSet.open(store, cell)


def _columns(line: str) -> dict[str, Any]:
    return {name: value for name, value in json.loads(line).items() if name != "check"}


ALTERED = {
    "latency_s": 99.5,
    "nfe": 7,
    "warnings": ["blanked"],
    "category": "b",
    "prompt": "another",
    "device": "cuda",
    "peak_memory_mb": 1.0,
    "warmup": None,
    "batch": "x",
    "sha256": "0" * 64,
    "file_name": "../../x.png",
}


@pytest.mark.parametrize("column", ALTERED)
@pytest.mark.parametrize("check", ["kept", "gone"])
def test_no_column_of_metadata_is_believed(made: tuple[Store, Any, SampleSet], column: str, check: str) -> None:
    """An altered value, and a line whose digest is gone where others have theirs (F7)."""
    store, cell, samples = made
    file = samples.files[9].parent / "metadata.jsonl"
    lines = file.read_text().splitlines()
    row = json.loads(lines[2])
    row[column] = ALTERED[column] if row.get(column) != ALTERED[column] else "other"
    lines[2] = json.dumps(row if check == "kept" else _columns(json.dumps(row)))
    file.write_text("\n".join(lines) + "\n")
    with pytest.raises(StoreError, match=r"is damaged: metadata\.jsonl: line 3 is not as it was written: delete this"):
        SampleSet.open(store, cell)
    SampleSet.open(store, replace(cell, num_samples=8))


def test_no_bit_of_metadata_changes_unseen(made: tuple[Store, Any, SampleSet]) -> None:
    store, cell, samples = made
    file = samples.files[9].parent / "metadata.jsonl"
    whole, rng = file.read_bytes(), np.random.default_rng(0)
    for at in rng.choice(8 * len(whole), 200, replace=False):
        file.write_bytes(whole[: at // 8] + bytes([whole[at // 8] ^ (1 << (at % 8))]) + whole[at // 8 + 1 :])
        try:
            assert SampleSet.open(store, cell).rows == samples.rows  # an added line end, say
        except StoreError as error:
            assert "damaged" in str(error)  # noqa: PT017


def test_a_shard_of_another_cell_is_told(made: tuple[Store, Any, SampleSet]) -> None:
    """Whole in itself, images and lines, but put in another cell's place."""
    store, cell, _ = made
    other = replace(cell, key="1" * 64, name="other")
    shutil.copytree(store.sample_folder(cell), store.samples / f"other-{'1' * 8}")
    path = store.samples / f"other-{'1' * 8}" / "cell.json"
    write_checked(path, {**read_checked(path), "key": other.key})
    with pytest.raises(StoreError, match="line 1 is not as it was written"):
        SampleSet.open(store, other)


def as_of_before(samples: SampleSet, **change: Any) -> Path:
    """Writes the last shard's lines as evalkit 0.1.0 did, with a change of the third."""
    file = samples.files[9].parent / "metadata.jsonl"
    rows = [_columns(line) for line in file.read_text().splitlines()]
    rows[2] |= change
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_shards_of_before_are_read(made: tuple[Store, Any, SampleSet]) -> None:
    store, cell, samples = made
    as_of_before(samples)
    path = store.sample_folder(cell) / "cell.json"
    path.write_text(json.dumps({name: value for name, value in read_checked(path).items() if name != "check"}))
    again = SampleSet.open(store, cell, ModelPool().built(cell))
    assert (again.digest, again.prompts, again.stats()) == (samples.digest, samples.prompts, samples.stats())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"warnings": 5}, "line 3: warnings is '5', not a list of texts"),
        ({"prompt": 5}, "line 3: prompt is '5', not a text or null"),
        ({"category": ["a"]}, "line 3: category is .* not a text or null"),
        ({"latency_s": "x"}, "line 3: latency_s is 'x', not a number >= 0"),
        ({"latency_s": float("inf")}, "line 3: not JSON"),
        ({"nfe": -1}, "line 3: nfe is '-1', not a number >= 0 or null"),
        ({"batch": 0}, "line 3: batch is '0', not a whole number >= 1"),
        ({"more": 1}, "line 3 has a key that no line has: 'more'"),
        ({"file_name": "../../x.png"}, "line 3: file_name is '../../x.png', not that of sample 10"),
        ({"prompt": "another"}, "prompt of sample 10 is 'another', but the cell asks for"),
        ({"seed": 99}, "seed of sample 10 is 99, but the cell asks for 0"),
        ({"class_id": 4}, "class_id of sample 10 is 4, but the cell asks for None"),
    ],
)
def test_wrong_metadata_of_before_is_one_line(
    made: tuple[Store, Any, SampleSet], change: dict[str, Any], words: str
) -> None:
    store, cell, samples = made
    as_of_before(samples, **change)
    with pytest.raises(StoreError, match=f"is damaged: metadata\\.jsonl: {words}.*: delete this folder"):
        SampleSet.open(store, cell, ModelPool().built(cell))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda about: {**about, "key": "0" * 64}, "is of another cell"),
        (lambda about: {**about, "format": 3}, "format 3, but this evalkit reads 1 and 2"),
        (lambda about: {"key": about["key"]}, "cannot be read"),
        (lambda about: None, "is missing next to its shards"),
    ],
)
def test_a_cell_file_that_is_not_ours(made: tuple[Store, Any, SampleSet], change: Any, words: str) -> None:
    store, cell, _ = made
    path = store.sample_folder(cell) / "cell.json"
    about = change({name: value for name, value in read_checked(path).items() if name != "check"})
    write_checked(path, about) if about is not None else path.unlink()
    with pytest.raises(StoreError, match=words) as caught:
        SampleSet.missing(store, cell)
    assert "\n" not in str(caught.value)


def test_a_cell_file_is_believed_as_it_was_written_alone(made: tuple[Store, Any, SampleSet]) -> None:
    store, cell, _ = made
    path = store.sample_folder(cell) / "cell.json"
    text = path.read_text()
    for old, new in (('"shard_size": 8', '"shard_size": 4'), ('"seed": 0', '"seed": 1'), ('"check"', '"chgck"')):
        path.write_text(text.replace(old, new, 1))
        with pytest.raises(StoreError, match=r"cell\.json: altered .*: put it back, or delete .* to make it again"):
            SampleSet.missing(store, cell)


def test_a_cell_is_found_under_another_name(made: tuple[Store, Any, SampleSet]) -> None:
    store, cell, samples = made
    renamed = replace(cell, name="called-otherwise")
    assert store.sample_folder(renamed) == store.sample_folder(cell)
    assert SampleSet.open(store, renamed).digest == samples.digest


# Folders ----------------------------------------------------------------------------------------------------------


def test_a_folder_is_read_in_the_order_of_its_relative_paths(tmp_path: Path) -> None:
    fill(tmp_path, "b.png", "a/2.png", "a/10.png", "B.PNG", "a.png", ".hidden/x.png", ".x.png")
    (tmp_path / "notes.md").write_text("no image")
    source: Source = open_images(tmp_path)
    assert isinstance(source, StoredImages)
    assert source.files == ("B.PNG", "a.png", "a/10.png", "a/2.png", "b.png")
    np.testing.assert_array_equal(source.read(range(2, 3))[0], image(2))
    assert len(source) == 5
    assert source.prompts == (None,) * 5
    assert source.warnings == {}
    assert open_images(tmp_path, ReadOptions(recursive=False)).files == ("B.PNG", "a.png", "b.png")
    assert open_images(tmp_path, ReadOptions(extensions=["PNG"])).digest == source.digest
    assert source.head(2).files == ("B.PNG", "a.png")
    assert source.head(5) is source
    for count in (6, 0):
        with pytest.raises(ConfigError, match=f"num_samples={count}, but there are 5 images"):
            source.head(count)


def test_links_are_followed_and_circles_are_not(tmp_path: Path) -> None:
    fill(tmp_path / "there", "x.png")
    fill(tmp_path / "here", "a.png")
    (tmp_path / "here" / "more").symlink_to(tmp_path / "there")
    (tmp_path / "here" / "round").symlink_to(tmp_path / "here")
    assert open_images(tmp_path / "here").files == ("a.png", "more/x.png")


@pytest.mark.parametrize("kind", ["empty", "no images", "missing", "a file", "not recursive"])
def test_folders_without_images(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "images"
    if kind != "missing":
        folder.mkdir()
    if kind == "no images":
        (folder / "a.txt").write_text("a")
    if kind == "a file":
        folder = fill(tmp_path, "a.png") / "a.png"
    if kind == "not recursive":
        fill(folder, "sub/a.png")
    words = {
        "empty": "no images in it",
        "no images": "1 other files: check the path",
        "missing": "is missing: check the path",
        "a file": "is a file, not a folder",
        "not recursive": "recursive=false",
    }[kind]
    with pytest.raises(ConfigError, match=words) as caught:
        open_images(folder, ReadOptions(recursive=kind != "not recursive"))
    assert "\n" not in str(caught.value)


def test_broken_images_are_refused_or_skipped(tmp_path: Path) -> None:
    fill(tmp_path, *(f"{i}.png" for i in range(6)))
    (tmp_path / "1.png").write_text("<html>")
    with pytest.raises(DataError, match=r"1\.png: not an image file.*on_error=skip"):
        open_images(tmp_path)
    truncated = encode_png(image(3, 60, 60))[:-2000]
    (tmp_path / "1.png").write_bytes(encode_png(image(1)))
    (tmp_path / "3.png").write_bytes(truncated)
    refused = open_images(tmp_path, ReadOptions(mixed_sizes=True))  # the header is whole
    with pytest.raises(DataError, match=r"3\.png: cannot be decoded"):
        refused.read(range(6))
    (tmp_path / "5.png").write_bytes(b"")
    source = open_images(tmp_path, ReadOptions(on_error="skip"))
    assert source.files == ("0.png", "1.png", "2.png", "4.png")
    assert source.skipped == (str(tmp_path / "3.png"), str(tmp_path / "5.png"))
    assert source.warnings == {"skipped": 2}
    assert len(source.read(range(4))) == 4
    with pytest.raises(ConfigError, match="on_error='ignore'"):
        open_images(tmp_path, ReadOptions(on_error="ignore"))  # type: ignore[arg-type]
    for path in tmp_path.glob("*.png"):
        path.write_bytes(b"GIF89a")
    with pytest.raises(DataError, match="none of its 6 images can be read"):
        open_images(tmp_path, ReadOptions(on_error="skip"))


def test_mixed_sizes(tmp_path: Path) -> None:
    fill(tmp_path, "a.png", "b.png", "c.png")
    (tmp_path / "c.png").write_bytes(encode_png(image(9, 7, 5)))
    with pytest.raises(DataError, match=r"a\.png is 5x6, c\.png is 5x7.*mixed_sizes=true"):
        open_images(tmp_path)
    source = open_images(tmp_path, ReadOptions(mixed_sizes=True))
    assert [a.shape[0] for a in source.read(range(3))] == [6, 6, 7]


def test_sizes_are_those_after_rotation(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(image(0, 6, 5)).save(tmp_path / "a.png")
    Image.fromarray(image(0, 5, 6)).save(tmp_path / "b.png", exif=exif)
    source = open_images(tmp_path)
    assert [a.shape for a in source.read(range(2))] == [(6, 5, 3)] * 2
    assert source.warnings == {"exif_rotated": 1}


def test_kinds_are_counted(tmp_path: Path) -> None:
    Image.fromarray(image(0)).convert("RGBA").save(tmp_path / "opaque.png")
    Image.new("RGBA", (5, 6), (1, 2, 3, 4)).save(tmp_path / "clear.png")
    Image.new("CMYK", (5, 6)).save(tmp_path / "cmyk.jpg")
    Image.fromarray(np.zeros((6, 5), np.uint16)).save(tmp_path / "deep.png")
    assert open_images(tmp_path).warnings == {"alpha_dropped": 1, "cmyk": 1, "16bit": 1}


def test_an_image_that_changes_under_a_run_is_refused(tmp_path: Path) -> None:
    source = open_images(fill(tmp_path, "a.png", "b.png"))
    (tmp_path / "b.png").write_bytes(encode_png(image(5)))
    with pytest.raises(DataError, match=r"b\.png: altered or half written"):
        source.read(range(2))
    (tmp_path / "b.png").unlink()
    with pytest.raises(DataError, match=r"b\.png: No such file"):
        source.read(range(2))


def test_the_digest_is_of_the_content(tmp_path: Path) -> None:
    a, b = fill(tmp_path / "a", "x.png", "y.png"), fill(tmp_path / "b", "1.png", "sub/2.png")
    digest = open_images(a).digest
    assert digest == open_images(b).digest
    stat = (a / "y.png").stat()
    (a / "y.png").write_bytes(encode_png(image(7)))
    os.utime(a / "y.png", ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert open_images(a).digest != digest
    (b / "1.png").rename(b / "z.png")
    assert open_images(b).digest != digest  # the order is part of it


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


# Prompts of folders -----------------------------------------------------------------------------------------------


def test_prompts_from_a_metadata_file(tmp_path: Path) -> None:
    fill(tmp_path, "a.png", "b.png", "sub/c.png")
    lines = [{"file_name": "a.png", "text": "A"}, {"file_name": "sub/c.png", "text": " C "}]
    (tmp_path / "metadata.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    assert open_images(tmp_path).prompts == ("A", None, "C")
    with pytest.raises(DataError, match=r"b\.png: no prompt for this image \(prompts=metadata\.jsonl\)"):
        open_images(tmp_path, ReadOptions(prompts="metadata.jsonl"))
    assert open_images(tmp_path, ReadOptions(prompts=None)).prompts == (None,) * 3
    (tmp_path / "mine.csv").write_text("file_name,caption\na.png,1\nb.png,2\nsub/c.png,3\n")
    assert open_images(tmp_path, ReadOptions(prompts="mine.csv")).prompts == ("1", "2", "3")
    (tmp_path / "sub" / "metadata.csv").write_text("file_name,prompt\nc.png,nearer\n")
    assert open_images(tmp_path).prompts == ("A", None, "nearer")


def test_prompts_from_sidecars(tmp_path: Path) -> None:
    fill(tmp_path, "a.png", "b.png")
    (tmp_path / "a.txt").write_text("ein Füchslein\n", encoding="utf-8")
    assert open_images(tmp_path).prompts == ("ein Füchslein", None)
    with pytest.raises(DataError, match=r"b\.png: no prompt for this image \(prompts=sidecar\)"):
        open_images(tmp_path, ReadOptions(prompts="sidecar"))
    (tmp_path / "b.txt").write_bytes(b"caf\xe9")
    with pytest.raises(DataError, match=r"b\.txt: not UTF-8"):
        open_images(tmp_path)


@pytest.mark.parametrize(
    ("content", "how", "words"),
    [
        ("file_name,prompt\na.png,x\ngone.png,y\n", "auto", "names 'gone.png', which is not there"),
        ("file,prompt\na.png,x\n", "auto", "no column 'file_name'"),
        ("file_name,promt\na.png,x\n", "metadata.csv", "no column 'prompt'. Did you mean 'promt'"),
        ("", "other.csv", r"other\.csv: the file of prompts is missing"),
    ],
)
def test_wrong_metadata(tmp_path: Path, content: str, how: str, words: str) -> None:
    fill(tmp_path, "a.png")
    (tmp_path / "metadata.csv").write_text(content)
    with pytest.raises((DataError, ConfigError), match=words):
        open_images(tmp_path, ReadOptions(prompts=how))


def test_a_cells_folder_reads_each_sample_once(made: tuple[Store, Any, SampleSet]) -> None:
    store, cell, _ = made
    more = replace(cell, num_samples=14)
    generate_cells([more], store, batch_size=4, device="cpu")
    source = open_images(store.sample_folder(cell))
    assert len(source) == 14  # and not 18: shard 00001-004 is contained in 00001-006
    assert source.digest == SampleSet.open(store, more).digest
    assert source.prompts == SampleSet.open(store, more).prompts


# Arrays and the model ---------------------------------------------------------------------------------------------


def test_arrays(tmp_path: Path) -> None:
    pixels = RNG.integers(0, 256, (4, 6, 5, 3), dtype=np.uint8)
    source: Source = ArrayImages("four", pixels, prompts=["a", "b", "c", "d"])
    assert len(source) == 4
    np.testing.assert_array_equal(source.read(range(1, 3))[1], pixels[2])
    assert source.digest == ArrayImages("other", pixels.copy()).digest
    assert source.digest != ArrayImages("turned", pixels.reshape(4, 5, 6, 3)).digest
    np.savez(tmp_path / "a.npz", arr_0=pixels, arr_1=np.zeros(4))
    assert ArrayImages.from_npz(tmp_path / "a.npz").digest == source.digest
    with pytest.raises(DataError, match="no array 'arr_2'"):
        ArrayImages.from_npz(tmp_path / "a.npz", "arr_2")
    np.savez(tmp_path / "bad.npz", arr_0=np.array([{}], object))
    for name in ("bad.npz", "missing.npz"):
        with pytest.raises(DataError, match=r"not a readable \.npz"):
            ArrayImages.from_npz(tmp_path / name)
    for wrong in (pixels.astype(np.float32), pixels[0], pixels[:0], pixels[..., :2]):
        with pytest.raises(DataError, match=r"must be uint8 \[N,H,W,3\]"):
            ArrayImages("wrong", wrong)
    with pytest.raises(DataError, match="1 prompts for 4 images"):
        ArrayImages("wrong", pixels, prompts=["a"])


def test_the_folder_model(tmp_path: Path) -> None:
    fill(tmp_path / "i", "a.png", "b.png", "c.png")
    option = resolve(compose(["model=[folder]", f"model.folder.path={tmp_path / 'i'}"])).model["folder"]
    model = build(option)
    assert isinstance(model, ExistingImages)
    model.check()
    assert model.num_available() == 3
    assert model.conditioning == "none"
    assert len(model.open()) == 3
    assert model.open(2).files == ("a.png", "b.png")
    assert model.identity() == build(option).identity()
    with pytest.raises(ConfigError, match="num_samples=4, but there are 3 images"):
        model.open(4)
    with pytest.raises(ConfigError, match="is missing: check the path"):
        FolderModel(tmp_path / "none").check()
    with pytest.raises(ConfigError, match="on_error='no': Choices: refuse, skip"):
        FolderModel(tmp_path, on_error="no")  # type: ignore[arg-type]
    (tmp_path / "i" / "b.png").write_bytes(b"broken")
    assert FolderModel(tmp_path / "i", on_error="skip").num_available() == 2


def test_an_npz_is_a_folder_model(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", arr_0=RNG.integers(0, 256, (3, 4, 4, 3), dtype=np.uint8))
    model = FolderModel(tmp_path / "a.npz")
    model.check()
    assert model.num_available() == 3
    assert len(model.open(2)) == 2


def test_real_jpegs(shared_data: Path, tmp_path: Path) -> None:
    import zipfile

    with zipfile.ZipFile(shared_data / "cifar10-test-jpeg.zip") as archive:
        names = [n for n in archive.namelist() if n.endswith(".jpg")][::100]
        archive.extractall(tmp_path, names)
    source = open_images(tmp_path)
    assert len(source) == len(names) == 100
    for name, pixels in zip(source.files, source.read(range(100)), strict=True):
        np.testing.assert_array_equal(pixels, np.asarray(Image.open(tmp_path / name).convert("RGB")))
