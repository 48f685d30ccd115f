"""What was measured of a set's pixels, stored by their content so that a finished run decodes nothing."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.utils.files import sha256_file, sha256_json, write_json

if TYPE_CHECKING:
    from evalkit.data.source import Headers

VERSION = 1  # a change of what is measured, or how, remakes the cache
NAME_DIGITS = 20  # of a set's digest in its file's name

Stamp = list[int]  # size and mtime_ns of a file


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
    """The entry of a set; none where there is none, or where it is broken or of another version."""
    try:
        data = json.loads(_path(cache, digest).read_text(encoding="utf-8"))
        entry = CacheEntry(Measured(**data["measured"]), data["stamps"])
        return entry if data["check"] == _check(digest, entry) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def save(cache: Path, digest: str, entry: CacheEntry) -> None:
    """Writes an entry; where the store is read-only, the next run measures again."""
    data: dict[str, Any] = {"check": _check(digest, entry), "stamps": entry.stamps, "measured": vars(entry.measured)}
    with contextlib.suppress(OSError):
        write_json(_path(cache, digest), data)


def stamps(files: Sequence[Path]) -> list[Stamp]:
    """Size and mtime of each file; [-1, 0] where it is missing."""
    return [_stamp(file) for file in files]


def _stamp(file: Path) -> Stamp:
    try:
        stat = os.stat(file)  # noqa: PTH116 (done for every file of every run)
    except OSError:
        return [-1, 0]
    return [stat.st_size, stat.st_mtime_ns]


def changed(headers: Headers, before: Sequence[Stamp], now: Sequence[Stamp]) -> list[int]:
    """Images whose file is missing or not the recorded one; only files whose stamp changed are read.

    Args:
        headers: of a set whose files were recorded when they were made (`Headers.made`).
        before, now: the files' stamps when they last agreed, and as they are.
    """
    bad = []
    for i, stamp in enumerate(now):
        if i >= len(before) or list(before[i]) != stamp:
            try:
                same = sha256_file(headers.made[i]) == headers.sha256s[i]
            except OSError:
                same = False
            if not same:
                bad.append(i)
    return bad


def _path(cache: Path, digest: str) -> Path:
    return cache / f"{digest[:NAME_DIGITS]}.json"


def _check(digest: str, entry: CacheEntry) -> str:
    return sha256_json([VERSION, digest, vars(entry.measured), list(entry.stamps)])
