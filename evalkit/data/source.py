"""Readers of images that exist: a folder of files, an array, an .npz. All are a `Source`, as a `SampleSet` is.

A source's digest is that of its content (the files' sha256s in order), never of a name or a path. Whatever is read is
compared with the sha256 that was recorded for it, so that a file that changes under a run is never scored silently.
"""

from __future__ import annotations

import functools
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, Self

from evalkit.data import codec
from evalkit.data.containers.folder import list_files
from evalkit.data.remote import Place
from evalkit.data.scan import EXTENSIONS, Choose, FileRecord, find_classes, find_prompts, folder_of, read_pool, scan
from evalkit.errors import ConfigError, DataError, nearest
from evalkit.utils.files import sha256_bytes

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# Below this many bytes a file, decoding is mostly Python and threads only wait for the GIL (32x32 PNGs: 20 % slower).
THREADED_FROM = 16_384


class Source(Protocol):
    """A set of images in a fixed order, however it is stored."""

    @property
    def name(self) -> str:
        """What messages call it."""
        ...

    def __len__(self) -> int: ...

    @property
    def digest(self) -> str:
        """sha256 of the content; cheap the second time; no torch."""
        ...

    def read(self, indices: range) -> list[NDArray[np.uint8]]:
        """Images u8 [H,W,3], verified against what was recorded of them; `DataError` names the file that is not."""
        ...

    def location(self, index: int) -> str:
        """Where an image lies, for people and reports: a file's absolute path, or NAME[index] where it has no file."""
        ...

    @property
    def prompts(self) -> Sequence[str | None]:
        """One text an image; none where it was not asked for by text."""
        ...

    @property
    def warnings(self) -> Mapping[str, int]:
        """Images by kind of warning ("blanked", "prompt_truncated", "exif_rotated", "alpha_dropped", ...)."""
        ...


def content_digest(sha256s: Iterable[str]) -> str:
    """The digest of a sequence of files, from their sha256s in order."""
    return sha256_bytes("\n".join(sha256s).encode())


def read_verified(files: Sequence[tuple[Path, str]], remedy: str) -> list[NDArray[np.uint8]]:
    """Reads and decodes files given with their sha256, several at a time where that is faster.

    Raises:
        DataError: a file is missing, changed or damaged; the message names it and ends with `remedy`.
    """
    loads = [(str(path), sha256, path.read_bytes) for path, sha256 in files]
    return decode_verified(loads, remedy, threaded=bool(files) and _size(files[0][0]) >= THREADED_FROM)


def decode_verified(
    items: Sequence[tuple[str, str, Callable[[], bytes]]], remedy: str, *, threaded: bool
) -> list[NDArray[np.uint8]]:
    """As `read_verified`, of anything that gives bytes: what errors call it, its sha256, and what reads it."""

    def read(item: tuple[str, str, Callable[[], bytes]]) -> NDArray[np.uint8]:
        name, expected, load = item
        try:
            data = load()
        except OSError as error:
            raise DataError(f"{name}: {error.strerror or error}: {remedy}") from error
        if sha256_bytes(data) != expected:
            raise DataError(f"{name}: altered or half written (its sha256 is not the recorded one): {remedy}")
        return codec.decode(data, name)

    if threaded and len(items) > 1 and (os.cpu_count() or 1) > 1:
        return list(read_pool().map(read, items))
    return [read(item) for item in items]


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0  # reading it gives the error


def keep_whole(
    where: Place, found: Sequence[tuple[str, FileRecord]], on_error: str, *, mixed_sizes: bool
) -> tuple[list[tuple[str, FileRecord]], tuple[str, ...]]:
    """The images that can be read, and the names of those that are left out (`on_error="skip"`).

    Raises:
        DataError: one cannot be read (`on_error="refuse"`), none can, or sizes differ (without `mixed_sizes`).
    """
    broken = [(name, record.error) for name, record in found if record.error]
    if broken and on_error == "refuse":
        more = f" ({len(broken) - 1} more like it)" if len(broken) > 1 else ""
        raise DataError(f"{broken[0][1]}{more}: mend or remove it, or leave broken images out with on_error=skip")
    kept = [(name, record) for name, record in found if not record.error]
    if not kept:
        raise DataError(f"{where}: none of its {len(found)} images can be read; the first: {broken[0][1]}")
    if not mixed_sizes:
        check_sizes(where, kept)
    return kept, tuple(name for name, _ in broken)


