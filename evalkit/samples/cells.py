"""A cell's place in the store: cell.json, shards and manifests; and what one listing tells of many cells.

Below samples/ a cell's folder is called <name>-<key8> in a folder, <key16> on a URL. In it: cell.json, manifest-*,
fetched/ (see `models.services.cache`) and shards/, whose names are folders or zips.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from evalkit.cell import KEY_SHOWN, Cell
from evalkit.data.shard_format import ZIP, parse_shard
from evalkit.errors import DataError, StoreError
from evalkit.models.services.cache import FetchedImages
from evalkit.samples import manifest
from evalkit.samples.shards import FolderShard, Shard, ZipShard
from evalkit.samples.writer import FolderTarget, ZipTarget
from evalkit.utils.blobs import Blobs
from evalkit.utils.json_files import checked_text, parse_checked, parse_json

FORMATS = {"folder": 1, "zip": 2}  # of cell.json, by what new shards are
SHARD_SAMPLES = 256
LOAD_SAMPLES = 1024  # of a cell that is measured under load
SHARD_BYTES = 64 * 1024 * 1024 * 3  # of pixels: 64 images of 1,024 px, a whole block of the extractors
CELL = "cell.json"


class Home(Protocol):
    """What a cell's place needs of its store (`evalkit.samples.store.Store`)."""

    @property
    def root(self) -> Path: ...
    @property
    def remote(self) -> Blobs | None: ...
    @property
    def blobs(self) -> Blobs: ...
    @property
    def zips(self) -> bool: ...
    def places(self, cells: Sequence[Cell]) -> Iterator[CellPlace]:
        """Where cells' samples are, or will be."""


@dataclass(frozen=True)
class CellPlace:
    """Where a cell's samples are, or will be.

    Attributes:
        store: which store.
        cell: whose.
        name: of its folder below samples/.
    """

    store: Home
    cell: Cell
    name: str

    @property
    def blobs(self) -> Blobs:
        return self.store.blobs.below(f"samples/{self.name}")

    @property
    def folder(self) -> Path | None:
        """Its folder on this machine; none where the store is on a URL."""
        return self.store.root / "samples" / self.name if self.store.remote is None else None

    @property
    def where(self) -> str:
        return self.blobs.where

    def size(self) -> int:
        """Samples in a full shard: as recorded in cell.json; for a new cell a power of two, by its images' size.

        Raises:
            StoreError: cell.json is not readable, or is another cell's.
        """
        path = f"{self.where}/{CELL}"
        try:
            recorded = parse_cell(self.blobs.get(CELL), path)
            key, size, version = recorded["key"], int(recorded["shard_size"]), recorded["format"]
        except FileNotFoundError:
            if any(True for _ in shard_names(self)):
                raise StoreError(f"{path} is missing next to its shards: put it back, or delete {self.where}") from None
            return default_size(self.cell)
        except DataError as error:
            raise StoreError(f"{error}: put it back, or delete {self.where} to make it again") from error
        except (OSError, ValueError, LookupError, TypeError) as error:
            what = f"{path} cannot be read ({type(error).__name__})"
            raise StoreError(f"{what}: delete {self.where} to make it again") from error
        if version not in FORMATS.values():
            known = " and ".join(map(str, FORMATS.values()))
            raise StoreError(f"{path}: format {version}, but this evalkit reads {known}: use another store=FOLDER")
        if key != self.cell.key:
            planned, longer = self.cell.key, 2 * KEY_SHOWN  # the folder is found by a part of the key alone
            raise StoreError(
                f"{path} is of another cell ({key[:longer]}, not {planned[:longer]}): use another store=FOLDER"
            )
        return size

    def prepare(self) -> int:
        """Writes cell.json where there is none; returns the samples of a full shard. StoreError: it cannot."""
        size = self.size()
        about = {name: value for name, value in self.cell.spec().items() if name != "num_samples"}
        about = {"format": FORMATS["zip" if self.store.zips else "folder"], "shard_size": size, **about}
        if self.folder is None or not (self.folder / CELL).exists():
            self.blobs.put_new(CELL, checked_text(json.loads(json.dumps(about))).encode())
        return size

    def find(self, start: int, stop: int, size: int) -> Shard | None:
        """The shard of just these samples, whole; none: it is not there. StoreError: it is damaged."""
        name = shard_name(start, stop, size)
        shard: Shard | None = None
        if self.folder is not None and (self.folder / "shards" / name).is_dir():
            shard = FolderShard(self.folder / "shards" / name, start, stop - start)
        else:
            key = f"shards/{name}{ZIP}"
            there = [n for k, n in self.blobs.list(key) if k == key] if self.folder is None else self._zip_size(key)
            shard = ZipShard(self.blobs, key, there[0], start, stop - start) if there else None
        if shard is not None:
            shard.check()
        return shard

    def _zip_size(self, key: str) -> list[int]:
        assert self.folder is not None
        with contextlib.suppress(OSError):
            return [(self.folder / key).stat().st_size]
        return []

    def target(self, start: int, stop: int, size: int) -> FolderTarget | ZipTarget:
        """What a new shard of these samples is written to."""
        name = shard_name(start, stop, size)
        if self.store.zips or self.folder is None:
            return ZipTarget(self.blobs, f"shards/{name}{ZIP}")
        return FolderTarget(self.folder / "shards" / name)

    def fetched(self, start: int, size: int) -> FetchedImages:
        """The images of a shard that were fetched already, for models whose images cost money."""
        return FetchedImages(self.blobs, self._earlier(start, size))

    def _earlier(self, start: int, size: int) -> Callable[[int], tuple[bytes, dict[str, Any]] | None]:
        """What gives a sample's file and line from a shorter version of its shard: a set grows by a longer one."""

        @functools.cache
        def shorter() -> list[tuple[Shard, list[dict[str, Any]]]]:
            found = []
            for shard in self._shorter(start, size):
                with contextlib.suppress(StoreError):
                    found.append((shard, shard.rows(self.cell.key)))
            return found

        def get(index: int) -> tuple[bytes, dict[str, Any]] | None:
            for shard, rows in shorter():
                if shard.start <= index < shard.start + shard.count:
                    with contextlib.suppress(OSError, DataError):
                        return shard.loads([index])[0][1](), rows[index - shard.start]
            return None

        return get

    def _shorter(self, start: int, size: int) -> Iterator[Shard]:
        """The shorter versions of a shard, by their names alone: the cell may have 40,000 shards."""
        if self.folder is None:
            for key, length in self.blobs.list(f"shards/{start // size:05d}-"):
                parsed = parse_shard(key.removeprefix("shards/").removesuffix(ZIP))
                if parsed is not None and parsed[1] is not None:
                    yield ZipShard(self.blobs, key, length, start, parsed[1])
            return
        for stop in range(start + size - 1, start, -1):
            with contextlib.suppress(StoreError):
                shard = self.find(start, stop, size)
                if shard is not None:
                    yield shard


