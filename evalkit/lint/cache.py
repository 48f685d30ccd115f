"""What was measured of a set's pixels, stored by their content so that a finished run decodes nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from evalkit.errors import DataError, StoreError
from evalkit.utils.code import module_digest
from evalkit.utils.json_files import get_checked, put_checked

if TYPE_CHECKING:
    from evalkit.utils.blobs import Blobs

NAME_DIGITS = 20  # of a set's digest in its file's name


@dataclass(frozen=True)
class Measured:
    """Plain JSON values. Images are named by their index in the set.

    Attributes:
        count: images in the set.
        looked: how many of them were decoded.
        pixels: one digest per image of its size and pixels; "" where it was not decoded.
        sizes: [width, height, images] of those decoded.
        lowest, highest: of all values in images that are not of one colour.
        zeros: share of values that are 0 in these.
        grey: images whose three channels are equal.
        flat: images of one colour that is not black.
        black: images that are black all over.
        tiny: images in which no value is above 2, but not all are 0.
        enlarged: [index, factor] of images that were enlarged from smaller ones.
        near: [index, index]: an image and the first one that shows the same picture.
    """

    count: int
    looked: int
    pixels: Sequence[str]
    sizes: Sequence[Sequence[int]]
    lowest: int
    highest: int
    zeros: float
    grey: int
    flat: Sequence[int]
    black: Sequence[int]
    tiny: Sequence[int]
    enlarged: Sequence[Sequence[float]]
    near: Sequence[Sequence[int]]


@dataclass(frozen=True)
class CacheEntry:
    """What was measured, and the stamps (`Recorded.stamps`) of when the files last agreed with their checksums."""

    measured: Measured
    stamps: Sequence[str]


def load(cache: Blobs, digest: str) -> CacheEntry | None:
    """The entry of a set; none where there is none, or where it is broken, of another set or of another version."""
    try:
        data = get_checked(cache, file_name(digest))
        if data["about"] != _about(digest):
            return None
        return CacheEntry(Measured(**data["measured"]), list(data["stamps"]))
    except (OSError, DataError, LookupError, TypeError):
        return None


def save(cache: Blobs, digest: str, entry: CacheEntry) -> None:
    """Writes an entry; where the store is read-only, the next run measures again."""
    data = {"about": _about(digest), "stamps": list(entry.stamps), "measured": vars(entry.measured)}
    with contextlib.suppress(StoreError):
        put_checked(cache, file_name(digest), data)


def file_name(digest: str) -> str:
    """The file of what was measured of a set, or of two."""
    return f"{digest[:NAME_DIGITS]}.json"


def _about(digest: str) -> list[str]:
    """Whose entry it is, and what measured it."""
    return [digest, module_digest("evalkit.data.codec", "evalkit.lint.pixels", "evalkit.lint.upscaling")]
