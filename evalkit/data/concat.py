"""Several archives, tables or folders as one set: `data/{00000..00009}.tar`, `train-*.parquet`, in natural order."""

from __future__ import annotations

import glob
import itertools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from evalkit.data.remote import Place, Remote
from evalkit.errors import ConfigError

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
    kind = type(place)
    parts = [part for name in written for part in (_matching(kind(name)) if wild else [kind(name)])]
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


def _matching(pattern: Place) -> list[Place]:
    parts: Sequence[Place]
    if isinstance(pattern, Remote):
        parts = pattern.glob()
    else:
        parts = [Path(name) for name in glob.glob(str(pattern), recursive=True)]  # noqa: PTH207 (it may be absolute)
    return sorted(parts, key=lambda part: natural_key(str(part)))
