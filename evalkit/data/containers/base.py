"""What holds image files under names: files (a folder, an archive, a remote folder) or the rows of a table."""

from __future__ import annotations

import contextlib
import os
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from evalkit.data import sidecars
from evalkit.data.left_out import GRIDS, MASKS, describe, find_grids, find_masks, find_unread, is_hidden
from evalkit.data.records import FileRecord, Reader, ReadOptions, folder_of
from evalkit.data.remote import Place
from evalkit.data.shard_format import superseded
from evalkit.data.sidecars import PROMPT_COLUMNS, png_prompts
from evalkit.errors import ConfigError, nearest
from evalkit.utils.files import Stamp

if TYPE_CHECKING:
    from evalkit.data.records import FileRecord, ReadOptions


Texts = Sequence[str | None]  # of each image, or none


class Container(ABC):
    """Images by name. Making one looks at what is there; no image is read.

    Attributes:
        place: what errors call it, and what its scan is kept under.
        remedy: what fixes an image that changed during a run.
        far: whether each image is a request of its own over a network.
        scanned: what a scan found that failed midway, by name: the next one goes on from there.
        left_out: pictures that the last call of `images` passed over, since they are of no kind that is read, or masks.
        index: the file that keeps what the last scan found, or none.
    """

    place: Place
    remedy: str = "repair or remove it and start again"
    far: ClassVar[bool] = False
    scanned: Mapping[str, FileRecord] = {}
    left_out: Mapping[str, tuple[int, str]] = {}
    index: Path | None = None

    @abstractmethod
    def images(self, options: ReadOptions) -> list[str]:
        """The names of the images that `options` ask for, in order. Raises ConfigError where there are none."""

    @abstractmethod
    def stamp(self, name: str) -> Stamp:
        """What tells whether an image changed. Raises OSError where it is a file that is gone."""

    @abstractmethod
    def read(self, name: str) -> bytes:
        """A file's bytes. Safe to call from several threads."""

    def file(self, name: str) -> str | None:
        """The path of an image that is a file of its own on this machine, or none."""
        return None

    @contextlib.contextmanager
    def reading(self) -> Iterator[Reader]:
        """What reads many files, one after another or from several threads."""
        yield self.read

    def label(self, name: str) -> str:
        """What errors call an image."""
        return f"{self.place}: {name}"

    def location(self, name: str, number: int) -> str:
        """Where an image lies, for people and reports; `number` counts the images that were opened."""
        return f"{self.place.absolute()}[{number}]"

    @abstractmethod
    def prompts(self, read: Reader, names: Sequence[str], records: Sequence[FileRecord], how: str | None) -> Texts:
        """What each image was asked to show, or none; `how` as in `ReadOptions.prompts`."""

    @abstractmethod
    def classes(self, read: Reader, names: Sequence[str], *, by_folder: bool) -> Texts:
        """The class of each image as text, or none."""

    def recorded(self, names: Sequence[str]) -> Mapping[str, str]:
        """By name, the sha256 that a metadata file next to the images records of it."""
        return {}


