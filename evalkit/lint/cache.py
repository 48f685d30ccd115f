"""What was measured of a set's pixels, stored by their content so that a finished run decodes nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from evalkit.errors import DataError
from evalkit.utils.code import module_digest
from evalkit.utils.files import Stamp, sha256_file, stamp_of_file
from evalkit.utils.json_files import read_checked, write_checked

if TYPE_CHECKING:
    from evalkit.data.source import Headers

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
    """What was measured, and the files' stamps when they last agreed with their checksums."""

    measured: Measured
    stamps: Sequence[Stamp]


def known(cache: Path, digest: str) -> bool:
    """Whether there is an entry of a set, be it broken."""
    return _path(cache, digest).is_file()


def load(cache: Path, digest: str) -> CacheEntry | None:
    """The entry of a set; none where there is none, or where it is broken, of another set or of another version."""
    try:
        data = read_checked(_path(cache, digest))
        if data["about"] != _about(digest):
            return None
        return CacheEntry(Measured(**data["measured"]), [tuple(stamp) for stamp in data["stamps"]])
    except (OSError, DataError, LookupError, TypeError):
        return None


def save(cache: Path, digest: str, entry: CacheEntry) -> None:
    """Writes an entry; where the store is read-only, the next run measures again."""
    stamps = [list(stamp) for stamp in entry.stamps]
    data = {"about": _about(digest), "stamps": stamps, "measured": vars(entry.measured)}
    with contextlib.suppress(OSError):
        write_checked(_path(cache, digest), data)


def stamps(files: Sequence[Path]) -> list[Stamp]:
    """What tells of each file whether it changed; a size of -1 where it is missing."""
    return [_stamp(file) for file in files]


def _stamp(file: Path) -> Stamp:
    try:
        return stamp_of_file(file)
    except OSError:
        return -1, 0, 0, 0


def changed(headers: Headers, before: Sequence[Stamp], now: Sequence[Stamp]) -> list[int]:
    """Images whose file is missing or not the recorded one; only files whose stamp changed are read.

    Args:
        headers: of a set whose files were recorded when they were made (`Headers.made`).
        before, now: the files' stamps when they last agreed, and as they are.
    """
    bad = []
    for i, stamp in enumerate(now):
        if i >= len(before) or before[i] != stamp:
            try:
                same = sha256_file(headers.made[i], anew=True) == headers.sha256s[i]
            except OSError:
                same = False
            if not same:
                bad.append(i)
    return bad


def _path(cache: Path, digest: str) -> Path:
    return cache / f"{digest[:NAME_DIGITS]}.json"


def _about(digest: str) -> list[str]:
    """Whose entry it is, and what measured it."""
    return [digest, module_digest("evalkit.data.codec", "evalkit.lint.pixels", "evalkit.lint.upscaling")]
