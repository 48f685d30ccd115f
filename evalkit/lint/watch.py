"""Measures images while others read them, so that the feature pass's decode serves the lint as well."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from evalkit.data.source import Headers, WithoutRecords
from evalkit.errors import DataError
from evalkit.lint.cache import CacheEntry, load, save
from evalkit.utils.blobs import Blobs, LocalBlobs

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from evalkit.data.source import Source
    from evalkit.lint.parts import Parts
    from evalkit.lint.pixels import PixelScan


class WatchedSource(WithoutRecords):
    """A `Source` that hands out another's images and measures them for the lint.

    Attributes:
        source: the images.
        scan: what was measured so far; none before the first read.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        self.scan: PixelScan | None = None
        self._settled = False
        self._lock = threading.Lock()  # `read` is called from several threads

    @property
    def name(self) -> str:
        return self.source.name

    def __len__(self) -> int:
        return len(self.source)

    @property
    def digest(self) -> str:
        return self.source.digest

    @property
    def chunks(self) -> Sequence[range]:
        return self.source.chunks

    def chunk_digest(self, chunk: range) -> str:
        return self.source.chunk_digest(chunk)

    @property
    def prompts(self) -> Sequence[str | None]:
        return self.source.prompts

    @property
    def categories(self) -> Sequence[str | None]:
        return self.source.categories

    @property
    def originals(self) -> Sequence[Path | None]:
        """The pictures that the images were edited from, where the source knows them (`SampleSet.originals`)."""
        known: Sequence[Path | None] = getattr(self.source, "originals", ())
        return known

    @property
    def moments(self) -> object:
        """Those that belong to the images (`evalkit.data.reference.ImagesAndMoments`); none elsewhere."""
        return getattr(self.source, "moments", None)

    @property
    def labelled(self) -> bool:
        """As of `ImagesAndMoments`."""
        return bool(getattr(self.source, "labelled", False))

    @property
    def class_ids(self) -> Sequence[int | None]:
        """The classes that the samples were asked for by, where the source knows them (`SampleSet.class_ids`)."""
        known: Sequence[int | None] = getattr(self.source, "class_ids", ())
        return known

    def headers(self) -> Headers:
        return self.source.headers()

    @property
    def warnings(self) -> Mapping[str, int]:
        return self.source.warnings

    def location(self, index: int) -> str:
        return self.source.location(index)

    def read(self, indices: range) -> list[NDArray[np.uint8]]:
        from evalkit.lint.pixels import PixelScan

        images = self.source.read(indices)
        with self._lock:
            if self._settled:
                return images
            if self.scan is None:
                self.scan = PixelScan(self.source, Counter(self.source.headers().sizes))
            scan = self.scan
        scan.add(indices, images)
        return images

    def settle(self) -> None:
        """Forgets what was measured, and measures no more."""
        with self._lock:
            self.scan, self._settled = None, True


class Watch:
    """The watched sources of a run.

    Args:
        cache: where the lint stores what it measured; sets that are known there are not measured again.
        rescan: whether generated files are read again though their stamps are those of then.
        parts: what workers measured; none: there are no workers.
    """

    def __init__(self, cache: Path | Blobs, *, rescan: bool = False, parts: Parts | None = None) -> None:
        self.cache: Blobs = LocalBlobs(cache) if isinstance(cache, Path) else cache
        self.parts = parts
        self.rescan = rescan
        self.watched: dict[str, WatchedSource] = {}  # by the source's digest
        self._entries: dict[str, CacheEntry | None] = {}

    def of(self, source: Source) -> Source:
        """The source, or one that is measured as it is read; of several sets of the same images the first one is.

        Each set stays itself: who compares cells must tell a cell that equals the baseline from the baseline.
        """
        try:
            digest = source.digest
        except (OSError, DataError):
            return source  # scoring says what is wrong with it
        if self.entry(digest) is not None:
            return source
        watched = self.watched.setdefault(digest, WatchedSource(source))
        return watched if watched.source is source else source

    def entry(self, digest: str) -> CacheEntry | None:
        """What was measured of a set in an earlier run; read once."""
        if digest not in self._entries:
            self._entries[digest] = load(self.cache, digest)
        return self._entries[digest]

    def keep(self, digest: str, entry: CacheEntry) -> None:
        """Writes what was measured of a set."""
        self._entries[digest] = entry
        save(self.cache, digest, entry)

    def settle(self, source: Source) -> None:
        """Puts away what was measured of a source that was read whole: its thumbnails take 3 kB per image, which of
        all cells at once would fill the memory. Another source is left to the lint."""
        watched = self.watched.get(source.digest)
        if self.rescan or watched is None or watched.scan is None or not watched.scan.is_whole:
            return
        made = source.headers().made
        measured, _ = watched.scan.finish()
        self.keep(source.digest, CacheEntry(measured, made.stamps() if made is not None else []))
        self.watched.pop(source.digest).settle()  # scoring holds it until the last cell is scored

    def scan_of(self, source: Source, sizes: Counter[tuple[int, int]]) -> PixelScan:
        """What is to be measured of a source, less what was measured already."""
        from evalkit.lint.pixels import PixelScan

        watched = self.watched.get(source.digest)
        scan = watched.scan if watched is not None and watched.scan is not None else PixelScan(source, sizes)
        if self.parts is not None and sizes:
            width, height = source.headers().sizes[0]
            scan.recall(self.parts, 3 * width * height)
        return scan
