"""One layer's stored features: where they are, how they are read, checked and written.

`features/<extractor id>/<layer>/<digest>.safetensors` holds the f32 [rows,D] of one chunk of a source, and is found by
the chunk's content alone (`Source.chunk_digest`), so that a set that grows, a copy elsewhere and a shard that is still
in memory share it. The first writer's file stays: all readers see the same bits. What metrics of pairs give, f64
[rows], is stored the same way (`evalkit.scoring.pair_pass`).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.errors import DataError
from evalkit.extractors.base import Extractor
from evalkit.utils.blobs import Blobs, LocalBlobs
from evalkit.utils.code import class_digest
from evalkit.utils.files import sha256_bytes, sha256_json, sweep
from evalkit.utils.text import one_line

if TYPE_CHECKING:
    from numpy.typing import NDArray


ID_DIGITS = 12  # hex digits of an extractor's digest, in its folder's name
DIGEST_DIGITS = 20  # hex digits of a chunk's digest, in its file's name
ENDING = ".safetensors"

_SHARED = ("evalkit.data.codec", "evalkit.data.center_crop")  # the code by which files become pixels

log = logging.getLogger(__name__)

Loaded = tuple["NDArray[Any]", dict[str, str]]
"""Features f32 [rows,D], or values of pairs f64 [rows], and what is said of them."""


@dataclass(eq=False)
class Column:
    """The stored features of one layer of one extractor, of whatever images or texts.

    What is there comes from one listing, made when it is first asked for; what others write meanwhile is not seen, and
    at worst computed twice.

    Attributes:
        blobs: the folder of features.
        folder: `<extractor id>/<layer>` in it.
        devices: what the files that were read here were computed on ("cpu", "cuda (NVIDIA H100)").
    """

    blobs: Blobs
    folder: str
    devices: set[str] = field(default_factory=set, init=False)
    _warnings: dict[str, str] = field(default_factory=dict, init=False)
    _sizes: dict[str, int] | None = field(default=None, init=False)

    def key(self, digest: str) -> str:
        """The file of a chunk, or of texts, with this digest."""
        return f"{self.folder}/{digest[:DIGEST_DIGITS]}{ENDING}"

    def sizes(self) -> dict[str, int]:
        """Of the files, by key; 0: not known."""
        if self._sizes is None:
            if isinstance(self.blobs, LocalBlobs):
                sweep(self.blobs.root / self.folder)
            self._sizes = dict(self.blobs.list(f"{self.folder}/"))
        return self._sizes

    def __contains__(self, digest: str) -> bool:
        """Whether there is a file. Whether it is whole is seen when it is read."""
        return self.key(digest) in self.sizes()

    def load(self, digest: str, rows: int) -> Loaded | None:
        """What is stored of a chunk of `rows` images or texts; none where the file is missing, altered or another's."""
        key = self.key(digest)
        try:
            data = self.blobs.get(key, 0, self.sizes().get(key) or None)
        except FileNotFoundError:
            return None
        except OSError as error:
            log.warning("%s/%s: %s: these features are computed anew", self.blobs.where, key, one_line(error))
            return None
        try:
            features, metadata = check(key, data)
        except DataError as error:
            log.warning("%s/%s: these features are computed anew", self.blobs.where, error)
            return None
        if features.shape[:1] != (rows,):
            return None
        self.devices.add(metadata.get("device", "?"))
        if "warnings" in metadata:
            self._warnings[key] = metadata["warnings"]
        return features, metadata

    def warnings(self, digest: str, rows: int) -> dict[str, int]:
        """The counted warnings that are stored with texts; a file is read for them where it was not read before."""
        key = self.key(digest)
        if key not in self._warnings:
            self.load(digest, rows)
        counts: dict[str, int] = json.loads(self._warnings.get(key, "{}"))
        return counts

    def save(self, digest: str, features: NDArray[Any], *, over: bool = False, **metadata: str) -> None:
        """Writes a chunk's features, unless another was first; `over`: a file that is there is damaged, and goes."""
        from safetensors.numpy import save

        key = self.key(digest)
        about = {**metadata, "sha256": _digest(key, features, metadata)}
        data = save({"features": features}, metadata={"about": json.dumps(about, sort_keys=True)})  # several: any order
        if over:
            self.blobs.delete(key)
        self.sizes()[key] = len(data) if self.blobs.put_new(key, data) else 0  # another's: a reader asks for all of it

    def stored(self, digest: str) -> bytes:
        """The file of a chunk, for another process to `take`."""
        return self.blobs.get(self.key(digest))

    def take(self, digest: str, data: bytes) -> None:
        """Keeps a file as another process wrote it; one that is there stays."""
        key = self.key(digest)
        self.sizes()[key] = len(data) if self.blobs.put_new(key, data) else 0


def _digest(key: str, features: NDArray[Any], metadata: Mapping[str, str]) -> str:
    """Digest of a file: its values and shape, what is said of it, and its place (files could be swapped)."""
    about = [key, str(features.dtype), list(features.shape), dict(metadata)]
    return sha256_bytes(sha256_json(about).encode() + features.tobytes())


def check(key: str, data: bytes) -> Loaded:
    """What is in a file; DataError where it is not as it was written there."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        features = load(data)["features"]
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])  # which load() has judged to be whole
        metadata = dict(json.loads(header["__metadata__"]["about"]))
        recorded = metadata.pop("sha256")
    except (SafetensorError, ValueError, TypeError, LookupError) as error:
        raise DataError(f"{key}: altered or cut short ({one_line(error)})") from error
    if recorded != _digest(key, features, metadata):
        raise DataError(f"{key}: altered, cut short, or another's")
    return features, metadata


def verify_file(root: Path, file: Path) -> str | None:
    """Reads a file of a store's folder of features; "old" where it is of an earlier evalkit, which found features by
    the digest of a whole set (`<set>/<extractor>/<layer>/<number>`).

    Raises:
        DataError: it is not as it was written there.
    """
    key = file.relative_to(root).as_posix()
    if key.count("/") > 2:
        return "old"
    check(key, file.read_bytes())
    return None


def extractor_id(extractor: Extractor) -> str:
    """Names the extractor's folder in the store: digest of all that its features depend on, besides the images.

    The code belongs to it, and no more to the protocol than a comment does: a network whose file is edited is computed
    anew, and its scores still compare with those of before. The device is not in it, but stands in each file.
    """
    code = class_digest(type(extractor), *_SHARED)
    size = extractor.batch_size
    batches = size if isinstance(size, int) else dict(size)
    digest = sha256_json({"identity": extractor.identity(), "batch_size": batches, "code": code})
    return f"{extractor.name}-{digest[:ID_DIGITS]}"


def extractor_ids(addresses: Iterable[str], extractors: Mapping[str, Extractor]) -> list[str]:
    """Of the extractors behind some addresses, each once."""
    return [extractor_id(extractors[name]) for name in dict.fromkeys(a.partition("/")[0] for a in addresses)]
