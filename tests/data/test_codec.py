"""Images in and out: what each kind of file becomes, as the table in evalkit.data.codec says."""

from __future__ import annotations

import importlib.util
import io
import sys
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from evalkit.data import codec
from evalkit.data.codec import decode, encode_png, inspect
from evalkit.errors import DataError

RNG = np.random.default_rng(0)
PIXELS = np.kron(RNG.integers(0, 256, (6, 5, 3), dtype=np.uint8), np.ones((8, 8, 1), np.uint8))  # 48 x 40 in blocks
GREY = PIXELS[:, :, 0]


def saved(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def torch_fidelity(data: bytes) -> np.ndarray:
    """How torch-fidelity 0.4.0 reads a file (ImagesPathDataset)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def with_alpha(alpha: int) -> Image.Image:
    layer = np.full(GREY.shape, 255, np.uint8)
    layer[3, 4] = alpha
    return Image.fromarray(np.dstack([PIXELS, layer]))


def palette() -> Image.Image:
    return Image.fromarray(PIXELS).quantize(16)


# Kinds whose pixels are torch-fidelity's: file, and the notes that are counted.
ALIKE: dict[str, tuple[Callable[[], bytes], tuple[str, ...]]] = {
    "rgb png": (lambda: saved(Image.fromarray(PIXELS)), ()),
    "rgb jpeg": (lambda: saved(Image.fromarray(PIXELS), "JPEG", quality=80), ()),
    "progressive jpeg": (lambda: saved(Image.fromarray(PIXELS), "JPEG", progressive=True), ()),
    "webp": (lambda: saved(Image.fromarray(PIXELS), "WEBP", lossless=True), ()),
    "bmp": (lambda: saved(Image.fromarray(PIXELS), "BMP"), ()),
    "tiff": (lambda: saved(Image.fromarray(PIXELS), "TIFF"), ()),
    "grey png": (lambda: saved(Image.fromarray(GREY)), ()),
    "grey jpeg": (lambda: saved(Image.fromarray(GREY), "JPEG"), ()),
    "1-bit png": (lambda: saved(Image.fromarray(GREY).convert("1")), ()),
    "palette png": (lambda: saved(palette()), ()),
    "4-bit palette png": (lambda: saved(palette(), bits=4), ()),
    "gif": (lambda: saved(palette(), "GIF"), ()),
    "palette png, one colour clear": (lambda: saved(palette(), transparency=3), ("alpha_dropped",)),
    "palette png, alphas": (lambda: saved(palette(), transparency=bytes([0, 128, 255])), ("alpha_dropped",)),
    "rgba": (lambda: saved(with_alpha(7)), ("alpha_dropped",)),
    "rgba, opaque": (lambda: saved(with_alpha(255)), ()),
    "grey and alpha": (lambda: saved(with_alpha(0).convert("LA")), ("alpha_dropped",)),
    "rgb, one colour clear": (
        lambda: saved(Image.fromarray(PIXELS), transparency=tuple(int(v) for v in PIXELS[0, 0])),
        ("alpha_dropped",),
    ),
    "cmyk jpeg": (lambda: saved(Image.fromarray(PIXELS).convert("CMYK"), "JPEG"), ("cmyk",)),
    "cmyk tiff": (lambda: saved(Image.fromarray(PIXELS).convert("CMYK"), "TIFF"), ("cmyk",)),
    "animated gif": (
        lambda: saved(palette(), "GIF", save_all=True, append_images=[palette().rotate(180)]),
        ("animated",),
    ),
    "apng": (
        lambda: saved(Image.fromarray(PIXELS), save_all=True, append_images=[Image.fromarray(PIXELS[::-1].copy())]),
        ("animated",),
    ),
}


@pytest.mark.parametrize("kind", ALIKE)
def test_pixels_are_those_that_torch_fidelity_reads(kind: str, tmp_path: Path) -> None:
    make, notes = ALIKE[kind]
    data = make()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # what there is to say is said by the notes
        pixels = decode(data)
        header = inspect(data, kind)
    assert pixels.dtype == np.uint8
    assert pixels.flags["C_CONTIGUOUS"]
    np.testing.assert_array_equal(pixels, torch_fidelity(data))
    assert (header.height, header.width) == pixels.shape[:2]
    assert header.notes == notes
    (tmp_path / "x").write_bytes(data)
    np.testing.assert_array_equal(decode(tmp_path / "x"), pixels)


@pytest.mark.parametrize("kind", ["rgb png", "webp", "bmp", "tiff", "rgba", "rgba, opaque", "animated gif", "apng"])
def test_lossless_kinds_give_the_very_pixels(kind: str) -> None:
    expected = np.asarray(palette().convert("RGB")) if "gif" in kind else PIXELS
    np.testing.assert_array_equal(decode(ALIKE[kind][0]()), expected)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_grey_is_scaled_not_clipped(kind: str) -> None:
    values = np.array([[0, 128, 129, 256, 257, 385, 386, 32767, 32768, 65406, 65407, 65535]], np.uint16)
    data = saved(Image.fromarray(values), kind)
    pixels = decode(data)
    assert pixels.shape == (1, 12, 3)
    np.testing.assert_array_equal(pixels[0, :, 0], np.round(values[0] / 257))
    np.testing.assert_array_equal(pixels[:, :, 0], pixels[:, :, 2])
    assert inspect(data).notes == ("16bit",)


def png_16_bit_rgb(values: np.ndarray) -> bytes:
    """A PNG of u16 [H,W,3], which Pillow cannot write."""
    import struct
    import zlib

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_16_bit_colour_is_at_most_1_off() -> None:
    values = RNG.integers(0, 65536, (9, 7, 3), dtype=np.uint16)
    data = png_16_bit_rgb(values)
    np.testing.assert_array_equal(decode(data), values >> 8)
    assert np.abs(decode(data).astype(int) - np.round(values / 257)).max() <= 1
    assert inspect(data).notes == ("16bit",)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {"quality": 100} if kind == "JPEG" else {}
    data = saved(Image.fromarray(PIXELS), kind, exif=exif, **options)
    upright = {
        1: PIXELS,
        2: PIXELS[:, ::-1],
        3: PIXELS[::-1, ::-1],
        4: PIXELS[::-1],
        5: PIXELS.transpose(1, 0, 2),
        6: PIXELS[::-1].transpose(1, 0, 2),
        7: PIXELS[::-1, ::-1].transpose(1, 0, 2),
        8: PIXELS[:, ::-1].transpose(1, 0, 2),
    }[orientation]
    pixels, header = decode(data), inspect(data)
    assert pixels.shape == upright.shape
    assert np.abs(pixels.astype(int) - upright).mean() < (12 if kind == "JPEG" else 1e-9)
    assert (header.height, header.width) == upright.shape[:2]
    assert header.notes == (("exif_rotated",) if orientation > 1 else ())


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_a_cut_file_is_refused_wherever_pixels_are_lost(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)  # as some libraries set it
    data = saved(palette() if kind == "GIF" else Image.fromarray(PIXELS), kind)
    whole = decode(data)
    refused = 0
    for cut in [*range(0, len(data), max(1, len(data) // 40)), *range(len(data) - 24, len(data))]:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                np.testing.assert_array_equal(decode(data[:cut]), whole)  # only the end mark was missing
        except DataError:
            refused += 1
    assert refused >= 40


def bomb() -> bytes:
    data = bytearray(saved(Image.new("1", (10_000, 10_000)), compress_level=9))
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "not an image"),
        (b"<html>404</html>", "not an image"),
        (saved(Image.fromarray(PIXELS))[:60], "cannot be decoded"),
        (saved(Image.fromarray(PIXELS.astype(np.float32)[:, :, 0]), "TIFF"), "float pixels"),
        (saved(Image.fromarray(np.array([[0, 70_000]], np.int32)), "TIFF"), "32-bit pixels of 0 to 70000"),
        (bomb(), "decompression bomb"),
    ],
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_what_is_refused(data: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(data)
    with pytest.raises(DataError, match=words) as caught:
        decode(tmp_path / "bad.png")
    assert str(caught.value).startswith(str(tmp_path / "bad.png"))
    assert "\n" not in str(caught.value)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.png: No such file"):
        decode(tmp_path / "none.png")


@settings(max_examples=60, deadline=None)
@given(height=st.integers(1, 70), width=st.integers(1, 70), seed=st.integers(0, 99), top=st.sampled_from([0, 3, 255]))
def test_png_round_trip(height: int, width: int, seed: int, top: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, top + 1, (height, width, 3), dtype=np.uint8)
    for data in (encode_png(pixels), codec._encode_pillow(pixels, level=1)):
        np.testing.assert_array_equal(torch_fidelity(data), pixels)
        np.testing.assert_array_equal(decode(data), pixels)
        assert inspect(data) == codec.Header(width, height, (), "PNG", "RGB")


def test_png_of_views() -> None:
    for view in (PIXELS[::2], PIXELS[:, ::-1], PIXELS[:, :, ::-1], np.asfortranarray(PIXELS)):
        np.testing.assert_array_equal(decode(encode_png(view)), view)


def test_png_from_many_threads() -> None:
    many = [RNG.integers(0, 256, (n % 40 + 1, n % 23 + 1, 3), dtype=np.uint8) for n in range(200)]
    with ThreadPoolExecutor(8) as pool:
        for pixels, data in zip(many, pool.map(encode_png, many), strict=True):
            np.testing.assert_array_equal(decode(data), pixels)


@pytest.mark.parametrize(
    "pixels", [np.zeros((4, 4, 3), np.int16), np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), PIXELS[:0]]
)
def test_png_of_anything_else_is_refused(pixels: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"uint8 \[H,W,3\]"):
        encode_png(pixels)


def test_without_fpng_pillow_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fpng", None)
    data = encode_png(PIXELS)
    assert data == codec._encode_pillow(PIXELS, level=1)
    np.testing.assert_array_equal(decode(data), PIXELS)


def test_the_plugins_are_called_as_pillow_calls_them() -> None:
    """A misspelt one is passed over without a word, as one of a Pillow without it is."""
    for name in codec._PLUGINS:
        assert importlib.util.find_spec(f"PIL.{name}ImagePlugin"), name
