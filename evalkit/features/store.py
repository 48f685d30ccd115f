"""One layer's stored features: where they are, how they are read, checked and written."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from evalkit.errors import DataError
from evalkit.extractors.base import MAX_BATCH, Extractor
from evalkit.utils.code import class_digest
from evalkit.utils.files import atomic_path, sha256_bytes, sha256_json, writing
from evalkit.utils.text import one_line

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
        file = self.file(chunk)
        if not file.is_file():
            return None
        try:
            features, metadata = _open(file)
        except DataError as error:
            log.warning("%s: these features are computed anew", error)
            return None
        return (features, metadata) if len(features) == len(chunk) else None

    def save(self, chunk: range, features: NDArray[np.float32], **metadata: str) -> None:
        from safetensors.numpy import save

        check = _check(self.file(chunk), features, metadata)
        data = save({"features": features}, metadata={**metadata, "sha256": check})
        with writing(self.file(chunk)), atomic_path(self.file(chunk)) as temporary:
            temporary.write_bytes(data)


def _check(file: Path, features: NDArray[np.float32], metadata: Mapping[str, str]) -> str:
    """Digest of a file: its values and shape, what is said of it, and its place (files could be swapped)."""
    about = [file.parts[-4:], str(features.dtype), list(features.shape), dict(metadata)]
    return sha256_bytes(sha256_json(about).encode() + features.tobytes())


def _open(file: Path) -> tuple[NDArray[np.float32], dict[str, str]]:
    """Features f32 [rows,D] and metadata of a file; DataError where it is not as it was written there."""
    features, metadata, check = _content(file)
    if check != _check(file, features, metadata):
        raise DataError(f"{file}: altered, cut short, or another's")
    return features, metadata


def _content(file: Path) -> tuple[NDArray[np.float32], dict[str, str], str | None]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="np") as opened:
            metadata = dict(opened.metadata() or {})
            return opened.get_tensor("features"), metadata, metadata.pop("sha256", None)
    except (OSError, SafetensorError, ValueError, TypeError) as error:
        raise DataError(f"{file}: altered or cut short ({one_line(error)})") from error


def verify_file(file: Path) -> str | None:
    """Reads a file of features; "old" where it is of evalkit 0.1.0, which nothing reads any more.

    Raises:
        DataError: it is not as it was written there.
    """
    features, _, check = _content(file)
    if check == sha256_bytes(features.tobytes()):
        return "old"
    _open(file)
    return None


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
