"""What of a folder or an archive is a sample: all kinds that are read, and a count of every picture that is not."""

from __future__ import annotations

import io
import logging
import tarfile
import zipfile
from pathlib import Path

import pytest
from pictures import picture
from PIL import Image

from evalkit.data import codec
from evalkit.data.open import open_images
from evalkit.data.records import EXTENSIONS, ReadOptions
from evalkit.data.stored import StoredImages
from evalkit.errors import ConfigError
from evalkit.models.folder import FolderModel

PIXELS = picture(0, 16)


def saved(kind: str, pixels: object = PIXELS, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


def packed(files: dict[str, bytes], kind: str, tmp_path: Path) -> Path:
    """A folder, zip or tar of files."""
    place = tmp_path / (f"set.{kind}" if kind != "folder" else "set")
    if kind == "zip":
        with zipfile.ZipFile(place, "w") as archive:
            for name, data in files.items():
                archive.writestr(name, data)
    elif kind == "tar":
        with tarfile.open(place, "w") as tar:
            for name, data in files.items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    else:
        for name, data in files.items():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (place / name).write_bytes(data)
    return place


def opened(place: Path, **options: object) -> StoredImages:
    images = open_images(place, ReadOptions(**options))  # type: ignore[arg-type]
    assert isinstance(images, StoredImages)
    return images


KINDS = {
    **{"a.png": "PNG", "b.jpe": "JPEG", "c.jfif": "JPEG", "d.JPG": "JPEG", "e.webp": "WEBP", "f.avif": "AVIF"},
    **{"g.bmp": "BMP", "h.dib": "DIB", "i.tif": "TIFF", "j.gif": "GIF", "k.ppm": "PPM", "l.pgm": "PPM", "m.pnm": "PPM"},
}


@pytest.mark.parametrize("place", ["folder", "zip", "tar"])
def test_all_kinds_that_pillow_reads_are_samples(place: str, tmp_path: Path) -> None:
    kinds = {name: kind for name, kind in KINDS.items() if kind in codec.known_formats()}
    files = {name: saved(kind, PIXELS[..., 0] if name == "l.pgm" else PIXELS) for name, kind in kinds.items()}
    images = opened(packed(files, place, tmp_path))
    assert (images.files, dict(images.left_out)) == (tuple(sorted(files)), {})
    assert list(images.headers().formats) == [kinds[name] for name in sorted(files)]
    lossless = {"PNG", "BMP", "DIB", "TIFF", "PPM"}
    for name, pixels in zip(images.files, images.read(range(len(images))), strict=True):
        if kinds[name] in lossless and name != "l.pgm":
            assert (pixels == PIXELS).all(), name


def test_the_configuration_names_the_same_kinds() -> None:
    from evalkit.config.compose import compose

    option = compose(["model=[folder]", "model.folder.path=x"]).model["folder"]
    assert tuple(sorted(option["extensions"])) == tuple(sorted(EXTENSIONS))


JUNK = [
    *("._a.png", ".DS_Store", "Thumbs.db", "desktop.ini", ".ipynb_checkpoints/a-checkpoint.png", "__MACOSX/._a.png"),
    *("__MACOSX/sub/b.png", "sub/._b.png", "sub/.ipynb_checkpoints/b.png", "sub/@eaDir/b.png", ".hidden/c.png"),
]


@pytest.mark.parametrize("place", ["folder", "zip", "tar"])
def test_what_systems_leave_behind_is_ignored(place: str, tmp_path: Path) -> None:
    whole = saved("PNG")
    files = {"a.png": whole, "sub/b.png": whole} | {name: b"\0\5\26\7" + bytes(80) for name in JUNK}
    images = opened(packed(files, place, tmp_path), on_error="skip")
    assert (images.files, images.skipped, dict(images.left_out)) == (("a.png", "sub/b.png"), (), {})


@pytest.mark.parametrize("place", ["folder", "zip", "tar"])
def test_kinds_that_are_not_read_are_counted(place: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    others = ["IMG_2.HEIC", "IMG_1.heic", "x/layers.psd", "logo.svg", "shot.dng", "clip.mp4", "plot.eps"]
    files = {"a.png": saved("PNG"), "notes.txt": b"x", "data.csv": b"a,b\n"} | dict.fromkeys(others, b"what it may be")
    with caplog.at_level(logging.WARNING):
        images = opened(packed(files, place, tmp_path))
    assert images.files == ("a.png",)
    assert dict(images.left_out) == {
        **{".dng": (1, "shot.dng"), ".eps": (1, "plot.eps"), ".heic": (2, "IMG_1.heic"), ".mp4": (1, "clip.mp4")},
        **{".psd": (1, "x/layers.psd"), ".svg": (1, "logo.svg")},
    }
    assert "2 .heic (IMG_1.heic), 1 .mp4 (clip.mp4), 1 .psd (x/layers.psd)" in caplog.text
    assert dict(images.headers().left_out) == dict(images.left_out)
    assert ".psd" not in opened(packed(files, place, tmp_path), recursive=False).left_out


def test_a_folder_of_nothing_else_says_so(tmp_path: Path) -> None:
    place = packed({"a.heic": b"x", "b.heic": b"x", "c.psd": b"x"}, "folder", tmp_path)
    with pytest.raises(ConfigError, match=r"no images in it .*3 other files; not read: 2 \.heic \(a\.heic\), 1 \.psd"):
        open_images(place)


def test_a_kind_that_is_not_asked_for_is_counted(tmp_path: Path) -> None:
    place = packed({"a.png": saved("PNG"), "b.jpg": saved("JPEG"), "c.jpg": saved("JPEG")}, "folder", tmp_path)
    assert dict(opened(place, extensions=[".png"]).left_out) == {".jpg": (2, "b.jpg")}


@pytest.mark.parametrize("place", ["folder", "zip", "tar"])
def test_masks_next_to_images_are_no_samples(place: str, tmp_path: Path) -> None:
    names = ["0001.png", "0001.mask.png", "0002.jpg", "0002_mask.png", "x/3.png", "x/3-seg.PNG", "x/3.depth.png"]
    alone = ["y/4_mask.png", "mask.png", "unmask.png", "5_masked.png"]  # nothing is there that they are masks of
    files = dict.fromkeys([*names, *alone], saved("PNG"))
    images = opened(packed(files, place, tmp_path))
    assert images.files == tuple(sorted(["0001.png", "0002.jpg", "x/3.png", *alone]))
    assert dict(images.left_out) == {"masks next to images": (4, "0001.mask.png")}


def test_dots_in_names_and_folders(tmp_path: Path) -> None:
    """Texts go by all but the last suffix, and a folder may be called as an archive is."""
    files = {
        "v1.5.zip/run.2/a.b.png": saved("PNG"),
        "v1.5.zip/run.2/a.b.txt": b"a red fox",
        "v1.5.zip/a.png": saved("PNG"),
    }
    place = packed(files, "folder", tmp_path) / "v1.5.zip"
    images = opened(place)
    assert (images.files, images.prompts) == (("a.png", "run.2/a.b.png"), (None, "a red fox"))
    by_folder = FolderModel(place, categories="folder").open()
    assert list(by_folder.categories) == [None, "run.2"]
