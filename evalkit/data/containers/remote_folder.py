"""The images of a remote folder (an fsspec URL), listed once and read file by file, several at a time."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from evalkit.data.remote import Remote, Stamp
from evalkit.data.scan import Choose, scan_inside, wide_pool
from evalkit.data.sidecars import Inside, find_classes, find_prompts, pick_images
from evalkit.data.source import THREADED_FROM, FolderImages, decode_verified, keep_whole
from evalkit.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class RemoteImages(FolderImages):
    """The images of a remote folder, sorted by their names in it.

    Attributes:
        classes: what dataset.json or a .cls says of an image, by name.
    """

    classes: Mapping[str, str] = field(default_factory=dict)

    def read(self, indices: range) -> list[NDArray[np.uint8]]:
        assert isinstance(self.folder, Remote)
        names = [self.files[i] for i in indices]
        items: list[tuple[str, str, Callable[[], bytes]]] = []
        for i, name, data in zip(indices, names, wide_pool().map(self.folder.read_inside, names), strict=True):
            items.append((str(self.folder / name), self.records[i].sha256, functools.partial(bytes, data)))
        large = bool(items) and len(items[0][2]()) >= THREADED_FROM
        return decode_verified(items, "mend or remove it and start again", threaded=large)

    def _classes(self) -> Sequence[str | None]:
        return [self.classes.get(name) for name in self.files]


def list_remote(place: Remote) -> dict[str, Stamp]:
    """All files of a remote folder.

    Raises:
        ConfigError: there is no such folder.
        ServiceError: it cannot be reached.
    """
    listed = place.list_files()
    if not listed:
        what = "is a file, not a folder" if place.is_file() else "nothing is there"
        raise ConfigError(f"{place}: {what}: check the URL")
    return listed


def open_remote(
    place: Remote,
    listed: Mapping[str, Stamp],
    *,
    recursive: bool = True,
    prompts: str | None = "auto",
    on_error: Literal["refuse", "skip"] = "refuse",
    mixed_sizes: bool = False,
    extensions: Sequence[str],
    choose: Choose = list,
    cache: Path | None = None,
) -> RemoteImages:
    """The images of a remote folder; arguments as of `FolderImages.open`, and its files (`list_remote`).

    Raises:
        ConfigError: no images are in it, or it lacks the file of prompts that is asked for.
        DataError: an image is broken, sizes differ, or metadata names an image that is not there.
        ServiceError: it cannot be reached, or no longer.
    """
    names = choose(pick_images(place, listed, extensions, recursive=recursive))
    inside = _InRemote(place, listed)
    records = scan_inside(place, names, inside.read, listed.__getitem__, decode=on_error == "skip", cache=cache)
    kept, broken = keep_whole(place, list(zip(names, records, strict=True)), on_error, mixed_sizes=mixed_sizes)
    files, whole = tuple(name for name, _ in kept), tuple(record for _, record in kept)
    texts = find_prompts(inside, files, whole, prompts)
    return RemoteImages(place, files, whole, texts, broken, classes=find_classes(inside, files))


@dataclass(frozen=True)
class _InRemote(Inside):
    place: Remote
    listed: Mapping[str, Stamp]

    def __contains__(self, name: str) -> bool:
        return name in self.listed

    def size(self, name: str) -> int:
        return self.listed[name][0]

    def read(self, name: str) -> bytes:
        return self.place.read_inside(name)
