"""Several archives, tables or folders as one set: patterns, natural order, and the same images as one archive."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import fsspec
import numpy as np
import pytest
from hostile import image, write_tar, write_zip

from evalkit.config.build import build
from evalkit.config.compose import compose, resolve
from evalkit.data.codec import encode_png
from evalkit.data.concat import expand, natural_key
from evalkit.data.open import PathOpener, open_images
from evalkit.data.records import ReadOptions
from evalkit.data.remote import find_place
from evalkit.data.stored import StoredImages
from evalkit.errors import ConfigError, DataError


def write_parts(folder: Path, names: list[str], each: int = 3) -> list[np.ndarray]:
    """Archives, tables and folders of `each` images; all of them in order. Names inside repeat from part to part."""
    every = [image(i) for i in range(len(names) * each)]
    for part, name in enumerate(names):
        start = part * each
        files = {f"{i:02d}.png": encode_png(every[start + i]) for i in range(each)}
        texts = {f"{i:02d}.txt": f"prompt {start + i}".encode() for i in range(each)}
        texts |= {f"{i:02d}.cls": str(part).encode() for i in range(each)}
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".zip"):
            write_zip(path, files | texts)
        elif name.endswith(".tar"):
            write_tar(path, files | texts)
        elif name.endswith(".parquet"):
            pytest.importorskip("pyarrow")
            import pyarrow
            import pyarrow.parquet

            columns = {"image": list(files.values()), "text": [f"prompt {start + i}" for i in range(each)]}
            pyarrow.parquet.write_table(pyarrow.table(columns | {"category": [str(part)] * each}), path)
        else:
            path.mkdir()
            for inner, data in (files | texts).items():
                (path / inner).write_bytes(data)
    return every


def check(source: object, every: list[np.ndarray], classes: bool = True) -> None:
    assert isinstance(source, StoredImages)
    assert len(source) == len(every)
    for ours, theirs in zip(source.read(range(len(every))), every, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert source.prompts == tuple(f"prompt {i}" for i in range(len(every)))
    if classes:
        assert list(source.categories) == [str(i // 3) for i in range(len(every))]


@pytest.mark.parametrize(
    ("names", "pattern"),
    [
        ([f"{i:05d}.tar" for i in range(3)], "{00000..00002}.tar"),
        ([f"{i}.tar" for i in range(12)], "*.tar"),  # 2 before 10
        ([f"train-{i}-of-4.parquet" for i in (1, 2, 3)], "train-*.parquet"),
        (["a.zip", "b/c.tar", "d.parquet"], "{a.zip,b/c.tar,d.parquet}"),
        (["x1/s1.zip", "x1/s2.zip", "x2/s1.zip", "x2/s2.zip"], "x{1..2}/s{1..2}.zip"),
        (["9.zip", "8.zip"], "{9..8}.zip"),
        (["p1.zip", "p2.zip"], "p[12].zip"),
    ],
)
def test_a_pattern_is_all_its_parts_in_order(tmp_path: Path, names: list[str], pattern: str) -> None:
    every = write_parts(tmp_path, names)
    opening = PathOpener(tmp_path / pattern)
    opening.check()
    assert opening.count() == len(every)
    source = opening.open()
    check(source, every)
    assert source.location(4) == f"{tmp_path / names[1]}[1]"


def test_few_tables_are_in_memory(tmp_path: Path) -> None:
    write_parts(tmp_path, [f"{i}.parquet" for i in range(8)])
    source = open_images(tmp_path / "*.parquet")
    assert isinstance(source, StoredImages)
    for _ in range(2):
        source.read(range(len(source)))
        assert sum(bool(table._loaded) for table in {image.container for image in source.images}) <= 3  # type: ignore[attr-defined]


def test_folders_as_one_set(tmp_path: Path) -> None:
    every = write_parts(tmp_path, ["run1", "run2", "run10"])
    source = open_images(tmp_path / "run*")
    check(source, every, classes=False)
    assert source.location(8) == str(tmp_path / "run10" / "02.png")


def test_the_same_digest_as_one_archive(tmp_path: Path) -> None:
    every = write_parts(tmp_path, ["0.tar", "1.tar"])
    one = write_tar(tmp_path / "all.zip.tar", {f"{i}.png": encode_png(pixels) for i, pixels in enumerate(every)})
    assert open_images(tmp_path / "{0..1}.tar").digest == open_images(one).digest


def test_any_range_of_any_part(tmp_path: Path) -> None:
    every = write_parts(tmp_path, [f"{i}.tar" for i in range(5)])
    source = open_images(tmp_path / "*.tar")
    assert isinstance(source, StoredImages)
    for start, stop, step in itertools.product(range(0, 15, 4), (5, 9, 15), (1, 2, 7)):
        for i, pixels in zip(range(start, stop, step), source.read(range(start, stop, step)), strict=True):
            np.testing.assert_array_equal(pixels, every[i])
    order = random.Random(0).sample(range(15), 9)
    some = source.take(order).take([8, 0, 3])
    for i, pixels in zip((order[8], order[0], order[3]), some.read(range(3)), strict=True):
        np.testing.assert_array_equal(pixels, every[i])
    assert some.prompts == tuple(f"prompt {order[i]}" for i in (8, 0, 3))
    assert list(some.categories) == [str(order[i] // 3) for i in (8, 0, 3)]
    assert some.location(0) == source.location(order[8])
    assert len(source.head(4)) == 4


def test_over_a_url(tmp_path: Path) -> None:
    every = write_parts(tmp_path, ["a1.tar", "a2.tar", "a10.tar"])
    for path in tmp_path.glob("*.tar"):
        with fsspec.open(f"memory://shards/{path.name}", "wb") as file:
            file.write(path.read_bytes())
    check(open_images(find_place("memory://shards/a*.tar")), every)
    check(open_images(find_place("memory://shards/a{1,2,10}.tar")), every)
    with pytest.raises(ConfigError, match=r"memory://shards/b\*\.tar: nothing fits this pattern"):
        PathOpener(find_place("memory://shards/b*.tar")).check()


def test_what_is_refused(tmp_path: Path) -> None:
    write_parts(tmp_path, ["0.tar", "1.tar"])
    with pytest.raises(ConfigError, match=r"2\.tar: the archive of images is missing"):
        PathOpener(tmp_path / "{0..2}.tar").check()
    with pytest.raises(ConfigError, match="nothing fits this pattern"):
        PathOpener(tmp_path / "x*.tar").check()
    with pytest.raises(ConfigError, match="more than 100,000 parts"):
        PathOpener(tmp_path / "{0..999999999}.tar").check()
    np.save(tmp_path / "a1.npy", np.stack([image(0)]))
    np.save(tmp_path / "a2.npy", np.stack([image(0)]))
    with pytest.raises(DataError, match=r"arrays .* cannot be joined"):
        open_images(tmp_path / "a*.npy")
    write_zip(tmp_path / "2.zip", {"a.png": encode_png(image(0, 9, 9))})
    write_zip(tmp_path / "1.zip", {"a.png": encode_png(image(0))})
    with pytest.raises(
        DataError, match=r"\*\.zip: images of different sizes: .*1\.zip: a\.png is 5x6, .*2\.zip: a\.png is 9x9"
    ):
        open_images(tmp_path / "*.zip")
    assert len(open_images(tmp_path / "*.zip", ReadOptions(mixed_sizes=True))) == 2


def test_a_path_that_exists_is_no_pattern(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a[1].zip", {"a.png": encode_png(image(0))})
    write_zip(tmp_path / "a1.zip", {"a.png": encode_png(image(1))})
    assert expand(path) is None
    np.testing.assert_array_equal(open_images(path).read(range(1))[0], image(0))
    assert expand(tmp_path / "plain") is None


def test_natural_order() -> None:
    names = ["frame10.png", "frame2.png", "a.png", "frame2b.png", "2.png", "010.png", "frame.png"]
    ordered = ["2.png", "010.png", "a.png", "frame2.png", "frame2b.png", "frame10.png", "frame.png"]
    assert sorted(names, key=natural_key) == ordered


def test_in_the_grid_and_as_reference(tmp_path: Path) -> None:
    write_parts(tmp_path, ["0.tar", "1.tar"])
    pattern = f'"{tmp_path}/{{0..1}}.tar"'
    overrides = [f"model.folder.path={pattern}", "reference=folder", f"reference.folder.path={pattern}"]
    config = resolve(compose(["model=[folder]", *overrides]))
    model, reference = build(config.model["folder"]), build(config.reference["folder"])
    model.check()
    assert model.num_available() == 6
    reference.check()
    assert reference.open().digest == model.open().digest


# Frames -----------------------------------------------------------------------------------------------------------


def write_clips(folder: Path) -> dict[str, np.ndarray]:
    """Two clips, of 12 and 3 frames, numbered without zeros."""
    frames = {f"clip10/frame{i}.png": image(i) for i in range(12)} | {f"clip9/{i}.png": image(50 + i) for i in range(3)}
    for name, pixels in frames.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(encode_png(pixels))
    return frames


@pytest.mark.parametrize("kind", ["folder", "zip", "memory"])
def test_frames_of_clips(tmp_path: Path, kind: str) -> None:
    frames = write_clips(tmp_path / "clips")
    path = str(tmp_path / "clips")
    files = {name: encode_png(pixels) for name, pixels in frames.items()}
    if kind == "zip":
        path = str(write_zip(tmp_path / "clips.zip", files))
    elif kind == "memory":
        path = f"memory://clips-{tmp_path.name}"
        for name, data in files.items():
            with fsspec.open(f"{path}/{name}", "wb") as file:
                file.write(data)
    overrides = ["model=[frames]", f"model.frames.path={path}", "model.frames.every=2", "model.frames.frames=3"]
    config = resolve(compose([*overrides, "reference=frames", f"reference.frames.path={path}"]))
    model = build(config.model["frames"])
    model.check()
    source = model.open()
    expected = ["clip9/0.png", "clip9/2.png", "clip10/frame0.png", "clip10/frame2.png", "clip10/frame4.png"]
    assert list(source.files) == expected
    assert model.num_available() == 5
    for name, pixels in zip(expected, source.read(range(5)), strict=True):
        np.testing.assert_array_equal(pixels, frames[name])
    assert list(source.categories) == ["clip9", "clip9", "clip10", "clip10", "clip10"]
    assert model.identity()["every"] == 2
    reference = build(config.reference["frames"]).open()
    assert len(reference) == 15
    assert reference.files[4] == "clip10/frame1.png"


def test_frames_that_are_not_chosen_are_not_read(tmp_path: Path) -> None:
    write_clips(tmp_path)
    (tmp_path / "clip10" / "frame1.png").write_bytes(b"broken")
    config = resolve(compose(["model=[frames]", f"model.frames.path={tmp_path}", "model.frames.every=2"]))
    assert len(build(config.model["frames"]).open()) == 8
    for key, value in (("every", 0), ("frames", 0), ("every", 1.5)):
        with pytest.raises(ConfigError, match=f"{key}={value!r}: (give )?a whole number"):
            build(config.model["frames"] | {key: value})


def test_class_folders(tmp_path: Path) -> None:
    write_clips(tmp_path)
    (tmp_path / "top.png").write_bytes(encode_png(image(0)))
    config = resolve(compose(["model=[folder]", f"model.folder.path={tmp_path}", "model.folder.categories=folder"]))
    source = build(config.model["folder"]).open()
    assert source.categories[-4:] == ["clip9", "clip9", "clip9", None]
    assert list(open_images(tmp_path).categories) == [None] * 16


@pytest.mark.parametrize("kind", ["folder", "zip", "memory"])
def test_classes_of_metadata(tmp_path: Path, kind: str) -> None:
    """The nearer file counts; what is not to be understood says nothing, where no prompts are read."""
    files = {f"{name}/{i}.png": encode_png(image(i)) for name in "ab" for i in range(2)}
    files |= {
        "metadata.jsonl": b'{"file_name": "a/0.png", "category": 7}\n{"file_name": "b/0.png", "category": "far"}\n',
        "b/metadata.csv": b"file_name,category\n0.png,near\n1.png,\n",
    }
    path = str(tmp_path / "set")
    for name, data in files.items():
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / name).write_bytes(data)
    if kind == "zip":
        path = str(write_zip(tmp_path / "set.zip", files))
    elif kind == "memory":
        path = f"memory://classes-{tmp_path.name}"
        for name, data in files.items():
            with fsspec.open(f"{path}/{name}", "wb") as file:
                file.write(data)
    source = open_images(find_place(path))
    assert list(source.categories) == ["7", None, "near", None]
    assert list(source.head(1).categories) == ["7"]
