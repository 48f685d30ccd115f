"""Image files to pixels and back: one defined behaviour for every kind of file.

What `decode` does, kind by kind; the words in quotes are the notes that are counted and reported:

| file | pixels | note |
|---|---|---|
| 8-bit RGB | as they are | |
| greyscale, 1 to 8 bit | the grey level in all three channels | |
| palette | the palette's colours | |
| 16-bit greyscale | round(value / 257): 0..65535 onto 0..255, never clipped | "16bit" |
| 16-bit colour | the high byte (what Pillow reads; at most 1 off round(value / 257)) | "16bit" |
| CMYK, YCCK, YCbCr | Pillow's conversion | "cmyk" (CMYK, YCCK) |
| a colour profile (ICC) | not applied; with `srgb=True` converted (`evalkit.data.profiles`) | |
| any transparency | the colour channels as stored, transparency ignored | "alpha_dropped", if a pixel is not opaque |
| EXIF orientation | turned upright | "exif_rotated" |
| several frames (GIF, APNG, WebP, TIFF) | the first frame | "animated" |
| float or 32-bit pixels, LAB | refused: their range is not known | |
| more than 89,478,485 pixels | refused (decompression bomb) | |
| truncated, damaged, of no kind that is in `FORMATS` | refused | |

Gamma is never applied. For all 8-bit images without EXIF orientation the pixels equal
`PIL.Image.open(file).convert("RGB")`, which is what torch-fidelity reads; it clips 16-bit greyscale and leaves rotated
photographs lying on their side.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.data.png_parameters import texts_of
from evalkit.data.profiles import profile_name, to_srgb
from evalkit.errors import DataError
from evalkit.utils.files import read_file
from evalkit.utils.text import one_line

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

# The kinds of files that are opened, by Pillow's names: its other plugins are never asked, whatever a file is called.
# (EPS and WMF start programs, PSD, ICO, FITS and the like are no images of data sets.)
FORMATS = ("PNG", "JPEG", "WEBP", "AVIF", "BMP", "DIB", "TIFF", "GIF", "PPM")  # a JPEG may be an MPO
_PLUGINS = ("Png", "Jpeg", "Mpo", "WebP", "Avif", "Bmp", "Tiff", "Gif", "Ppm")  # PIL.PngImagePlugin, ...

MAX_PIXELS = 89_478_485  # Pillow's own warning threshold: a quarter of a GiB of RGB

_ORIENTATION = 0x0112
_GREY16 = ("I;16", "I;16L", "I;16B", "I;16N")
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CHUNK = struct.Struct(">I4s")  # length and kind; the data and a checksum of 4 bytes follow
_TEXTS = (b"tEXt", b"zTXt", b"iTXt")


@dataclass(frozen=True)
class Header:
    """What is known of an image file without (in the ordinary case) decoding it.

    Attributes:
        width, height: in pixels, after EXIF orientation.
        notes: see the module's table.
        format, mode: as Pillow names them ("PNG", "JPEG"; "RGB", "L", "P", "CMYK").
        texts: by keyword: a PNG's chunks tEXt, zTXt and iTXt before the pixels; what EXIF holds of a JPEG's or WebP's
            making.
        profile: what its colour profile is called; none where it has none, or one that is sRGB in effect.
        quality: of a JPEG, 1 to 100, about (exact for libjpeg's own tables).
    """

    width: int
    height: int
    notes: tuple[str, ...]
    format: str
    mode: str
    texts: Mapping[str, str] = field(default_factory=dict)
    profile: str | None = None
    quality: int | None = None


def decode(source: Path | bytes, name: str = "", *, srgb: bool = False) -> NDArray[np.uint8]:
    """Decodes an image file as the module's table says.

    Args:
        source: a path, or the file's bytes.
        name: what error messages call the bytes.
        srgb: whether colours are converted by the file's profile.

    Returns:
        u8 [H,W,3], RGB, C-contiguous.

    Raises:
        DataError: the file is missing, no image, damaged or too large; the message names it.
    """
    data, name = _read(source, name)
    try:
        with _open(data) as image:
            return _pixels(image, _orientation(image, data), srgb)
    except Exception as error:  # Pillow's plugins raise anything, from OSError to struct.error, on damaged files
        raise _unreadable(name, error) from error


def inspect(source: Path | bytes, name: str = "") -> Header:
    """Size and notes of an image file from its header; pixels are decoded only where there may be transparency.

    Raises:
        DataError: as `decode`; damage behind the header is not found.
    """
    data, name = _read(source, name)
    try:
        with _open(data) as image:
            orientation = _orientation(image, data)
            width, height = image.size
            if orientation >= 5 and image.format != "TIFF":  # Pillow turns TIFFs itself
                width, height = height, width
            mode = image.mode  # before the pixels are touched: Pillow then unpacks a GIF's palette
            texts = texts_of(image)
            profile, quality = profile_name(image), _jpeg_quality(image)
            notes = _notes(image, data, orientation)
            return Header(width, height, notes, str(image.format), mode, texts, profile, quality)
    except Exception as error:
        raise _unreadable(name, error) from error


def encode_png(pixels: NDArray[np.uint8]) -> bytes:
    """Encodes u8 [H,W,3] as an ordinary 8-bit RGB PNG, without loss. Safe to call from several threads.

    fpng where it is installed, else Pillow at level 1: see tests/bench/bench_png.py for the measurement. fpng holds the
    GIL, which is no matter at well below a millisecond per image.

    Raises:
        ValueError: another dtype or shape, or no pixels (fpng would write an empty file).
    """
    import numpy as np

    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or 0 in pixels.shape:
        raise ValueError(f"an image to write must be uint8 [H,W,3], not {pixels.dtype} {list(pixels.shape)}")
    try:
        import fpng
    except ImportError:  # no wheel for this platform
        return _encode_pillow(pixels, level=1)
    return bytes(fpng.from_ndarray(np.ascontiguousarray(pixels)))


def _encode_pillow(pixels: NDArray[np.uint8], level: int) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=level)
    return buffer.getvalue()


def _read(source: Path | bytes, name: str) -> tuple[bytes, str]:
    if isinstance(source, bytes):
        return source, name or "image"
    try:
        return read_file(source), name or str(source)
    except OSError as error:
        raise DataError(f"{source}: {error.strerror or error}") from error


@functools.cache
def known_formats() -> tuple[str, ...]:
    """Those of `FORMATS` that Pillow reads in this installation (AVIF needs libavif)."""
    from PIL import Image

    for name in _PLUGINS:
        with contextlib.suppress(ImportError):
            importlib.import_module(f"PIL.{name}ImagePlugin")
    return tuple(name for name in FORMATS if name in Image.OPEN)


@contextlib.contextmanager
def without_programs() -> Iterator[None]:
    """While others open images with Pillow's every plugin: an EPS, whatever its name, must not start Ghostscript."""
    from PIL import EpsImagePlugin

    before: Any = EpsImagePlugin.gs_binary
    EpsImagePlugin.gs_binary = False
    try:
        yield
    finally:
        EpsImagePlugin.gs_binary = before


def _open(data: bytes) -> Image:
    from PIL import Image, ImageFile

    if ImageFile.LOAD_TRUNCATED_IMAGES:  # some libraries switch it on when imported; half an image is never scored
        ImageFile.LOAD_TRUNCATED_IMAGES = False
    image = Image.open(io.BytesIO(data), formats=known_formats())
    width, height = image.size
    if width * height > MAX_PIXELS:
        image.close()
        raise ValueError(f"{width}x{height} is more than {MAX_PIXELS} pixels: a decompression bomb, or a scan to scale")
    return image


def _unreadable(name: str, error: Exception) -> DataError:
    if type(error).__name__ == "UnidentifiedImageError":
        return DataError(f"{name}: not an image file of a kind that is read ({', '.join(known_formats())})")
    return DataError(f"{name}: cannot be decoded: {one_line(error)}")


def _orientation(image: Image, data: bytes) -> int:
    """The EXIF orientation, 1 to 8; damaged EXIF counts as none."""
    if data.startswith(_PNG_SIGNATURE) and not _may_have_exif(data):
        return 1  # for a PNG, getexif() decodes all of the image first
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _may_have_exif(data: bytes) -> bool:
    """Whether a PNG has a chunk of EXIF. Chunk by chunk: a search takes 0.1 ms per 150 kB, with the GIL held."""
    at = len(_PNG_SIGNATURE)
    while at + 8 <= len(data):
        length, kind = _CHUNK.unpack_from(data, at)
        if kind == b"IEND":
            return False
        if kind == b"eXIf" or (kind in _TEXTS and data.startswith(b"Raw profile type", at + 8)):
            return True
        at += length + 12
    return b"eXIf" in data or b"Raw profile type" in data  # cut short, or damaged


def _notes(image: Image, data: bytes, orientation: int) -> tuple[str, ...]:
    notes = []
    if image.mode == "CMYK":
        notes.append("cmyk")
    if image.mode in (*_GREY16, "I") or _bits(image, data) == 16:
        notes.append("16bit")
    if orientation != 1:
        notes.append("exif_rotated")
    if getattr(image, "is_animated", False):
        notes.append("animated")
        image.seek(0)
    if _is_transparent(image):
        notes.append("alpha_dropped")
    return tuple(notes)


def _bits(image: Image, data: bytes) -> int:
    """Bits per channel of a PNG or TIFF; 8 for all else."""
    if data.startswith(_PNG_SIGNATURE):
        return data[24]
    tags = getattr(image, "tag_v2", None)
    bits: Any = tags.get(258, 8) if tags is not None else 8
    return int(bits[0] if isinstance(bits, tuple) else bits)


def _is_transparent(image: Image) -> bool:
    """Whether any pixel is not opaque."""
    import numpy as np

    if not image.has_transparency_data:
        return False
    if image.mode in (*_GREY16, "I"):  # a transparent grey level
        return bool((np.asarray(image) == image.info["transparency"]).any())
    extrema: Any = image.convert("RGBA").getchannel("A").getextrema()
    return bool(extrema[0] < 255)


# By quality the sum of libjpeg's table for brightness (ITU-T T.81, table K.1, scaled as `jpeg_quality_scaling` does).
_BRIGHTNESS = (
    *(16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29),
    *(51, 87, 80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92, 49, 64, 78, 87, 103, 121),
    *(120, 101, 72, 92, 95, 98, 112, 100, 103, 99),
)


@functools.cache
def _table_sums() -> list[int]:
    scales = [5000 // q if q < 50 else 200 - 2 * q for q in range(1, 101)]
    return [sum(min(max((step * scale + 50) // 100, 1), 255) for step in _BRIGHTNESS) for scale in scales]


def _jpeg_quality(image: Image) -> int | None:
    """The quality whose table is nearest to a JPEG's first; none for other files."""
    tables: Any = getattr(image, "quantization", None)
    if image.format not in ("JPEG", "MPO") or not tables:
        return None
    steps = sum(tables[min(tables)])
    sums = _table_sums()
    return 1 + min(range(100), key=lambda i: abs(sums[i] - steps))


def _pixels(image: Image, orientation: int, srgb: bool) -> NDArray[np.uint8]:
    import numpy as np
    from PIL import ImageOps

    image.load()
    upright = ImageOps.exif_transpose(image) if orientation != 1 else image
    if srgb and not upright.mode.startswith(("I", "F")) and profile_name(upright) is not None:
        return np.array(to_srgb(upright))  # HW3, u8
    if upright.mode in (*_GREY16, "I"):
        grey = np.asarray(upright).astype(np.int64)  # HW
        if grey.min() < 0 or grey.max() > 65535:
            raise ValueError(f"32-bit pixels of {grey.min()} to {grey.max()}: save it with 8 or 16 bits per channel")
        grey8 = ((grey + 128) // 257).astype(np.uint8)
        return np.repeat(grey8[:, :, None], 3, axis=2)  # HW -> HW3
    if upright.mode.startswith("F"):
        raise ValueError("float pixels, whose range is not known: save it with 8 or 16 bits per channel")
    if upright.mode == "P" and upright.has_transparency_data:
        # By way of RGBA, else Pillow warns about the transparency that we count; the colours are the same.
        return np.ascontiguousarray(np.asarray(upright.convert("RGBA"))[:, :, :3])
    if upright.mode in ("RGBa", "La"):
        upright = upright.convert(upright.mode.upper())
    return np.array(upright if upright.mode == "RGB" else upright.convert("RGB"))  # HW3, u8
