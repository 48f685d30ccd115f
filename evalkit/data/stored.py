"""Images in a folder, an archive or a table, here or behind a URL: one source for them all."""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from evalkit.data.containers.base import Container
from evalkit.data.left_out import LeftOut, describe
from evalkit.data.profiles import CONVERSION
from evalkit.data.records import FileRecord, ReadOptions
from evalkit.data.remote import Place
from evalkit.data.scan import scan
from evalkit.data.source import (
    AlteredError,
    Headers,
    Source,
    WithoutRecords,
    check_count,
    content_digest,
    decode_verified,
    kinds_of,
)
from evalkit.errors import DataError
from evalkit.utils.files import read_file, sha256_json

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)  # slots: there may be a million
class StoredImage:
    """One image.

    Attributes:
        container: what holds it.
        name: in the container.
        number: of the images that were opened in the container.
        record: what is known of it.
        prompt, category: what the files next to it, or a table's columns, say of it; or none.
    """

    container: Container
    name: str
    number: int
    record: FileRecord
    prompt: str | None
    category: str | None


@dataclass(frozen=True, eq=False)
class StoredImages(WithoutRecords):
    """Images in containers, in a fixed order. It is a `Source`.

    Attributes:
        place: a folder, archive or table, or the pattern that stands for several.
        images: all of them.
        skipped: broken images that were left out, as errors call them.
        left_out: pictures of kinds that are not read, and masks (`evalkit.data.left_out`).
        srgb: whether colours are converted to sRGB by the files' profiles.
    """

    place: Place
    images: tuple[StoredImage, ...]
    skipped: tuple[str, ...] = ()
    left_out: LeftOut = field(default_factory=dict)
    srgb: bool = False

    @property
    def name(self) -> str:
        return str(self.place)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def files(self) -> tuple[str, ...]:
        """The images' names in what holds them."""
        return tuple(image.name for image in self.images)

    @property
    def records(self) -> tuple[FileRecord, ...]:
        return tuple(image.record for image in self.images)

    @functools.cached_property
    def prompts(self) -> Sequence[str | None]:
        return tuple(image.prompt for image in self.images)

    @property
    def categories(self) -> Sequence[str | None]:
        return [image.category for image in self.images]

    @functools.cached_property
    def digest(self) -> str:
        return self._digest(self.images)

    def chunk_digest(self, chunk: range) -> str:
        return self._digest(self.images[chunk.start : chunk.stop])

    def _digest(self, images: Sequence[StoredImage]) -> str:
        digest = content_digest(image.record.sha256 for image in images)
        if self.conversion is None or all(image.record.profile is None for image in images):
            return digest
        return sha256_json({"source": digest, "profiles": self.conversion})

    @property
    def conversion(self) -> str | None:
        """How colours are converted as they are read (it belongs to the protocol); none: they are not."""
        return CONVERSION if self.srgb else None

    def read(self, indices: range) -> list[NDArray[np.uint8]]:
        pixels: list[NDArray[np.uint8]] = []
        chosen = (self.images[i] for i in indices)
        for container, group in itertools.groupby(chosen, key=lambda image: image.container):
            pixels += _read(container, list(group), self.srgb)
        return pixels

    def location(self, index: int) -> str:
        image = self.images[index]
        return image.container.location(image.name, image.number)

    @property
    def warnings(self) -> Mapping[str, int]:
        counts = Counter(note for image in self.images for note in image.record.notes)
        return {**counts, "skipped": len(self.skipped)} if self.skipped else dict(counts)

    def headers(self) -> Headers:
        records = self.records
        return Headers(
            sizes=[(record.width, record.height) for record in records],
            formats=[record.format for record in records],
            kinds=[kinds_of(record.mode, record.notes) for record in records],
            sha256s=[record.sha256 for record in records],
            making=[
                {**(image.record.parameters or {}), "folder": image.name.split("/")[0] if "/" in image.name else None}
                for image in self.images
            ],
            skipped=self.skipped,
            left_out=self.left_out,
            profiles=[record.profile for record in records],
            converted=self.srgb,
            qualities=[record.quality for record in records],
        )

    def unlike_metadata(self) -> list[int]:
        unlike: list[int] = []
        start = 0
        for container, images in itertools.groupby(self.images, key=lambda image: image.container):
            group = list(images)
            recorded = container.recorded([image.name for image in group])
            unlike += [
                start + i
                for i, image in enumerate(group)
                if recorded.get(image.name, image.record.sha256) != image.record.sha256
            ]
            start += len(group)
        return unlike

    def head(self, num_samples: int | None) -> StoredImages:
        """The first `num_samples` images (none: all); ConfigError where there are fewer."""
        if num_samples is None or num_samples == len(self):
            return self
        check_count(self.name, len(self), num_samples)
        return replace(self, images=self.images[:num_samples])

    def take(self, indices: Sequence[int]) -> StoredImages:
        """Some of the images, in this order."""
        return replace(self, images=tuple(self.images[i] for i in indices))


