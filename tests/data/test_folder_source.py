"""Folders and arrays as sources: content digests, verified reading, and every kind of bad folder."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from png_folders import fill, image

from evalkit.config.build import build
from evalkit.config.compose import compose, resolve
from evalkit.data.arrays import ArrayImages
from evalkit.data.codec import encode_png
from evalkit.data.open import open_images
from evalkit.data.records import ReadOptions
from evalkit.data.source import Source
from evalkit.data.stored import StoredImages
from evalkit.errors import ConfigError, DataError
from evalkit.models.base import ExistingImages
from evalkit.models.folder import FolderModel

RNG = np.random.default_rng(0)


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

    with zipfile.ZipFile(shared_data / "cifar10-test-jpeg.zip") as archive:
        names = [n for n in archive.namelist() if n.endswith(".jpg")][::100]
        archive.extractall(tmp_path, names)
    source = open_images(tmp_path)
    assert len(source) == len(names) == 100
    for name, pixels in zip(source.files, source.read(range(100)), strict=True):
        np.testing.assert_array_equal(pixels, np.asarray(Image.open(tmp_path / name).convert("RGB")))
