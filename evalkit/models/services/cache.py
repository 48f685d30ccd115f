"""A cache of the images of a shard that is not finished, for models whose images cost money: none is asked for again.

They lie next to the cell's shards as fetched/<index>.json until their shard is written. The place's name, the cell's
key, says what they were made from.
"""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from evalkit.errors import DataError, StoreError
from evalkit.models.services.load import RequestTimes
from evalkit.utils.blobs import Blobs, LocalBlobs
from evalkit.utils.files import sha256_bytes, sha256_json
from evalkit.utils.json_files import parse_json

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_FOLDER = "fetched"
_DAMAGED = (OSError, DataError, ValueError, KeyError, TypeError, AttributeError, OverflowError)


@dataclass(frozen=True, eq=False)
class FetchedImage:
    """One finished image.

    Attributes:
        pixels: u8 [H,W,3].
        latency: seconds that it took to be made.
        warnings: as in `Generated`.
        cached: whether it was made in an earlier call.
        times: of its request, where it was asked for under load.
    """

    pixels: NDArray[np.uint8]
    latency: float
    warnings: tuple[str, ...] = ()
    cached: bool = False
    times: RequestTimes | None = None


Earlier = Callable[[int], tuple[bytes, dict[str, Any]] | None]
"""Of a sample the file, and its line of metadata, in a shorter version of its shard; none: there is none."""


@dataclass(frozen=True)
class FetchedImages:
    """The finished images of a shard.

    Attributes:
        place: where its cell lies; none where there is no store (a model used by itself).
        earlier: what a set that grows has of its last shard.
    """

    place: Blobs | None = None
    earlier: Earlier = lambda index: None

    def get(self, index: int) -> FetchedImage | None:
        """An image from the cache, or from a shorter version of a shard that grows; none: it is to be made."""
        if self.place is None:
            return None
        try:
            record = parse_json(self.place.get(_key(index)), _key(index), finite=True)
            image = _decode(base64.b64decode(record["png"]), record)
            if record.get("check", _check(record)) != _check(record):  # none: of an earlier version
                image = None
        except _DAMAGED:
            image = None
        found = self.earlier(index) if image is None else None
        if found is not None:
            with contextlib.suppress(*_DAMAGED):
                return _decode(*found)
        return image

    def put(self, index: int, image: FetchedImage) -> None:
        """Writes an image, whole or not at all. Safe to call from several threads.

        Raises:
            StoreError: the store cannot be written.
        """
        if self.place is None:
            return
        from evalkit.data.codec import encode_png

        data = encode_png(image.pixels)  # drops whatever else the service wrote into its file
        record = {"latency_s": image.latency, "warnings": list(image.warnings), "sha256": sha256_bytes(data)}
        record |= image.times.record() if image.times is not None else {}
        whole = {**record, "check": _check(record), "png": base64.b64encode(data).decode()}
        self.place.put(_key(index), json.dumps(whole, allow_nan=False).encode())

    def remove(self, start: int, stop: int) -> None:
        """Removes the samples [start, stop): their shard is written."""
        if self.place is None:
            return
        local = self.place.root / _FOLDER if isinstance(self.place, LocalBlobs) else None
        if local is not None and not local.is_dir():
            return
        with contextlib.suppress(OSError, StoreError):  # no harm in what stays
            there = {key for key, _ in self.place.list(f"{_FOLDER}/")}
            for key in there & {_key(index) for index in range(start, stop)}:
                self.place.delete(key)
            if local is not None:
                local.rmdir()


def _check(record: Mapping[str, Any]) -> str:
    """The digest of what a record says besides its pixels, whose own is part of it."""
    times = RequestTimes.of(record)
    more = [times.record()] if times is not None else []
    return sha256_json([record["latency_s"], record["warnings"], record["sha256"], *more])


def _decode(data: bytes, record: Mapping[str, Any]) -> FetchedImage | None:
    """None where the bytes are not those that were recorded."""
    from evalkit.data.codec import decode

    warnings, latency = record["warnings"], record["latency_s"]
    texts = isinstance(warnings, list) and all(isinstance(warning, str) for warning in warnings)
    if sha256_bytes(data) != record["sha256"] or not texts or not isinstance(latency, int | float):
        return None
    return FetchedImage(decode(data), float(latency), tuple(warnings), True, RequestTimes.of(record))


def _key(index: int) -> str:
    return f"{_FOLDER}/{index:06d}.json"