def open_container(container: Container, options: ReadOptions, *, cache: Path | None = None) -> StoredImages:
    """The images of a container.

    Args:
        container: a folder, archive or table.
        options: how they are read.
        cache: a folder that keeps the scan (digests and headers) for the next process; it must not lie in a folder
            that is read.

    Raises:
        ConfigError: there are no images, or no such file or column of prompts.
        DataError: an image is broken, sizes differ, or metadata names an image that is not there.
        ServiceError: it is remote, and cannot be reached.
    """
    names = container.images(options)
    with container.reading() as read:
        records = scan(container, read, names, decode=options.on_error == "skip", cache=cache)
        broken = [(name, record.error) for name, record in zip(names, records, strict=True) if record.error]
        _check_broken(container.place, broken, len(names), options)
        whole = [record for record in records if not record.error]
        names = [name for name, record in zip(names, records, strict=True) if not record.error]
        prompts = container.prompts(read, names, whole, options.prompts)
        classes = container.classes(read, names, by_folder=options.by_folder)
    images = tuple(
        StoredImage(container, name, number, record, prompt, category)
        for number, (name, record, prompt, category) in enumerate(zip(names, whole, prompts, classes, strict=True))
    )
    if not options.mixed_sizes:
        _check_sizes(container.place, images)
    if container.left_out:
        log.warning("%s: left out, since no such files are read: %s", container.place, describe(container.left_out))
    skipped = tuple(container.label(name) for name, _ in broken)
    return StoredImages(container.place, images, skipped, container.left_out, options.profiles == "srgb")


def join(pattern: Place, parts: Sequence[Source], *, mixed_sizes: bool) -> StoredImages:
    """The images of several sources, one after another.

    Raises:
        DataError: a part is an array (those hold no files), or sizes differ between parts (without `mixed_sizes`).
    """
    stored = [part for part in parts if isinstance(part, StoredImages)]
    if len(stored) < len(parts):
        raise DataError(f"{pattern}: arrays (.npy, .npz) cannot be joined: give folders, .zip, .tar or .parquet files")
    images = tuple(image for part in stored for image in part.images)
    if not mixed_sizes:
        _check_sizes(pattern, images)
    left_out: dict[str, tuple[int, str]] = {}
    for part in stored:
        for kind, (count, first) in part.left_out.items():
            before, shown = left_out.get(kind, (0, first))
            left_out[kind] = (before + count, shown)
    skipped = tuple(label for part in stored for label in part.skipped)
    return StoredImages(pattern, images, skipped, left_out, any(part.srgb for part in stored))


def _read(container: Container, images: Sequence[StoredImage], srgb: bool) -> list[NDArray[np.uint8]]:
    first = images[0].record
    with container.reading() as read:

        def load(name: str) -> Callable[[], bytes]:
            file = container.file(name)
            return functools.partial(read, name) if file is None else functools.partial(read_file, file)

        items = [(container.label(image.name), image.record.sha256, load(image.name)) for image in images]
        try:
            return decode_verified(items, container.remedy, first.width * first.height, far=container.far, srgb=srgb)
        except AlteredError:
            if container.index is not None:  # so that the next run looks at it anew, should the index be wrong
                with contextlib.suppress(OSError):
                    container.index.unlink(missing_ok=True)
            raise


def _check_broken(place: Place, broken: Sequence[tuple[str, str]], count: int, options: ReadOptions) -> None:
    if broken and options.on_error == "refuse":
        more = f" ({len(broken) - 1} more like it)" if len(broken) > 1 else ""
        raise DataError(f"{broken[0][1]}{more}: repair or remove it, or leave broken images out with on_error=skip")
    if len(broken) == count:
        raise DataError(f"{place}: none of its {count} images can be read; the first: {broken[0][1]}")


def _check_sizes(place: Place, images: Sequence[StoredImage]) -> None:
    def named(image: StoredImage) -> str:
        return image.name if image.container.place == place else image.container.label(image.name)

    first = images[0]
    size = (first.record.width, first.record.height)
    for image in images:
        if (image.record.width, image.record.height) != size:
            raise DataError(
                f"{place}: images of different sizes: {named(first)} is {size[0]}x{size[1]}, {named(image)} is "
                f"{image.record.width}x{image.record.height}: resize them, or accept it with mixed_sizes=true"
            )
