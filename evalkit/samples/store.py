"""The store, and the sample sets in it: the on-disk format of generated images.

    <root>/samples/<name>-<key8>/cell.json
                                 shards/00000/{000000.png ... 000255.png, metadata.jsonl}
                                 shards/00002-048/{000512.png ... 000559.png, metadata.jsonl}
                                 manifest-560-256.safetensors

On a URL, and where `shards=zip` asks for it, a shard is one object: a stored zip of the same files, `shards/00000.zip`,
which opens as a Hugging Face imagefolder as a shard's folder does. Cells' folders on a URL are called by their key.

Shard k holds the samples [k * shard_size, (k + 1) * shard_size) of a cell; `shard_size` is fixed when the cell is first
made and stands in cell.json. The last shard of a set is often cut short: its name ends with the number of its samples.
A shard is never changed: a set that grows gets a longer version of its last shard next to the shorter one, and of the
versions the shortest that suffices is read, so that a set of N samples stays the same whatever is added later.

A shard's metadata.jsonl has one line per image: file_name, index, prompt, negative_prompt, category, class_id, seed,
sha256 (of the file), width, height, latency_s (of one image), batch (images made together), warmup, load (tasks per
core), others (part of the machine that other processes took), beside (workers of the run on the machine, where there
were several), nfe, device, peak_memory_mb, warnings (where there are any), check (of the line). Images that were asked
for side by side (of a service) have a latency_s of their own, and clock_s: their share of the clock (none for those
that an earlier run had fetched). Requests under load have what `evalkit.models.services.load.RequestTimes` holds. A
file that was not kept (`keep_images`) has kept: false: its sha256 is that of the file that would have been written, so
that features and scores are found by it all the same.
"""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from evalkit.cell import KEY_SHOWN, Cell
from evalkit.errors import ConfigError, nearest
from evalkit.judges.place import AnswerPlace
from evalkit.samples.cells import CellPlace, image_size, shard_name
from evalkit.samples.sample_set import SampleSet
from evalkit.utils.blobs import Blobs, LocalBlobs, open_blobs, probe
from evalkit.utils.files import sha256_bytes

__all__ = ["SampleSet", "Store", "image_size", "shard_name"]

SHARDS = ("auto", "folder", "zip")
KEEP = ("all", "sample", "none")


@dataclass(frozen=True)
class Store:
    """Samples, features, scores and lint measures that runs share: in a folder, or on a URL.

    Attributes:
        root: the folder. Of a store on a URL: a folder on this machine, for what is kept of it here (scans of folders).
        remote: what holds the store where it is on a URL; none: the folder.
        shards: how new shards are written: folder, zip, or auto (zips on a URL).
        keep_images: which images of new shards stay: all; sample: the first shard, and what contact sheets show; none.
        sheet: samples on a contact sheet.
    """

    root: Path
    remote: Blobs | None = None
    shards: str = "auto"
    keep_images: str = "all"
    sheet: int = 0

    @classmethod
    def at(cls, place: str, *, shards: str = "auto", keep_images: str = "all", sheet: int = 0) -> Store:
        """The store at a path or a URL; nothing is looked at.

        Raises:
            ConfigError: a URL that no store may lie on, a missing package, or an unknown word.
        """
        for name, value, words in (("shards", shards, SHARDS), ("keep_images", keep_images, KEEP)):
            if value not in words:
                raise ConfigError(f"{name}={value}: {nearest(str(value), words)}")
        blobs = open_blobs(place)
        if isinstance(blobs, LocalBlobs):
            return cls(blobs.root, None, shards, keep_images, sheet)
        if shards == "folder":
            raise ConfigError(f"shards=folder: store={place} is a URL, where a shard is one zip: give shards=auto")
        return cls(local_folder(place), blobs, shards, keep_images, sheet)

    @functools.cached_property
    def blobs(self) -> Blobs:
        """All that the store holds, by key."""
        return LocalBlobs(self.root) if self.remote is None else self.remote

    @property
    def where(self) -> str:
        """The folder or URL, for messages."""
        return self.blobs.where

    @property
    def address(self) -> str:
        """What other processes find it by: an absolute path, or the URL."""
        return str(self.root.absolute()) if self.remote is None else self.remote.where

    @property
    def zips(self) -> bool:
        """Whether a new shard is one zip."""
        return self.shards == "zip" or (self.shards == "auto" and self.remote is not None)

    @property
    def samples(self) -> Path:
        return self.root / "samples"

    @property
    def features(self) -> Blobs:
        return self.blobs.below("features")

    @property
    def scores(self) -> Blobs:
        return self.blobs.below("scores")

    @property
    def answers(self) -> AnswerPlace:
        """Judges' answers."""
        return AnswerPlace(self.root / "answers", None if self.remote is None else self.remote.below("answers"))

    @property
    def lint(self) -> Blobs:
        return self.blobs.below("lint")

    def sample_folder(self, cell: Cell) -> Path:
        """A cell's folder: the one with its key, whatever name another run gave it; else <name>-<key8>, to be made."""
        return self.samples / self.place(cell).name

    def place(self, cell: Cell) -> CellPlace:
        """Where a cell's samples are, or will be."""
        return next(self.places([cell]))

    def places(self, cells: Sequence[Cell]) -> Iterator[CellPlace]:
        """Where cells' samples are, or will be; the folder of samples is listed once at most."""
        others: dict[str, str] | None = None
        for cell in cells:
            ending = f"-{cell.key[:KEY_SHOWN]}"
            name = f"{cell.name}{ending}" if self.remote is None else cell.key[: 2 * KEY_SHOWN]
            if self.remote is None and not (self.samples / name).is_dir():
                if others is None:  # listed, not globbed: a name may hold brackets
                    there = sorted(self.samples.iterdir(), reverse=True) if self.samples.is_dir() else []
                    others = {path.name[-len(ending) :]: path.name for path in there if path.is_dir()}
                name = others.get(ending, name)
            yield CellPlace(self, cell, name)

    def keeps(self, size: int) -> Callable[[int], bool]:
        """Whether the image of a sample is kept, where `size` samples fill a shard."""
        most = {"all": float("inf"), "sample": max(size, self.sheet), "none": 0}[self.keep_images]
        return lambda index: index < most

    def check_writable(self) -> None:
        """Raises StoreError, in one line, where what is made could not be put there safely."""
        probe(self.blobs)

    def free_bytes(self) -> float:
        """Free space on the store's disk (the root need not exist yet); a URL has no end."""
        if self.remote is not None:
            return float("inf")
        path = self.root.absolute()
        while not path.exists():
            path = path.parent
        return shutil.disk_usage(path).free


def local_folder(url: str) -> Path:
    """Where this machine keeps what is its own of a store on a URL."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "evalkit" / "stores" / sha256_bytes(url.rstrip("/").encode())[:16]
