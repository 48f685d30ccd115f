"""A prompt's images as forms of /v1/images/edits carry them.

OpenAI's `mask` is a PNG as large as the image, transparent where it is to be painted (its API reference, "Create image
edit"). vLLM-Omni's `mask_image` is a data URL, white where it is to be painted, as the prompts' masks are
(docs/serving/image_edit_api.md at 00a3619). SGLang takes a `mask` and, at 0230ddc, hands it to no pipeline.
"""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import TYPE_CHECKING

from evalkit.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

MASKS = ("mask", "mask_image")
_SENT = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp"}  # as they are; others as PNG


def source_file(path: str) -> tuple[str, bytes, str]:
    """The file's name, bytes and media type; turned as its EXIF orientation says, without which it is sent as it is.

    Raises:
        DataError: it cannot be read, or is no image.
    """
    from PIL import ImageOps

    image, data = _opened(path)
    if image.format in _SENT and image.getexif().get(0x0112, 1) == 1:
        return Path(path).name, data, _SENT[image.format]
    turned = ImageOps.exif_transpose(image)
    return (
        f"{Path(path).stem}.png",
        _png(turned if turned.mode in ("L", "RGB", "RGBA") else turned.convert("RGB")),
        "image/png",
    )


def check_mask(path: str, source: str) -> None:
    """DataError: a mask is no image, or has another size than its source image. Reads their headers alone."""
    sizes = [_upright_size(path), _upright_size(source)]
    if sizes[0] != sizes[1]:
        (width, height), (source_width, source_height) = sizes
        raise DataError(f"mask {path} is {width}x{height}, its source image {source_width}x{source_height}")


def mask_file(path: str) -> tuple[str, bytes, str]:
    """OpenAI's form of a mask (white is painted): a PNG that is transparent where it is white.

    Raises:
        DataError: it cannot be read, or is no image.
    """
    from PIL import Image, ImageOps

    mask = ImageOps.exif_transpose(_opened(path)[0]).convert("L")
    painted = Image.new("RGBA", mask.size, (0, 0, 0, 255))
    painted.putalpha(ImageOps.invert(mask))
    return "mask.png", _png(painted), "image/png"


def mask_url(path: str) -> str:
    """A mask as a data URL: a PNG of grey values, white where it is painted. DataError: as `mask_file`."""
    from PIL import ImageOps

    png = _png(ImageOps.exif_transpose(_opened(path)[0]).convert("L"))
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _upright_size(path: str) -> tuple[int, int]:
    from PIL import Image

    try:
        with Image.open(path) as image:
            turned = image.getexif().get(0x0112, 1) >= 5
            return image.size[::-1] if turned else image.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} cannot be read as an image: {error}") from None


def _opened(path: str) -> tuple[Image, bytes]:
    from PIL import Image

    try:
        data = Path(path).read_bytes()
        image = Image.open(io.BytesIO(data))
        image.load()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} cannot be read as an image: {error}") from None
    return image, data


def _png(image: Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()
