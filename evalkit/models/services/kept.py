"""Images of a shard in the making, kept one by one where each is dear: a run that fails asks for none again.

They lie in the cell's folder as fetched/<index>.json until their shard is written, so what they were made from is told
by the folder's name: the cell's key.
"""

from __future__ import annotations

import base64
import contextlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.data.shard_format import METADATA, parse_shard
from evalkit.utils.files import sha256_bytes, write_json, writing

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_FOLDER = "fetched"


@dataclass(frozen=True, eq=False)
class Fetched:
    """One finished image.

    Attributes:
        pixels: u8 [H,W,3].
        latency: seconds that it took to be made.
        warnings: as in `Generated`.
        kept: whether it was made in an earlier call.
    """

    pixels: NDArray[np.uint8]
    latency: float
    warnings: tuple[str, ...] = ()
    kept: bool = False


@dataclass(frozen=True)
class Kept:
    """The finished images of one cell; `cell` is its folder, none where there is no store (a model used by itself)."""

    cell: Path | None = None

    def get(self, index: int) -> Fetched | None:
        """An image that was kept, or that stands in a shorter version of a shard that grows; none: make it."""
        if self.cell is None:
            return None
        return self._fetched(index) or self._in_shard(self.cell / "shards", index)

    def put(self, index: int, image: Fetched) -> None:
        """Keeps an image, whole or not at all. Safe to call from several threads.

        Raises:
            StoreError: the store cannot be written.
        """
        if self.cell is None:
            return
        from evalkit.data.codec import encode_png

        data = encode_png(image.pixels)  # drops whatever else the service wrote into its file
        about = {"latency_s": image.latency, "warnings": list(image.warnings), "sha256": sha256_bytes(data)}
        with writing(self.cell):
            write_json(_file(self.cell, index), {**about, "png": base64.b64encode(data).decode()})

    def _fetched(self, index: int) -> Fetched | None:
        assert self.cell is not None
        try:
            about = json.loads(_file(self.cell, index).read_text(encoding="utf-8"))
            data = base64.b64decode(about["png"])
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return _decoded(data, about)

    def _in_shard(self, shards: Path, index: int) -> Fetched | None:
        """From a shard that is there already: a set that grows has its last one made again, longer."""
        for folder in sorted(shards.iterdir()) if shards.is_dir() else ():
            image = folder / f"{index:06d}.png"
            if parse_shard(folder.name) is None or not image.is_file():
                continue
            with contextlib.suppress(OSError, ValueError):
                for line in (folder / METADATA).read_text(encoding="utf-8").splitlines():
                    row = json.loads(line)
                    if row["index"] == index:
                        return _decoded(image.read_bytes(), row)
        return None


def _decoded(data: bytes, about: dict[str, Any]) -> Fetched | None:
    """None where the bytes are not those that were recorded."""
    from evalkit.data.codec import decode

    if sha256_bytes(data) != about.get("sha256"):
        return None
    return Fetched(decode(data), float(about["latency_s"]), tuple(about["warnings"]), kept=True)


def forget(cell: Path, start: int, stop: int) -> None:
    """Removes what was kept of the samples [start, stop): their shard is written."""
    if not (cell / _FOLDER).is_dir():
        return
    with contextlib.suppress(OSError):  # no harm in what stays
        for index in range(start, stop):
            _file(cell, index).unlink(missing_ok=True)
        (cell / _FOLDER).rmdir()


def _file(cell: Path, index: int) -> Path:
    return cell / _FOLDER / f"{index:06d}.json"
