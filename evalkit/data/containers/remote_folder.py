"""The images of a remote folder (an fsspec URL), listed once and read file by file, several at a time."""

from __future__ import annotations

from evalkit.data.containers.base import FileContainer
from evalkit.data.remote import Remote, Stamp
from evalkit.errors import ConfigError


class RemoteFolder(FileContainer):
    """The files of a remote folder.

    Raises:
        ConfigError: there is no such folder.
        ServiceError: it cannot be reached.
    """

    far = True
    files: dict[str, Stamp]

    def __init__(self, place: Remote) -> None:
        self.place: Remote = place
        self.files = place.list_files()
        if not self.files:
            what = "is a file, not a folder" if place.is_file() else "nothing is there"
            raise ConfigError(f"{place}: {what}: check the URL")

    def label(self, name: str) -> str:
        return str(self.place / name)

    def location(self, name: str, number: int) -> str:
        return self.label(name)

    def stamp(self, name: str) -> Stamp:
        return self.files[name]

    def size(self, name: str) -> int:
        return self.files[name][0]

    def read(self, name: str) -> bytes:
        return self.place.read_inside(name)
