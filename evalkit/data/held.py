"""Images of this process's memory, by their content: a configuration names them by a digest, and no file holds them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from evalkit.data.arrays import ArrayImages
from evalkit.data.reference import Reference
from evalkit.errors import ConfigError
from evalkit.utils.files import sha256_json

DIGITS = 20  # hex digits of a set's digest

_held: dict[str, list[ArrayImages]] = {}  # once per call that holds them


@contextmanager
def holding() -> Iterator[Callable[[ArrayImages], str]]:
    """Holds what its function is given, and lets go of it at the end; the function returns the digest to ask by."""
    mine: list[str] = []

    def hold(images: ArrayImages) -> str:
        digest = sha256_json([images.digest, list(images.prompts)])[:DIGITS]
        _held.setdefault(digest, []).append(images)
        mine.append(digest)
        return digest

    try:
        yield hold
    finally:
        for digest in mine:
            _held[digest].pop()
            if not _held[digest]:
                del _held[digest]


def find(digest: str) -> ArrayImages:
    """What is held. ConfigError where it is not: another process held it, or the call is over."""
    if digest not in _held:
        raise ConfigError(
            f"the images {digest} were in the memory of a call of evalkit.evaluate, which is over: call it again"
        )
    return _held[digest][0]


class HeldReference(Reference):
    """Reference images that are in memory.

    Args:
        digest: of the images, while they are held.
    """

    def __init__(self, digest: str) -> None:
        self._images = find(digest)

    def open(self, *, cache: Path | None = None) -> ArrayImages:
        return self._images
