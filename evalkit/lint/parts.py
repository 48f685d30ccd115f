"""What workers measured of a set's chunks, on its way to the scan of the whole set: 3 kB per image.

One file per chunk, found by the images' content and by which of them were measured: of a large set that is a part.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from evalkit.lint.pixels import Looked
from evalkit.lint.upscaling import Residuals
from evalkit.utils.code import module_digest
from evalkit.utils.files import sha256_bytes, sha256_json

if TYPE_CHECKING:
    from evalkit.utils.blobs import Blobs

DIGITS = 20  # of a part's digest in its file's name

Part = tuple[list[int], Looked]
"""Images by their indices in the set, and what was measured of them."""


class Parts:
    """The parts of a run's sets.

    Args:
        blobs: where they are.
    """

    def __init__(self, blobs: Blobs) -> None:
        self.blobs = blobs

    @functools.cached_property
    def there(self) -> set[str]:
        """The files' names, by one listing."""
        return {name for name, _ in self.blobs.list()}

    def keep(self, digest: str, chunk: range, parts: Sequence[Part]) -> None:
        """Writes what was measured of a chunk with a digest. StoreError: it cannot be written."""
        if parts:
            self.blobs.put_new(_name(digest, chunk, [index[0] for index, _ in parts]), _packed(chunk, parts))

    def find(self, digest: str, chunk: range, starts: Sequence[int]) -> Iterator[Part]:
        """What was measured of the blocks that begin at `starts`; nothing where that is not there, or damaged."""
        name = _name(digest, chunk, starts)
        if name in self.there:
            try:
                yield from _unpacked(chunk, self.blobs.get(name))
            except (OSError, LookupError, TypeError, ValueError):
                return

    def sweep(self) -> None:
        """Removes them all: the sets' own entries hold what is needed of them."""
        for name in self.there:
            self.blobs.delete(name)


def _name(digest: str, chunk: range, starts: Sequence[int]) -> str:
    code = module_digest("evalkit.data.codec", "evalkit.lint.pixels", "evalkit.lint.upscaling")
    return f"{sha256_json([digest, [start - chunk.start for start in starts], code])[:DIGITS]}.safetensors"


def _packed(chunk: range, parts: Sequence[Part]) -> bytes:
    from safetensors.numpy import save

    about: list[Any] = []
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    for number, (index, seen) in enumerate(parts):
        residuals = seen.residuals
        arrays[f"{number}/thumbs"] = seen.thumbs
        if residuals is not None:
            arrays |= {f"{number}/kink": residuals.kink, f"{number}/dip": residuals.dip}
        plain = {name: value for name, value in vars(seen).items() if name not in ("thumbs", "residuals")}
        single = None if residuals is None else list(residuals.single.items())
        about.append([[i - chunk.start for i in index], plain, single])
    arrays["about"] = np.frombuffer(json.dumps(about).encode(), np.uint8)
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    data: bytes = save(arrays)
    return bytes.fromhex(sha256_bytes(data)) + data


def _unpacked(chunk: range, data: bytes) -> list[Part]:
    """ValueError, LookupError or TypeError: it is not as it was written."""
    from safetensors.numpy import load

    check, data = data[:32], data[32:]
    if bytes.fromhex(sha256_bytes(data)) != check:
        raise ValueError("altered or cut short")
    arrays = load(data)
    parts: list[Part] = []
    for number, (index, plain, single) in enumerate(json.loads(arrays["about"].tobytes())):
        residuals = None
        if single is not None:
            residuals = Residuals(arrays[f"{number}/kink"], arrays[f"{number}/dip"], {int(i): f for i, f in single})
        seen = Looked(**{**plain, "size": tuple(plain["size"])}, thumbs=arrays[f"{number}/thumbs"], residuals=residuals)
        parts.append(([i + chunk.start for i in index], seen))
    return parts
