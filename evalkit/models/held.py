"""Images that this process holds, as a model like any other: in memory (`evalkit.evaluate`), or opened already."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from evalkit.data.arrays import ArrayImages
from evalkit.data.held import find
from evalkit.data.source import Source, check_count
from evalkit.models.base import ExistingImages


class HeldImages(ExistingImages):
    """Images that are in memory.

    Args:
        digest: of the images and their prompts, while they are held (`evalkit.data.held`).
        name: tells the same images apart that are given twice.
    """

    def __init__(self, digest: str, name: str = "") -> None:
        self._digest, self._name, self._images = digest, name, find(digest)

    def check(self, *, fetch: bool = True) -> None:
        """There is nothing to look at: they are there."""

    def identity(self) -> dict[str, Any]:
        return {"memory": self._digest, "name": self._name}

    def num_available(self) -> int:
        return len(self._images)

    def open(self, num_samples: int | None = None, *, cache: Path | None = None) -> ArrayImages:
        """The first `num_samples` images (none: all). ConfigError where there are fewer."""
        return self._images.head(num_samples)


class OpenedSource(ExistingImages):
    """A source that was opened elsewhere: the real images of `floor`."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def check(self, *, fetch: bool = True) -> None:
        """There is nothing to look at: they are there."""

    def identity(self) -> dict[str, Any]:
        return {"source": self._source.digest}

    def num_available(self) -> int:
        return len(self._source)

    def open(self, num_samples: int | None = None, *, cache: Path | None = None) -> Source:
        """The first `num_samples` images (none: all). ConfigError where there are fewer."""
        if num_samples is None or num_samples == len(self._source):
            return self._source
        check_count(self._source.name, len(self._source), num_samples)
        return self._source.head(num_samples)  # type: ignore[attr-defined, no-any-return]
