"""Whether a set's files still agree with their recorded checksums."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from evalkit.utils.files import sha256_file

if TYPE_CHECKING:
    from evalkit.data.source import Headers
    from evalkit.lint.cache import Stamp

LOSSY = frozenset({"JPEG", "MPO", "WEBP", "JPEG2000", "AVIF"})


def changed(headers: Headers, before: Sequence[Stamp], now: Sequence[Stamp]) -> list[int]:
    """Images whose file is missing or not the recorded one; only files whose stamp changed are read.

    Args:
        headers: of a set whose files were recorded when they were made (`Headers.made`).
        before, now: the files' stamps when they last agreed, and as they are.
    """
    bad = []
    for i, stamp in enumerate(now):
        if i < len(before) and list(before[i]) == stamp:
            continue
        try:
            same = sha256_file(headers.made[i]) == headers.sha256s[i]
        except OSError:
            same = False
        if not same:
            bad.append(i)
    return bad
