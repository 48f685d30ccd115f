"""One layer's stored features: where they are, how they are read, checked and written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from evalkit.extractors.base import MAX_BATCH, Extractor
from evalkit.utils.files import atomic_path, sha256_bytes, sha256_json, writing

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


CHUNK = 256  # rows per file: what a kill can cost, at most
BLOCK = MAX_BATCH  # images decoded at a time; divides CHUNK
ID_DIGITS = 12  # hex digits of an extractor's digest, in its folder's name


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
        """Features f32 [rows,D] and metadata of a chunk; none where the file is missing, truncated or altered."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self.file(chunk), framework="np") as file:
                metadata = dict(file.metadata() or {})
                features: NDArray[np.float32] = file.get_tensor("features")
        except (OSError, SafetensorError):
            return None
        if len(features) != len(chunk) or metadata.get("sha256") != sha256_bytes(features.tobytes()):
            return None
        return features, metadata

    def save(self, chunk: range, features: NDArray[np.float32], **metadata: str) -> None:
        from safetensors.numpy import save

        data = save({"features": features}, metadata={**metadata, "sha256": sha256_bytes(features.tobytes())})
        with writing(self.file(chunk)), atomic_path(self.file(chunk)) as temporary:
            temporary.write_bytes(data)


def blocks_of(chunk: range) -> list[range]:
    """A chunk's images in the blocks that are decoded at a time."""
    return [range(start, min(start + BLOCK, chunk.stop)) for start in range(chunk.start, chunk.stop, BLOCK)]


def extractor_id(extractor: Extractor) -> str:
    """Names the extractor's folder in the store: digest of all that its features depend on, besides the images."""
    digest = sha256_json({"identity": extractor.identity(), "batch_size": extractor.batch_size, "block": BLOCK})
    return f"{extractor.name}-{digest[:ID_DIGITS]}"