class FileContainer(Container):
    """Images that are files next to others, which tell of them (`evalkit.data.sidecars`).

    Attributes:
        files: the names of all of them, relative and posix.
    """

    files: Collection[str]

    def __contains__(self, name: str) -> bool:
        return name in self.files

    def inner(self, name: str) -> str:
        """The name in `files` of a file that the user names."""
        return name

    @abstractmethod
    def size(self, name: str) -> int:
        """Bytes of a file; 0 where nothing tells before it is read."""

    def images(self, options: ReadOptions) -> list[str]:
        """Sorted by name, or the chosen frames; hidden files, masks next to images and grids of images are left out.

        In a cell's folder of a store each shard counts once: in its longest version.
        """
        suffixes = {f".{extension.lower().lstrip('.')}" for extension in options.extensions}
        shorter = superseded(self.files)
        names = sorted(
            name
            for name in self.files
            if os.path.splitext(name)[1].lower() in suffixes  # noqa: PTH122 (pathlib takes a second for 50,000)
            and not is_hidden(name)
            and (options.recursive or "/" not in name)
            and not (shorter and "/".join(name.split("/", 2)[:2]) in shorter)
        )
        looked = self.files if options.recursive else [name for name in self.files if "/" not in name]
        left_out = find_unread(looked, suffixes)
        if not names:
            hint = "" if options.recursive else "; folders inside it are not looked into (recursive=false)"
            hint += f"; not read: {describe(left_out)}" if left_out else ""
            raise ConfigError(
                f"{self.place}: no images in it ({', '.join(sorted(suffixes))}), {len(self.files)} other files{hint}: "
                "check the path"
            )
        for kind, found in ((MASKS, find_masks(names)), (GRIDS, find_grids(names))):
            if found:
                left_out[kind] = (len(found), found[0])
                dropped = set(found)
                names = [name for name in names if name not in dropped]
        self.left_out = left_out
        return options.choose(names)

    def prompts(self, read: Reader, names: Sequence[str], records: Sequence[FileRecord], how: str | None) -> Texts:
        return sidecars.find_prompts(self, read, names, records, how)

    def classes(self, read: Reader, names: Sequence[str], *, by_folder: bool) -> Texts:
        if by_folder:
            return [None if (folder := folder_of(name)) == "." else folder for name in names]
        classes = sidecars.find_classes(self, read, names)
        return [classes.get(name) for name in names]

    def recorded(self, names: Sequence[str]) -> Mapping[str, str]:
        with self.reading() as read:
            sha256s = sidecars.metadata_column(self, read, names, "sha256")
        return {name: sha256.lower() for name, sha256 in sha256s.items()}


class Table(Container):
    """Images by row, and columns of texts; an image's name is its row's number as "00000012".

    Attributes:
        texts: the names of its columns of texts.
    """

    texts: Sequence[str] = ()

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def image(self, row: int) -> bytes:
        """A row's image file. Safe to call from several threads. Raises DataError where there is none."""

    def values(self, column: str) -> Sequence[Any]:
        """A column as it is stored."""
        raise NotImplementedError  # a table without `texts` is never asked

    @abstractmethod
    def labels(self) -> Texts:
        """The class of each row as text, or none; empty where it has none."""

    @property
    @abstractmethod
    def version(self) -> Stamp:
        """What changes with the content."""

    def stamp(self, name: str) -> Stamp:
        return self.version

    def images(self, options: ReadOptions) -> list[str]:
        return [f"{row:08d}" for row in range(len(self))]

    def read(self, name: str) -> bytes:
        return self.image(int(name))

    def label(self, name: str) -> str:
        return f"{self.place}: row {int(name)}"

    def location(self, name: str, number: int) -> str:
        return super().location(name, int(name))

    def prompts(self, read: Reader, names: Sequence[str], records: Sequence[FileRecord], how: str | None) -> Texts:
        """ "auto" is the column prompt, text or caption, else the PNGs' own texts; else `how` names a column.

        Raises:
            ConfigError: there is no such column of texts.
        """
        column = next((name for name in PROMPT_COLUMNS if name in self.texts), None) if how == "auto" else how
        if column is None:
            texts = png_prompts(names, records) if how == "auto" else {}
            return [texts.get(name) for name in names]
        if column not in self.texts:
            raise ConfigError(f"{self.place}: no column of texts '{column}'. {nearest(column, self.texts)}")
        values = [(v[0] if v else None) if isinstance(v, list) else v for v in self.values(column)]  # of several: one
        return [values[int(name)] for name in names]

    def classes(self, read: Reader, names: Sequence[str], *, by_folder: bool) -> Texts:
        labels = self.labels()
        return [labels[int(name)] if labels else None for name in names]
