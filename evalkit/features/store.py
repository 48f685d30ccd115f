"""One layer's stored features: where they are, how they are read, checked and written."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from evalkit.extractors.base import MAX_BATCH, Extractor
from evalkit.utils.code import class_digest
from evalkit.utils.files import atomic_path, sha256_bytes, sha256_json, writing

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


CHUNK = 256  # rows per file: what a kill can cost, at most
BLOCK = MAX_BATCH  # images decoded at a time; divides CHUNK
ID_DIGITS = 12  # hex digits of an extractor's digest, in its folder's name

_SHARED = ("evalkit.data.codec", "evalkit.data.center_crop")  # the code by which files become pixels

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Column:
    """The stored features of one layer: `rows` rows, in files of CHUNK rows."""

    folder: Path
    rows: int

    @property
    def chunks(self) -> list[range]:
        return [range(start, min(start + CHUNK, self.rows)) for start in range(0, self.rows, CHUNK)]

    def file(self, chunk: range) -> Path:
        return self.folder / f"{chunk.start // CHUNK:05d}.safetensors"

    def missing(self) -> list[range]:
        """The chunks that have no file. Whether a file is whole is seen when it is read."""
        return [chunk for chunk in self.chunks if not self.file(chunk).is_file()]

    def load(self, chunk: range) -> tuple[NDArray[np.float32], dict[str, str]] | None:
        """Features f32 [rows,D] and metadata of a chunk; none where the file is missing, altered or another's."""
        from safetensors import SafetensorError, safe_open

        file = self.file(chunk)
        if not file.is_file():
            return None
        try:
            with safe_open(file, framework="np") as opened:
                metadata = dict(opened.metadata() or {})
                features: NDArray[np.float32] = opened.get_tensor("features")
            check = metadata.pop("sha256", None)
            whole = len(features) == len(chunk) and check == self._check(chunk, features, metadata)
        except (OSError, SafetensorError, ValueError, TypeError):
            whole = False
        if not whole:
            log.warning("%s: altered or cut short: these features are computed anew", file)
            return None
        return features, metadata

    def save(self, chunk: range, features: NDArray[np.float32], **metadata: str) -> None:
        from safetensors.numpy import save

        check = self._check(chunk, features, metadata)
        data = save({"features": features}, metadata={**metadata, "sha256": check})
        with writing(self.file(chunk)), atomic_path(self.file(chunk)) as temporary:
            temporary.write_bytes(data)

    def _check(self, chunk: range, features: NDArray[np.float32], metadata: Mapping[str, str]) -> str:
        """Digest of a chunk: its values and shape, what is said of it, and whose it is (files could be swapped)."""
        place = [*self.folder.parts[-3:], chunk.start]
        about = sha256_json([place, str(features.dtype), list(features.shape), dict(metadata)])
        return sha256_bytes(about.encode() + features.tobytes())


def blocks_of(chunk: range) -> list[range]:
    """A chunk's images in the blocks that are decoded at a time."""
    return [range(start, min(start + BLOCK, chunk.stop)) for start in range(chunk.start, chunk.stop, BLOCK)]


def extractor_id(extractor: Extractor) -> str:
    """Names the extractor's folder in the store: digest of all that its features depend on, besides the images.

    The code belongs to it, and no more to the protocol than a comment does: a network whose file is edited is computed
    anew, and its scores still compare with those of before.
    """
    code = class_digest(type(extractor), *_SHARED)
    about = {"identity": extractor.identity(), "batch_size": extractor.batch_size, "block": BLOCK, "code": code}
    digest = sha256_json(about)
    return f"{extractor.name}-{digest[:ID_DIGITS]}"
