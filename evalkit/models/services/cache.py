"""A cache of the images of a shard that is not finished, for models whose images cost money: none is asked for again.

They lie in the cell's folder as fetched/<index>.json until their shard is written. The folder's name, the cell's key,
says what they were made from.
"""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.data.shard_format import METADATA, parse_shard
from evalkit.errors import DataError
from evalkit.utils.files import sha256_bytes, sha256_json, write_json, writing
from evalkit.utils.json_files import parse_json, read_json

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_FOLDER = "fetched"


@dataclass(frozen=True, eq=False)
class FetchedImage:
    """One finished image.

    Attributes:
        pixels: u8 [H,W,3].
        latency: seconds that it took to be made.
        warnings: as in `Generated`.
        cached: whether it was made in an earlier call.
    """

    pixels: NDArray[np.uint8]
    latency: float
    warnings: tuple[str, ...] = ()
    cached: bool = False


@dataclass(frozen=True)
class FetchedImages:
    """The finished images of one cell; `cell` is its folder, none where there is no store (a model used by itself)."""

    cell: Path | None = None

    def get(self, index: int) -> FetchedImage | None:
        """An image from the cache, or from a shorter version of a shard that grows; none: it is to be made."""
        if self.cell is None:
            return None
        try:
            record = read_json(_file(self.cell, index), finite=True)
            image = _decode(base64.b64decode(record["png"]), record)
            if record.get("check", _check(record)) != _check(record):  # none: of an earlier version
                image = None
        except (OSError, DataError, ValueError, KeyError, TypeError, AttributeError, OverflowError):
            image = None
        return image or _from_shard(self.cell / "shards", index)

    def put(self, index: int, image: FetchedImage) -> None:
        """Writes an image, whole or not at all. Safe to call from several threads.

        Raises:
            StoreError: the store cannot be written.
        """
        if self.cell is None:
            return
        from evalkit.data.codec import encode_png

        data = encode_png(image.pixels)  # drops whatever else the service wrote into its file
        record = {"latency_s": image.latency, "warnings": list(image.warnings), "sha256": sha256_bytes(data)}
        with writing(self.cell):
            whole = {**record, "check": _check(record), "png": base64.b64encode(data).decode()}
            write_json(_file(self.cell, index), whole)

    def remove(self, start: int, stop: int) -> None:
        """Removes the samples [start, stop): their shard is written."""
        if self.cell is None or not (self.cell / _FOLDER).is_dir():
            return
        with contextlib.suppress(OSError):  # no harm in what stays
            for index in range(start, stop):
                _file(self.cell, index).unlink(missing_ok=True)
            (self.cell / _FOLDER).rmdir()


def _from_shard(shards: Path, index: int) -> FetchedImage | None:
    """From a shard that is there already: a set that grows has its last one made again, longer."""
    for folder in sorted(shards.iterdir()) if shards.is_dir() else ():
        file = folder / f"{index:06d}.png"
        if parse_shard(folder.name) is None or not file.is_file():
            continue
        with contextlib.suppress(OSError, DataError, ValueError, KeyError, TypeError, OverflowError):
            for line in (folder / METADATA).read_bytes().splitlines():  # of bytes: at no other ends than a file's
                record = parse_json(line, folder / METADATA, finite=True)
                if record["index"] == index:
                    return _decode(file.read_bytes(), record)
    return None


def _check(record: Mapping[str, Any]) -> str:
    """The digest of what a record says besides its pixels, whose own is part of it."""
    return sha256_json([record["latency_s"], record["warnings"], record["sha256"]])


def _decode(data: bytes, record: Mapping[str, Any]) -> FetchedImage | None:
    """None where the bytes are not those that were recorded."""
    from evalkit.data.codec import decode

    warnings, latency = record["warnings"], record["latency_s"]
    texts = isinstance(warnings, list) and all(isinstance(warning, str) for warning in warnings)
    if sha256_bytes(data) != record["sha256"] or not texts or not isinstance(latency, int | float):
        return None
    return FetchedImage(decode(data), float(latency), tuple(warnings), cached=True)


def _file(cell: Path, index: int) -> Path:
    return cell / _FOLDER / f"{index:06d}.json"
