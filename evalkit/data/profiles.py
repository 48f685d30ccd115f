"""Colour profiles (ICC) of image files: what they are called, and pixels converted to sRGB by them.

Other evaluators ignore them, and so does evalkit unless it is asked (`profiles=srgb`): the numbers of a file in Display
P3 or Adobe RGB are then scored as if they were sRGB's, which is duller than a viewer shows it.
"""

from __future__ import annotations

import functools
import io
from typing import TYPE_CHECKING, Any

from evalkit.utils.text import one_line

if TYPE_CHECKING:
    from PIL.Image import Image

CHOICES = ("ignore", "srgb")
CONVERSION = "to sRGB, relative colorimetric, black point compensated (LittleCMS)"  # in protocols and digests
MAX_BYTES = 16 << 20  # of a profile; those of presses have up to 4 MiB
ALIKE = 3  # levels: a profile that changes no colour by more is sRGB under another name
_STEPS = (0, 51, 102, 153, 204, 255)  # of each channel of the colours that are looked at
_MODES = {"GRAY": "L", "RGB ": "RGB", "CMYK": "CMYK"}  # Pillow's mode of a profile's colours


def profile_name(image: Image) -> str | None:
    """What an image's profile is called; none where it has none, or one that is sRGB in effect."""
    data = image.info.get("icc_profile")
    return _name(data, _colours(image)) if isinstance(data, bytes) and data else None


def to_srgb(image: Image) -> Image:
    """An image whose profile has a name (`profile_name`) in sRGB, of mode RGB; transparency is dropped.

    Raises:
        ValueError: the profile is damaged, or of other colours than the image.
    """
    data, mode = image.info["icc_profile"], _colours(image)
    if image.mode != mode:
        if image.mode in ("P", "PA") and image.has_transparency_data:
            image = image.convert("RGBA")  # by way of RGBA, else Pillow warns about what is dropped
        image = image.convert(mode)
    try:
        converted: Image = _transform(data, mode).apply(image)
    except Exception as error:  # PyCMSError, OSError, or what the file makes of them
        raise ValueError(f"its colour profile cannot be applied ({one_line(error)}): profiles=ignore") from error
    return converted


def _colours(image: Image) -> str:
    """The mode whose colours an image's are: "L", "RGB" or "CMYK"."""
    if image.mode == "CMYK":
        return "CMYK"
    return "L" if image.mode in ("1", "L", "LA", "La", "I") or image.mode.startswith("I;") else "RGB"


@functools.lru_cache(maxsize=64)  # few differ
def _transform(data: bytes, mode: str) -> Any:
    from PIL import ImageCms

    if len(data) > MAX_BYTES:
        raise ValueError(f"{len(data):,} bytes (limit {MAX_BYTES:,})")
    profile = ImageCms.ImageCmsProfile(io.BytesIO(data))
    space = profile.profile.xcolor_space
    if _MODES.get(space) != mode:
        raise ValueError(f"a profile of {space.strip()} in an image of {mode}")
    return ImageCms.buildTransform(
        profile,
        ImageCms.createProfile("sRGB"),
        mode,
        "RGB",
        ImageCms.Intent.RELATIVE_COLORIMETRIC,
        ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )


@functools.lru_cache(maxsize=256)
def _name(data: bytes, mode: str) -> str | None:
    import numpy as np
    from PIL import Image

    try:
        from PIL import ImageCms
    except ImportError:
        return "unknown: Pillow has no LittleCMS here"
    try:
        transform = _transform(data, mode)
        if mode != "CMYK":
            axes = np.meshgrid(*[np.array(_STEPS, np.uint8)] * len(mode), indexing="ij")
            grid = np.stack(axes, axis=-1).reshape(1, -1, len(mode))  # u8 [1,C,3], or [1,C,1]
            colours = Image.fromarray(grid[..., 0] if mode == "L" else grid)
            shown = np.asarray(transform.apply(colours), np.int16)
            if np.abs(shown - np.asarray(colours.convert("RGB"), np.int16)).max() <= ALIKE:
                return None
        return one_line(ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(data))), 80) or "no name"
    except Exception as error:  # LittleCMS says of most that it cannot open them
        return f"damaged: {one_line(error, 60)}"
