"""Several archives, tables or folders as one set: `data/{00000..00009}.tar`, `train-*.parquet`, in natural order."""

from __future__ import annotations

import bisect
import functools
import glob
import itertools
import re
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

from evalkit.data.remote import Place, Remote
from evalkit.data.source import FolderImages, check_sizes
from evalkit.errors import ConfigError, DataError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAX_PARTS = 100_000

_BRACES = re.compile(r"\{([^{}]*(?:,|\.\.)[^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """Sorts "frame2" before "frame10": runs of digits go by their value, before letters."""
    pieces = re.split(r"(\d+)", name)
    return [(0, int(piece), piece) if i % 2 else (1, 0, piece) for i, piece in enumerate(pieces) if piece]


def expand(place: Place) -> list[Place] | None:
    """The parts that a pattern stands for; none where it is no pattern.

    Braces give their parts in the order in which they are written, and all must be there; `*`, `?` and `[...]` (of a
    URL `*` alone) give what fits, in natural order. A path that exists as it is written is no pattern.

    Raises:
        ConfigError: nothing fits, or there are too many parts.
    """
    text = str(place)
    wild = "*" in text if isinstance(place, Remote) else glob.has_magic(text)
    if not (wild or _BRACES.search(text)) or (isinstance(place, Path) and place.exists()):
        return None
    written = list(itertools.islice(_braces(text), MAX_PARTS + 1))
    if len(written) > MAX_PARTS:
        raise ConfigError(f"{text}: stands for more than {MAX_PARTS:,} parts: check the pattern")
    parts = [part for name in written for part in (_fitting(place, name) if wild else [_again(place, name)])]
    if not parts:
        raise ConfigError(f"{text}: nothing fits this pattern: check the path")
    return parts


def _braces(text: str) -> Iterator[str]:
    match = _BRACES.search(text)
    if match is None:
        yield text
        return
    span = _RANGE.fullmatch(match[1])
    if span:
        first, last = int(span[1]), int(span[2])
        step = 1 if last >= first else -1
        words: Iterator[str] = (f"{n:0{len(span[1])}d}" for n in range(first, last + step, step))
    else:
        words = iter(match[1].split(","))
    for word in words:
        yield from _braces(text[: match.start()] + word + text[match.end() :])


def _fitting(place: Place, pattern: str) -> list[Place]:
    found: list[Place]
    if isinstance(place, Remote):
        found = list(Remote(pattern).glob())
    else:
        found = [Path(name) for name in glob.glob(pattern, recursive=True)]  # noqa: PTH207 (the pattern may be absolute)
    return sorted(found, key=lambda part: natural_key(str(part)))


def _again(place: Place, name: str) -> Place:
    return Remote(name) if isinstance(place, Remote) else Path(name)


@dataclass(frozen=True, eq=False)
class JoinedImages(FolderImages):
    """The images of several sources, one after another; `folder` is the pattern, `files` are their names in the parts.

    Attributes:
        parts: the sources.
        chosen: which of all their images, where some were taken.
    """

    parts: tuple[FolderImages, ...] = ()
    chosen: Sequence[int] | None = None

    @classmethod
    def join(cls, pattern: Place, parts: Sequence[FolderImages], *, mixed_sizes: bool) -> JoinedImages:
        """All of them. Raises DataError where sizes differ between parts (without `mixed_sizes`)."""
        if not mixed_sizes:
            check_sizes(pattern, [(f"{part.folder}: {part.files[0]}", part.records[0]) for part in parts])
        return cls(
            pattern,
            tuple(name for part in parts for name in part.files),
            tuple(record for part in parts for record in part.records),
            tuple(prompt for part in parts for prompt in part.prompts),
            tuple(name for part in parts for name in part.skipped),
            parts=tuple(parts),
        )

    @functools.cached_property
    def _starts(self) -> list[int]:
        return list(itertools.accumulate((len(part) for part in self.parts), initial=0))

    def _find(self, index: int) -> tuple[int, int]:
        """An image's part, and its index in it."""
        place = index if self.chosen is None else self.chosen[index]
        part = bisect.bisect_right(self._starts, place) - 1
        return part, place - self._starts[part]

    def read(self, indices: range) -> list[NDArray[np.uint8]]:
        images: list[NDArray[np.uint8]] = []
        part, start, stop = -1, 0, 0  # a run of images that lie one after another in one part
        for i in indices:
            at, index = self._find(i)
            if (at, index) != (part, stop):
                images += self.parts[part].read(range(start, stop)) if stop > start else []
                part, start = at, index
            stop = index + 1
        return images + (self.parts[part].read(range(start, stop)) if stop > start else [])

    def location(self, index: int) -> str:
        part, inner = self._find(index)
        return self.parts[part].location(inner)

    @property
    def categories(self) -> Sequence[str | None]:
        every = [category for part in self.parts for category in part.categories]
        return every if self.chosen is None else [every[i] for i in self.chosen]

    def take(self, indices: Sequence[int]) -> Self:
        chosen = array("L", indices if self.chosen is None else (self.chosen[i] for i in indices))
        return replace(super().take(indices), chosen=chosen)


def join_parts(pattern: Place, parts: Sequence[object], *, mixed_sizes: bool) -> JoinedImages:
    """`JoinedImages.join` of what was opened. Raises DataError where a part is an array: those hold no files."""
    kept = [part for part in parts if isinstance(part, FolderImages)]
    if len(kept) < len(parts):
        raise DataError(f"{pattern}: arrays (.npy, .npz) cannot be joined: give folders, .zip, .tar or .parquet files")
    return JoinedImages.join(pattern, kept, mixed_sizes=mixed_sizes)
