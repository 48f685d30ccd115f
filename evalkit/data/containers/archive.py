"""Images in a zip or a tar (WebDataset), read in place: an index of the members, and each image by its offset.

In memory there are the index and the images being read.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator

from evalkit.data.containers.archive_index import Member, list_members, read_member
from evalkit.data.containers.base import FileContainer
from evalkit.data.records import Reader
from evalkit.data.remote import Place, Remote, open_place, stamp_of
from evalkit.errors import DataError
from evalkit.utils.files import Stamp


class Archive(FileContainer):
    """The members of a .zip or .tar.

    Raises:
        ConfigError: there is no such file.
        DataError: it is refused (`evalkit.data.containers.archive_index`).
    """

    remedy = "pack the archive again and start again"
    files: dict[str, Member]

    def __init__(self, place: Place) -> None:
        self.place = place
        if isinstance(place, Remote):
            place.stamp()  # blocks of a file that was another are forgotten
        self.files = list_members(place)

    @functools.cached_property
    def _stamp(self) -> Stamp:
        return stamp_of(self.place)

    def stamp(self, name: str) -> Stamp:
        return self._stamp

    def size(self, name: str) -> int:
        return self.files[name].size

    def read(self, name: str) -> bytes:
        with self.reading() as read:
            return read(name)

    @contextlib.contextmanager
    def reading(self) -> Iterator[Reader]:
        try:
            file = open_place(self.place)  # while it is read only: a set may have 100,000 of these
        except OSError as error:
            raise DataError(f"{self.place}: {error.strerror or error}: check the path") from error
        with file:
            yield lambda name: read_member(file, self.place, name, self.files[name])
