"""Images in a zip or a tar (WebDataset), read in place: an index of the members, and each image by its offset.

In memory there are the index and the images being read. Prompts and classes are those of the small files beside the
images (`evalkit.data.sidecars`).
"""

from __future__ import annotations

import functools
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal, Self

from evalkit.data.containers.archive_index import Member, list_members, read_member
from evalkit.data.remote import Place, Remote
from evalkit.data.scan import Choose, file_stamp, scan_inside
from evalkit.data.sidecars import Inside, find_classes, find_prompts, pick_images
from evalkit.data.source import THREADED_FROM, FolderImages, decode_verified, keep_whole
from evalkit.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class ArchiveImages(FolderImages):
    """The images of an archive, sorted by their names in it; `folder` is the archive.

    Attributes:
        members: where they lie, by name.
        classes: what dataset.json or a .cls says of an image, by name.
        places: where a part of them stood among all of them.
    """

    members: Mapping[str, Member] = field(default_factory=dict)
    classes: Mapping[str, str] = field(default_factory=dict)
    places: Sequence[int] = ()

    def read(self, indices: range) -> list[NDArray[np.uint8]]:
        items: list[tuple[str, str, Callable[[], bytes]]] = []
        with _open(self.folder) as file:
            for i in indices:
                name = self.files[i]
                load = functools.partial(read_member, file, self.folder, name, self.members[name])
                items.append((f"{self.folder}: {name}", self.records[i].sha256, load))
            threaded = bool(items) and self.members[self.files[indices[0]]].packed >= THREADED_FROM
            return decode_verified(items, "pack the archive again and start again", threaded=threaded)

    def location(self, index: int) -> str:
        return f"{self.folder.absolute()}[{self.places[index] if self.places else index}]"

    def take(self, indices: Sequence[int]) -> Self:
        places = array("L", (self.places[i] if self.places else i for i in indices))
        return replace(super().take(indices), places=places)

    def _classes(self) -> Sequence[str | None]:
        return [self.classes.get(name) for name in self.files]


def list_images(path: Place, extensions: Sequence[str], *, recursive: bool) -> tuple[dict[str, Member], list[str]]:
    """All members of an archive, and the sorted names of its images; hidden ones are left out, as in a folder.

    Raises:
        ConfigError: the archive is missing, or holds no images.
        DataError: it is refused (`evalkit.data.containers.archive_index`).
    """
    members = list_members(path)
    return members, pick_images(path, members, extensions, recursive=recursive)


def open_archive(
    path: Place,
    *,
    recursive: bool = True,
    prompts: str | None = "auto",
    on_error: Literal["refuse", "skip"] = "refuse",
    mixed_sizes: bool = False,
    extensions: Sequence[str],
    choose: Choose = list,
    cache: Path | None = None,
) -> ArchiveImages:
    """The images of a .zip or .tar; arguments as of `FolderImages.open` (metadata files are those in the archive).

    Raises:
        ConfigError: the archive is missing, holds no images, or lacks the file of prompts that is asked for.
        DataError: it is refused, an image is broken, sizes differ, or metadata names an image that is not there.
    """
    members, names = list_images(path, extensions, recursive=recursive)
    names = choose(names)
    with _open(path) as file:
        inside = _InArchive(file, path, members)
        stamp = path.stamp() if isinstance(path, Remote) else file_stamp(path)
        decode = on_error == "skip"
        records = scan_inside(path, names, inside.read, lambda name: stamp, decode=decode, cache=cache)
        kept, broken = keep_whole(path, list(zip(names, records, strict=True)), on_error, mixed_sizes=mixed_sizes)
        files, whole = tuple(name for name, _ in kept), tuple(record for _, record in kept)
        texts = find_prompts(inside, files, whole, prompts)
        classes = find_classes(inside, files)
    images = {name: members[name] for name in files}
    return ArchiveImages(path, files, whole, texts, broken, members=images, classes=classes)


def _open(path: Place) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}: check the path") from error


@dataclass(frozen=True)
class _InArchive(Inside):
    file: BinaryIO
    place: Place
    members: Mapping[str, Member]

    def __contains__(self, name: str) -> bool:
        return name in self.members

    def size(self, name: str) -> int:
        return self.members[name].size

    def read(self, name: str) -> bytes:
        return read_member(self.file, self.place, name, self.members[name])
