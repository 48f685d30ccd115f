"""A shard that is there: a folder of PNGs, or one stored zip of them; how its images and lines are read.

Of either, metadata.jsonl has one line per image. The images of a zip are read by ranges: they lie one after another, so
that a block of them is one request.
"""

from __future__ import annotations

import functools
import io
import threading
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from evalkit.data.shard_format import METADATA
from evalkit.errors import DataError, StoreError
from evalkit.samples.rows import read_rows
from evalkit.utils.blobs import Blobs
from evalkit.utils.files import read_file, sha256_bytes, sha256_file, sha256_json, stamp_of_file

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

STAMP_DIGITS = 20
_TAIL, _TAIL_PER_IMAGE = 65_536, 1_500  # bytes at a zip's end that hold its list and metadata, as a rule
_HEADER = 30  # bytes before a member's name in a zip
_GAP = 1 << 20  # bytes between two images that are read along rather than asked for apart

Load = tuple[str, Callable[[], bytes]]
"""What errors call an image, and what reads its file (OSError: it cannot be)."""


def image_name(index: int) -> str:
    """The file of a sample in its shard."""
    return f"{index:06d}.png"


class Shard(ABC):
    """A shard that is there: the samples [start, start + count)."""

    start: int
    count: int
    kind: ClassVar[str]  # what people call it

    @property
    @abstractmethod
    def where(self) -> str:
        """Its path or URL."""

    @abstractmethod
    def check(self) -> None:
        """StoreError where it lacks images or metadata. Cheap: content is verified when it is read."""

    @abstractmethod
    def text(self) -> str:
        """Its metadata.jsonl. OSError, ValueError, DataError: it cannot be read."""

    @abstractmethod
    def loads(self, indices: Sequence[int]) -> list[Load]:
        """What reads the files of some of its samples."""

    @abstractmethod
    def mark(self) -> list[int]:
        """What changes when the shard or its metadata is replaced: a look or two. OSError: it is gone."""

    @abstractmethod
    def stamp(self, indices: Sequence[int]) -> str:
        """What changes when the file of one of some samples does, without reading them; none: when the shard does."""

    def same(self, index: int, sha256: str) -> bool:
        """Whether a sample's file is the one that was recorded."""
        try:
            return sha256_bytes(self.loads([index])[0][1]()) == sha256
        except (OSError, DataError):
            return False

    def location(self, index: int) -> str:
        return f"{self.where}/{image_name(index)}"

    @property
    def remedy(self) -> str:
        return f"delete this shard's {self.kind}, and the next run makes it again"

    def rows(self, key: str) -> list[dict[str, Any]]:
        """Its lines, of the cell with a key; StoreError where they are damaged."""
        try:
            rows = read_rows(self.text(), key)
        except DataError as error:
            raise self.damaged(f"{METADATA}: {error}") from error
        except (OSError, ValueError) as error:
            raise self.damaged(f"{METADATA} cannot be read: {error}") from error
        if len(rows) != self.count:
            raise self.damaged(f"{METADATA}: {len(rows)} lines for {self.count} samples")
        if [row["index"] for row in rows] != list(range(self.start, self.start + self.count)):
            what = f"the samples {self.start} to {self.start + self.count - 1}"
            raise self.damaged(f"{METADATA} does not tell of {what}")
        return rows

    def damaged(self, what: str) -> StoreError:
        return StoreError(f"{self.where} is damaged: {what}: delete this {self.kind}, and the next run makes it again")


@dataclass(frozen=True)
class FolderShard(Shard):
    """A folder of PNGs and metadata.jsonl."""

    path: Path
    start: int
    count: int
    kind: ClassVar[str] = "folder"

    @property
    def where(self) -> str:
        return str(self.path)

    def check(self) -> None:
        names = {path.name for path in self.path.iterdir()}
        if METADATA not in names:
            raise self.damaged(f"{METADATA} is missing")
        images = sum(name.endswith(".png") for name in names)
        if images != self.count and not self._never_kept(names):
            raise self.damaged(f"{images} images where {self.count} were made")

    def _never_kept(self, names: set[str]) -> bool:
        """Whether the images that are not there are those that were not to be kept (`keep_images`)."""
        try:
            rows = read_rows(self.text(), None)
        except (OSError, ValueError, DataError):
            return False
        return all(row.get("kept", True) == (row["file_name"] in names) for row in rows)

    def text(self) -> str:
        return (self.path / METADATA).read_text(encoding="utf-8")

    def loads(self, indices: Sequence[int]) -> list[Load]:
        files = [self.path / image_name(index) for index in indices]
        return [(str(file), functools.partial(read_file, file)) for file in files]

    def mark(self) -> list[int]:
        # A file that comes or goes changes the folder's time; one that is written over, its own.
        folder, metadata = stamp_of_file(self.path), stamp_of_file(self.path / METADATA)
        return [folder[1], *metadata[:3]]

    def stamp(self, indices: Sequence[int]) -> str:
        if indices:
            return sha256_json([self._stamp(index) for index in indices])[:STAMP_DIGITS]
        try:
            return sha256_json(self.mark())[:STAMP_DIGITS]
        except OSError:
            return ""

    def _stamp(self, index: int) -> Any:
        try:
            return stamp_of_file(self.path / image_name(index))
        except OSError:
            return None

    def same(self, index: int, sha256: str) -> bool:
        try:
            return sha256_file(self.path / image_name(index), anew=True) == sha256
        except OSError:
            return False

    def location(self, index: int) -> str:
        return str((self.path / image_name(index)).absolute())


