"""Colour profiles: named where they are not sRGB's, converted only where it is asked for, and then in the protocol."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from icc import D50, P3, cmyk_profile, grey_profile, rgb_profile
from pictures import pictures
from PIL import Image, ImageCms

from evalkit.data.codec import decode, inspect
from evalkit.data.reference import FolderReference
from evalkit.errors import ConfigError, DataError
from evalkit.metrics.frechet import FrechetDistance
from evalkit.models.folder import FolderModel
from evalkit.scoring import Against
from evalkit.scoring.protocol import make_protocol

COLOUR = (200, 30, 90)


def saved(image: Image.Image, profile: bytes | None, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **({"icc_profile": profile} if profile else {}))
    return buffer.getvalue()


def plain(mode: str, colour: tuple[int, ...] | int) -> Image.Image:
    return Image.new(mode, (4, 4), colour)


def by_hand(colour: tuple[int, ...]) -> np.ndarray:
    """A colour of the profile of `icc.P3` (gamma 2.2) in sRGB (IEC 61966-2-1), through XYZ on D50."""
    srgb_d50 = np.array(
        [[0.4360747, 0.3850649, 0.1430804], [0.2225045, 0.7168786, 0.0606169], [0.0139322, 0.0971045, 0.7141733]]
    )
    linear = np.linalg.solve(srgb_d50, P3 @ (np.array(colour) / 255) ** 2.2).clip(0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize("colour", [COLOUR, (10, 200, 30), (90, 90, 90), (255, 255, 255), (120, 130, 240)])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_wide_colours_are_converted_when_asked(mode: str, colour: tuple[int, int, int]) -> None:
    image = plain("RGBA", (*colour, 255)) if mode == "RGBA" else plain("RGB", colour)
    data = saved(image.quantize(4) if mode == "P" else image, rgb_profile())
    assert inspect(data).profile == "Display P3 by hand"
    assert decode(data)[0, 0].tolist() == list(colour)  # as other evaluators read it
    np.testing.assert_allclose(decode(data, srgb=True)[0, 0], by_hand(colour), atol=1.5)


def test_grey_and_press(tmp_path: Path) -> None:
    """Linear light 100/255 is 168 in sRGB; the press's table says that ink 100/255 gives L* = 100 (1 - 100/255)."""
    grey = saved(plain("L", 100), grey_profile())
    assert inspect(grey).profile == "Grey by hand"
    assert (decode(grey)[0, 0].tolist(), decode(grey, srgb=True)[0, 0].tolist()) == ([100] * 3, [168] * 3)
    press = saved(plain("CMYK", (100, 0, 0, 0)), cmyk_profile(), "TIFF")
    lightness = 100 * (1 - 100 / 255)
    luminance = ((lightness + 16) / 116) ** 3
    expected = 255 * (1.055 * luminance ** (1 / 2.4) - 0.055)
    assert (inspect(press).profile, inspect(press).notes) == ("Press by hand", ("cmyk",))
    assert decode(press)[0, 0].tolist() == [155, 255, 255]
    np.testing.assert_allclose(decode(press, srgb=True)[0, 0], expected, atol=1.5)
    assert D50[1] == 1.0


# sRGB's primaries on D50 (IEC 61966-2-1, adapted by Bradford), as `icc.P3` has them.
SRGB = np.array([[0.4361, 0.3851, 0.1431], [0.2225, 0.7169, 0.0606], [0.0139, 0.0971, 0.7142]])
ALIKE = {
    "Pillow's sRGB": ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
    "its primaries with gamma 2.2": rgb_profile("Fancy RGB", SRGB, gamma=2.2),
}


@pytest.mark.parametrize("name", ALIKE)
def test_what_is_srgb_in_effect_is_no_profile(name: str) -> None:
    """Whatever it is called: a profile counts where it changes a colour by more than 3 levels."""
    data = saved(plain("RGB", COLOUR), ALIKE[name])
    assert inspect(data).profile is None
    assert decode(data, srgb=True)[0, 0].tolist() == list(COLOUR)
    assert inspect(saved(plain("RGB", COLOUR), rgb_profile("sRGB?", SRGB, gamma=1.8))).profile == "sRGB?"


@pytest.mark.parametrize("profile", [b"no profile at all", rgb_profile()[:200], grey_profile(), cmyk_profile()])
def test_a_damaged_or_foreign_profile(profile: bytes) -> None:
    data = saved(plain("RGB", COLOUR), profile)
    assert str(inspect(data).profile).startswith("damaged: ")
    assert decode(data)[0, 0].tolist() == list(COLOUR)
    with pytest.raises(DataError, match=r"a\.png: .*its colour profile cannot be applied .*profiles=ignore"):
        decode(data, "a.png", srgb=True)


@pytest.fixture
def wide(tmp_path: Path) -> Path:
    folder = tmp_path / "wide"
    folder.mkdir()
    for i, pixels in enumerate(pictures(4)):
        (folder / f"{i}.png").write_bytes(saved(Image.fromarray(pixels), rgb_profile() if i < 3 else None))
    return folder


def test_conversion_is_told_by_digest_identity_and_protocol(wide: Path) -> None:
    as_they_are, converted = (FolderModel(wide, profiles=how).open() for how in ("ignore", "srgb"))  # type: ignore[arg-type]
    assert as_they_are.headers().profiles == ["Display P3 by hand"] * 3 + [None]
    assert as_they_are.digest != converted.digest
    changed = [(a != b).any() for a, b in zip(as_they_are.read(range(4)), converted.read(range(4)), strict=True)]
    assert changed == [True, True, True, False]
    assert converted.take([3]).digest == as_they_are.take([3]).digest  # the same pixels
    assert converted.chunk_digest(range(4)) == converted.digest != as_they_are.chunk_digest(range(4))
    assert converted.chunk_digest(range(3, 4)) == as_they_are.chunk_digest(range(3, 4))
    assert FolderModel(wide, profiles="srgb").identity() != FolderModel(wide).identity()

    def protocol(how: str) -> object:
        reference = FolderReference(wide, profiles=how).open()  # type: ignore[arg-type]
        metric = FrechetDistance(features="x/y")
        return make_protocol(metric, {"x": _Named()}, 4, Against(reference), {})["reference"]  # type: ignore[dict-item]

    assert "to sRGB, relative colorimetric" in str(protocol("srgb"))
    assert "profiles" not in str(protocol("ignore"))


class _Named:
    def identity(self) -> dict[str, str]:
        return {}


def test_another_word_is_refused(wide: Path) -> None:
    with pytest.raises(ConfigError, match=r"profiles='SRGB': Did you mean 'srgb'\?|profiles='SRGB': Choices"):
        FolderModel(wide, profiles="SRGB")  # type: ignore[arg-type]


@pytest.mark.parametrize("quality", [1, 10, 49, 50, 75, 87, 95, 100])
def test_a_jpegs_quality(quality: int) -> None:
    buffer = io.BytesIO()
    Image.fromarray(pictures(1)[0]).save(buffer, "JPEG", quality=quality)
    assert inspect(buffer.getvalue()).quality == quality
    assert inspect(saved(plain("RGB", COLOUR), None)).quality is None
