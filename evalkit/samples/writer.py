"""Writes a shard while the next images are made: encoded in threads; it is there whole or not at all.

A folder is filled under a temporary name and renamed; a zip is put together in memory and put once.
"""

from __future__ import annotations

import errno
import io
import os
import threading
import zipfile
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

from evalkit.data import codec
from evalkit.data.shard_format import METADATA
from evalkit.engines.base import beside
from evalkit.engines.launch import cores
from evalkit.samples.rows import write_rows
from evalkit.utils import devices
from evalkit.utils.blobs import Blobs
from evalkit.utils.files import sha256_bytes, sweep_once, temporary_path, writing

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

WORKERS = 4  # mostly waiting for fsync: four at a time take 0.2 ms per image, one after another 1 ms
MOST_WORKERS = 8  # of an accelerator's images: its last shard is waited for
QUEUE_BYTES = 256_000_000  # of pixels that wait to be written; a slower disk then slows generation down
_EPOCH = (1980, 1, 1, 0, 0, 0)  # of all members: the same images give the same zip


def workers_for(device: str) -> int:
    """Threads that write a shard of images that a device made, each with a process that encodes on an accelerator."""
    if not devices.is_accelerator(device):
        return WORKERS
    return max(WORKERS, min(MOST_WORKERS, cores() // beside()))


class Target(Protocol):
    """Where a shard is written: its files in any order, then `commit`."""

    def begin(self, stack: ExitStack) -> None:
        """Makes ready; leaving `stack` removes what was not committed."""

    def write(self, name: str, data: bytes) -> None:
        """Takes a file, from any thread."""

    def commit(self, metadata: bytes) -> bool:
        """Makes the shard be there; false where another process was first, whose shard then counts."""


class FolderTarget:
    """A folder of PNGs."""

    def __init__(self, final: Path) -> None:
        self.final = final

    def begin(self, stack: ExitStack) -> None:
        with writing(self.final):
            self.final.parent.mkdir(parents=True, exist_ok=True)
            sweep_once(self.final.parent)
            self.folder = stack.enter_context(temporary_path(self.final))
            self.folder.mkdir()

    def write(self, name: str, data: bytes) -> None:
        with writing(self.final):
            _write_synced(self.folder / name, data)

    def commit(self, metadata: bytes) -> bool:
        with writing(self.final):
            _write_synced(self.folder / METADATA, metadata)
            _sync_folder(self.folder)
            try:
                self.folder.rename(self.final)
            except OSError as error:
                if error.errno in (errno.ENOTEMPTY, errno.EEXIST) or self.final.is_dir():
                    return False
                raise
            _sync_folder(self.final.parent)
        return True


@dataclass
class ZipTarget:
    """A stored zip: images in their order, metadata last."""

    blobs: Blobs
    key: str

    def begin(self, stack: ExitStack) -> None:
        self._files: dict[str, bytes] = {}
        self._lock = threading.Lock()

    def write(self, name: str, data: bytes) -> None:
        with self._lock:
            self._files[name] = data

    def commit(self, metadata: bytes) -> bool:
        made = io.BytesIO()
        with zipfile.ZipFile(made, "w", zipfile.ZIP_STORED) as whole:
            for name in (*sorted(self._files), METADATA):
                whole.writestr(zipfile.ZipInfo(name, _EPOCH), self._files.pop(name, metadata))
        return self.blobs.put_new(self.key, made.getvalue())


class ShardWriter:
    """Collects a shard's images; leaves it whole or not at all.

        with ShardWriter(FolderTarget(path), cell.key) as writer:
            writer.add(row, pixels)
            made = writer.commit()

    Leaving it without `commit`, for whatever reason, removes all that was written.

    Args:
        target: where to.
        key: of the cell.
        encode: u8 [H,W,3] -> PNG; called in threads.
        keep: whether the image of a sample is to be kept (`keep_images`); its file's digest is recorded all the same.
        workers: threads.
    """

    def __init__(
        self,
        target: Target,
        key: str,
        encode: Callable[[NDArray[np.uint8]], bytes] = codec.encode_png,
        keep: Callable[[int], bool] = lambda index: True,
        workers: int = WORKERS,
    ) -> None:
        self.target, self._encode = target, encode
        self.key = key
        self.keep = keep
        self.rows: list[dict[str, Any]] = []  # the lines of metadata.jsonl; whole once `commit` is called
        self._stack = ExitStack()
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="evalkit-write")
        self._waiting: deque[Future[None]] = deque()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self.target.begin(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._stack.close()  # removes the temporary folder where it was not committed

    def add(self, row: Mapping[str, Any], pixels: NDArray[np.uint8]) -> None:
        """Queues an image u8 [H,W,3] and its line of metadata (file_name given; sha256 and size are added).

        Raises:
            StoreError: an image that was queued before could not be written.
        """
        line = {**row, "sha256": "", "width": pixels.shape[1], "height": pixels.shape[0]}
        if not self.keep(line["index"]):
            line["kept"] = False
        self.rows.append(line)
        self._waiting.append(self._pool.submit(self._write, line, pixels))
        while len(self._waiting) * pixels.nbytes > QUEUE_BYTES:
            self._waiting.popleft().result()
        while self._waiting and self._waiting[0].done():
            self._waiting.popleft().result()  # a full disk is known at once, not after the last batch

    def _write(self, line: dict[str, Any], pixels: NDArray[np.uint8]) -> None:
        data = self._encode(pixels)
        line["sha256"] = sha256_bytes(data)
        if line.get("kept", True):
            self.target.write(str(line["file_name"]), data)

    def commit(self) -> bool:
        """Makes the shard be there; false where another process was first, whose shard then counts.

        Raises:
            StoreError: the disk is full, say.
        """
        self.finish()
        return self.target.commit(write_rows(self.rows, self.key).encode())

    def finish(self) -> None:
        """Waits until all images are encoded: `rows` have their digests."""
        while self._waiting:
            self._waiting.popleft().result()


def _write_synced(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # folders cannot be opened there
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