@dataclass(frozen=True)
class FolderImages:
    """The images of a folder, sorted by relative path (Python's order of the posix paths).

    Attributes:
        folder: where they are.
        files: their names in it.
        records: what is known of each.
        prompts: one text an image, or none.
        skipped: broken files that were left out.
        by_folder: whether an image's class is the folder that it lies in.
    """

    folder: Place
    files: tuple[str, ...]
    records: tuple[FileRecord, ...]
    prompts: tuple[str | None, ...]
    skipped: tuple[str, ...] = ()
    by_folder: bool = False

    @classmethod
    def open(
        cls,
        folder: Path,
        *,
        recursive: bool = True,
        prompts: str | None = "auto",
        on_error: Literal["refuse", "skip"] = "refuse",
        mixed_sizes: bool = False,
        extensions: Sequence[str] = EXTENSIONS,
        choose: Choose = list,
        cache: Path | None = None,
    ) -> FolderImages:
        """Scans a folder: the digest and the header of every file.

        Args:
            folder: hidden files and folders are left out; links are followed. Of a cell's folder in a store the
                finished shards are read, each index once.
            recursive: whether folders inside it count.
            prompts: "auto" (metadata.jsonl or .csv in the folder of the images or above, else a .txt beside each
                image, else what the PNGs say themselves, else none), None, "sidecar", or a metadata file relative to
                the folder.
            on_error: "skip" decodes every file once, leaves broken ones out and counts them ("skipped"); "refuse"
                finds a broken header at once and damage behind it when the image is read.
            mixed_sizes: whether images of different sizes are accepted.
            extensions: of the files that count, in any case.
            choose: which of them are read, and in which order; the others are not looked at.
            cache: a folder that keeps the scan for the next process (it must not lie below `folder`).

        Raises:
            ConfigError: no such folder, no images in it, an option has an unknown value.
            DataError: an image is broken, sizes differ, metadata names a file that is not there.
        """
        if on_error not in ("refuse", "skip"):
            raise ConfigError(f"on_error={on_error!r}: {nearest(str(on_error), ('refuse', 'skip'))}")
        files = choose(list_files(folder, extensions, recursive=recursive))
        records = scan(folder, files, decode=on_error == "skip", cache=cache)
        kept, broken = keep_whole(folder, list(zip(files, records, strict=True)), on_error, mixed_sizes=mixed_sizes)
        names = tuple(name for name, _ in kept)
        whole = tuple(record for _, record in kept)
        return cls(folder, names, whole, find_prompts(folder, names, prompts, whole), broken)

    @property
    def name(self) -> str:
        return str(self.folder)

    def __len__(self) -> int:
        return len(self.files)

    @functools.cached_property
    def digest(self) -> str:
        return content_digest(record.sha256 for record in self.records)

    def read(self, indices: range) -> list[NDArray[np.uint8]]:
        assert isinstance(self.folder, Path)
        files = [(self.folder / self.files[i], self.records[i].sha256) for i in indices]
        return read_verified(files, "mend or remove it and start again (on_error=skip leaves broken images out)")

    def location(self, index: int) -> str:
        return str((self.folder / self.files[index]).absolute())

    @property
    def categories(self) -> Sequence[str | None]:
        """The class of each image as text, or none."""
        if self.by_folder:
            parents = map(folder_of, self.files)
            return [None if parent == "." else parent for parent in parents]
        return self._classes()

    def _classes(self) -> Sequence[str | None]:
        """What the files beside the images, or a table's columns, say of them."""
        found = find_classes(self.folder, self.files) if isinstance(self.folder, Path) else {}
        return [found.get(name) for name in self.files]

    @property
    def warnings(self) -> Mapping[str, int]:
        counts = Counter(note for record in self.records for note in record.notes)
        return {**counts, "skipped": len(self.skipped)} if self.skipped else dict(counts)

    def head(self, num_samples: int | None) -> Self:
        """The first `num_samples` images (none: all).

        Raises:
            ConfigError: there are fewer.
        """
        if num_samples is None or num_samples == len(self):
            return self
        check_count(self.name, len(self), num_samples)
        return self.take(range(num_samples))

    def take(self, indices: Sequence[int]) -> Self:
        """Some of the images, in this order."""
        return replace(
            self,
            files=tuple(self.files[i] for i in indices),
            records=tuple(self.records[i] for i in indices),
            prompts=tuple(self.prompts[i] for i in indices),
        )


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def check_sizes(folder: Place, kept: Sequence[tuple[str, FileRecord]]) -> None:
    """Raises DataError where they differ, naming two."""
    first_name, first = kept[0]
    for name, record in kept:
        if (record.width, record.height) != (first.width, first.height):
            raise DataError(
                f"{folder}: images of different sizes: {first_name} is {first.width}x{first.height}, {name} is "
                f"{record.width}x{record.height}: resize them, or accept it with mixed_sizes=true"
            )


def check_count(name: str, there: int, asked: int) -> None:
    if not 1 <= asked <= there:
        raise ConfigError(f"{name}: num_samples={asked}, but there are {there} images: give 1 to {there}, or null")