@dataclass(frozen=True, eq=False)
class ZipShard(Shard):
    """One stored zip: images that are not compressed again, one after another, then metadata.jsonl.

    Attributes:
        blobs: what holds it.
        key: in `blobs`.
        size: its bytes, from a listing.
        places: first byte and length of each sample's file, i64 [count,2] (0, 0: it was not kept); none: they are read
            from the zip when they are needed.
    """

    blobs: Blobs
    key: str
    size: int
    start: int
    count: int
    places: NDArray[np.int64] | None = field(default=None, repr=False)
    kind: ClassVar[str] = "file"

    @property
    def where(self) -> str:
        return f"{self.blobs.where}/{self.key}"

    def check(self) -> None:
        """Nothing to do: it was put there whole, or not at all."""

    def text(self) -> str:
        return self._end[1]

    @functools.cached_property
    def placed(self) -> NDArray[np.int64]:
        """`places`, read where they are not known."""
        return self._end[0] if self.places is None else self.places

    @property
    def _end(self) -> tuple[NDArray[np.int64], str]:
        """The images' places, and metadata.jsonl: one request as a rule, of the zip's end."""
        length = min(self.size, _TAIL + self.count * _TAIL_PER_IMAGE)
        while True:
            read = _read_end(self.blobs.get(self.key, self.size - length, self.size), self.size)
            if read is not None:
                break
            if length == self.size:
                raise DataError(f"it is no whole zip with {METADATA}")
            length = self.size
        import numpy as np

        members, text = read
        places = [members.get(image_name(index), (0, 0)) for index in range(self.start, self.start + self.count)]
        return np.array(places, np.int64).reshape(-1, 2), text

    def loads(self, indices: Sequence[int]) -> list[Load]:
        places = [tuple(self.placed[index - self.start].tolist()) for index in indices]
        spans = _Spans(self.blobs, self.key, places)
        labels = [f"{self.where}/{image_name(index)}" for index in indices]
        return [(label, functools.partial(spans.read, *place)) for label, place in zip(labels, places, strict=True)]

    def mark(self) -> list[int]:
        return [self.size]

    def stamp(self, indices: Sequence[int]) -> str:
        return f"zip {self.size}"


def _read_end(data: bytes, size: int) -> tuple[dict[str, tuple[int, int]], str] | None:
    """Of a zip's last bytes: where its members' bytes are in the whole, and metadata.jsonl; none: it takes more."""
    before = size - len(data)  # zipfile takes what is missing for a shift of all places, which may become negative
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as opened:
            found = {info.filename: info for info in opened.infolist()}
            if METADATA not in found or found[METADATA].header_offset < 0:
                return None
            text = opened.read(METADATA).decode()
    except (zipfile.BadZipFile, ValueError, EOFError, NotImplementedError):
        return None
    return {
        name: (info.header_offset + before + _HEADER + len(name.encode()), info.file_size)
        for name, info in found.items()
        if not info.compress_type
    }, text


class _Spans:
    """Reads parts of an object: those that lie near each other in one request, once, from any thread."""

    def __init__(self, blobs: Blobs, key: str, places: Sequence[tuple[int, ...]]) -> None:
        self.blobs, self.key = blobs, key
        self._lock = threading.Lock()
        self._read: dict[int, bytes] = {}  # by the span's first byte
        self._spans: list[tuple[int, int]] = []
        for start, length in sorted((start, length) for start, length in places if length):
            if self._spans and start - self._spans[-1][1] <= _GAP:
                self._spans[-1] = (self._spans[-1][0], max(self._spans[-1][1], start + length))
            else:
                self._spans.append((start, start + length))

    def read(self, start: int, length: int) -> bytes:
        if not length:
            raise FileNotFoundError(2, "there is no such image in the zip", self.key)
        first, stop = next(span for span in self._spans if span[0] <= start < span[1])
        with self._lock:
            if first not in self._read:
                self._read[first] = self.blobs.get(self.key, first, stop)
        return self._read[first][start - first : start - first + length]
