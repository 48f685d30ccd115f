"""A complete cell's lines in one file of columns, so that it is opened by one read, whatever the number of its shards.

`manifest-<samples>-<samples in a full shard>.safetensors`, next to cell.json. It says which shards it was made of, and
what they looked like: a shard that was replaced, or a folder of one that lost a file, makes it void, and the lines are
read from the shards again. It may be deleted at any time.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from evalkit.errors import DataError
from evalkit.samples.shards import Shard, ZipShard
from evalkit.utils.files import sha256_bytes, sha256_json
from evalkit.utils.json_files import parse_json

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from evalkit.samples.columns import Columns

VERSION = 1
_NAME = re.compile(r"manifest-(\d+)-(\d+)\.safetensors")


def manifest_name(samples: int, size: int) -> str:
    return f"manifest-{samples}-{size}.safetensors"


def parse_manifest(name: str) -> tuple[int, int] | None:
    """Samples, and samples of a full shard, of a manifest's name."""
    match = _NAME.fullmatch(name)
    return (int(match[1]), int(match[2])) if match else None


@dataclass(frozen=True, eq=False)
class Manifest:
    """What a manifest holds.

    Attributes:
        rows: the lines.
        marks: of each shard its name (the last part of `where`) and `Shard.mark`.
        places: of zips, where each image's file lies: i64 [N,2]; none: folders.
    """

    rows: Columns
    marks: Sequence[Sequence[Any]]
    places: NDArray[np.int64] | None = None

    @classmethod
    def of(cls, rows: Columns, shards: Sequence[Shard]) -> Manifest:
        """Raises OSError where a shard is gone."""
        import numpy as np

        zips = [shard for shard in shards if isinstance(shard, ZipShard)]
        places = np.concatenate([shard.placed for shard in zips])[: len(rows)] if zips else None
        return cls(rows, marks_of(shards), places if len(zips) == len(shards) else None)

    def fits(self, shards: Sequence[Shard]) -> bool:
        """Whether the shards are still those that it was made of."""
        try:
            return [list(mark) for mark in self.marks] == marks_of(shards)
        except OSError:
            return False


def marks_of(shards: Sequence[Shard]) -> list[list[Any]]:
    """What tells each shard from another one in its place: its name and mark. OSError: one is gone."""
    return [[shard.where.rpartition("/")[2], *shard.mark()] for shard in shards]


def dump(manifest: Manifest, key: str) -> bytes:
    """A manifest's bytes, of the cell with a key."""
    import numpy as np
    from safetensors.numpy import save

    about = {"version": VERSION, "key": key, "marks": manifest.marks, "tables": manifest.rows.about()}
    text = json.dumps(about, ensure_ascii=False, allow_nan=False).encode()
    arrays = {**manifest.rows.arrays(), "about": np.frombuffer(text, np.uint8)}
    if manifest.places is not None:
        arrays["places"] = np.ascontiguousarray(manifest.places)
    arrays["check"] = np.frombuffer(bytes.fromhex(_digest(arrays)), np.uint8)
    data: bytes = save(arrays)
    return data


def load(data: bytes, key: str, where: str) -> Manifest:
    """What `dump` wrote; DataError where it is not as it was written, or another cell's."""
    from safetensors import SafetensorError
    from safetensors.numpy import load as load_arrays

    from evalkit.samples.columns import Columns

    try:
        arrays = load_arrays(data)
        if arrays.pop("check").tobytes().hex() != _digest(arrays):
            raise DataError(f"{where}: altered or cut short")
        about = parse_json(arrays.pop("about").tobytes(), where, finite=True)
        if (about["version"], about["key"]) != (VERSION, key):
            raise DataError(f"{where}: of another cell or version")
        places = arrays.pop("places", None)
        rows = Columns.from_arrays(arrays, about["tables"])
        if places is not None and places.shape != (len(rows), 2):
            raise DataError(f"{where}: altered")
        return Manifest(rows, about["marks"], places)
    except (SafetensorError, ValueError, LookupError, TypeError) as error:
        raise DataError(f"{where}: altered or cut short") from error


def _digest(arrays: Mapping[str, NDArray[Any]]) -> str:
    about = [[name, str(a.dtype), list(a.shape), sha256_bytes(a.tobytes())] for name, a in sorted(arrays.items())]
    return sha256_json(about)