@dataclass
class FoundCell:
    """What a listing tells of a cell; read anew for each stage of a run, not for each question.

    Attributes:
        place: the cell's.
        names: below shards/, with the bytes of zips.
        manifests: (samples, samples of a full shard) -> bytes.
    """

    place: CellPlace
    names: dict[str, int] = field(default_factory=dict)
    manifests: dict[tuple[int, int], int] = field(default_factory=dict)

    @functools.cached_property
    def size(self) -> int:
        """Samples in a full shard."""
        of_name = next((size for samples, size in self.manifests if samples == self.place.cell.num_samples), None)
        # A folder's name holds 32 bits of the key alone: there cell.json is read, or the manifest.
        return of_name if of_name is not None and self.place.folder is None else self.place.size()

    @functools.cached_property
    def shards(self) -> list[tuple[int, int, Shard | None]]:
        """(start, stop, shard) of all shards of the cell's samples; none: still to make. Nothing is looked at."""
        size, total = self.size, self.place.cell.num_samples
        versions: dict[int, list[tuple[int, str]]] = {}
        for name in self.names:
            parsed = parse_shard(name.removesuffix(ZIP))
            if parsed:
                versions.setdefault(parsed[0], []).append((parsed[1] or size, name))
        shards: list[tuple[int, int, Shard | None]] = []
        for start in range(0, total, size):
            stop = min(start + size, total)
            fitting = [version for version in versions.get(start // size, []) if version[0] >= stop - start]
            chosen = min(fitting, default=None)
            shards.append((start, stop, self._shard(chosen[1], start, chosen[0]) if chosen else None))
        return shards

    def _shard(self, name: str, start: int, count: int) -> Shard:
        if name.endswith(ZIP):
            return ZipShard(self.place.blobs, f"shards/{name}", self.names[name], start, count)
        assert self.place.folder is not None
        return FolderShard(self.place.folder / "shards" / name, start, count)

    @functools.cached_property
    def manifest(self) -> manifest.Manifest | None:
        """The cell's manifest, where it is complete and its shards are those that the manifest was made of."""
        cell, place = self.place.cell, self.place
        length = self.manifests.get((cell.num_samples, self.size))
        there = [shard for _, _, shard in self.shards if shard is not None]
        if length is None or len(there) < len(self.shards):
            return None
        key = manifest.manifest_name(cell.num_samples, self.size)
        try:
            found = manifest.load(place.blobs.get(key, 0, length), cell.key, f"{place.where}/{key}")
        except (OSError, DataError):
            return None
        return found if len(found.rows) == cell.num_samples and found.fits(there) else None

    @functools.cached_property
    def missing(self) -> list[tuple[int, int]]:
        """The shards still to make. StoreError: a shard that is there is damaged."""
        there = [shard for _, _, shard in self.shards if shard is not None]
        if any(isinstance(shard, FolderShard) for shard in there) and self.manifest is None:
            for shard in there:
                shard.check()
        return [(start, stop) for start, stop, shard in self.shards if shard is None]

    def count_missing(self) -> int:
        """How many samples are still to make; where none is there, no list of their shards is made for it."""
        if not self.names:
            return self.place.cell.num_samples
        return sum(stop - start for start, stop in self.missing)


def look(store: Home, cells: Iterable[Cell]) -> dict[str, FoundCell]:
    """What is there of some cells, by key: one listing of a store on a URL; of a folder one for each cell."""
    cells = list(cells)
    found = {cell.key: FoundCell(place) for cell, place in zip(cells, store.places(cells), strict=True)}
    if store.remote is None:
        for each in found.values():
            _look_locally(each)
        return found
    by_name = {each.place.name: each for each in found.values()}
    below = f"samples/{next(iter(by_name))}/" if len(by_name) == 1 else "samples/"
    for key, length in store.blobs.list(below) if by_name else ():
        _, name, inner = key.split("/", 2) if key.count("/") > 1 else ("", "", "")
        if name in by_name:
            _note(by_name[name], inner, length)
    return found


def _note(found: FoundCell, inner: str, length: int) -> None:
    parsed = manifest.parse_manifest(inner)
    if parsed is not None:
        found.manifests[parsed] = length
    elif inner.startswith("shards/") and inner.count("/") == 1:
        found.names[inner.removeprefix("shards/")] = length


def _look_locally(found: FoundCell) -> None:
    folder = found.place.folder
    assert folder is not None
    with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as entries:
        for entry in entries:
            if manifest.parse_manifest(entry.name) is not None:
                _note(found, entry.name, entry.stat().st_size)
    for name, length in shard_names(found.place):
        found.names[name] = length


def shard_names(place: CellPlace) -> Iterable[tuple[str, int]]:
    """The names of a cell's shards, and the bytes of those that are zips."""
    if place.folder is None:
        for key, length in place.blobs.list("shards/"):
            if key.endswith(ZIP) and parse_shard(key.removeprefix("shards/").removesuffix(ZIP)):
                yield key.removeprefix("shards/"), length
        return
    with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(place.folder / "shards") as entries:
        for entry in entries:
            if parse_shard(entry.name.removesuffix(ZIP)):
                yield entry.name, entry.stat().st_size if entry.name.endswith(ZIP) else 0


def shard_name(start: int, stop: int, size: int) -> str:
    """The name of the samples [start, stop), where `size` samples fill a shard."""
    name = f"{start // size:05d}"
    return name if stop - start == size else f"{name}-{stop - start:03d}"


def image_size(cell: Cell) -> tuple[int, int] | None:
    """Height and width of a cell's images where its options name them."""
    model = cell.options.get("model") or {}
    for values in (cell.call_settings, cell.settings, model):
        height, width = values.get("height"), values.get("width")
        if isinstance(height, int) and isinstance(width, int):
            return height, width
    return None


def default_size(cell: Cell) -> int:
    """Samples in a full shard of a new cell: powers of two hold whole batches of the usual sizes."""
    if cell.call_settings.get("load"):  # of a service: a load is measured by the shard, without a stop
        return LOAD_SAMPLES
    image = image_size(cell)
    fitting = min(SHARD_BYTES // (image[0] * image[1] * 3), SHARD_SAMPLES) if image else SHARD_SAMPLES
    return 1 << max(fitting.bit_length() - 1, 0)


def parse_cell(data: bytes, where: str) -> dict[str, Any]:
    """A cell.json; those of evalkit 0.1.0 have no digest.

    Raises:
        DataError: it cannot be read, or was altered.
    """
    recorded = parse_json(data, where, finite=True)
    if not isinstance(recorded, dict):
        raise DataError(f"{where}: not a JSON object")
    if recorded.keys() <= {"format", "shard_size", *Cell.__dataclass_fields__}:
        return recorded
    return parse_checked(data, where)
