"""Writes a shard while the next images are made: encoded in threads under a temporary name, then renamed."""

from __future__ import annotations

import errno
import os
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from evalkit.data import codec
from evalkit.data.shard_format import METADATA
from evalkit.samples.rows import write_rows
from evalkit.utils.files import sha256_bytes, temporary_path, writing

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

WORKERS = 4  # mostly waiting for fsync: four at a time take 0.2 ms per image, one after another 1 ms
QUEUE_BYTES = 256_000_000  # of pixels that wait to be written; a slower disk then slows generation down


class ShardWriter:
    """Collects a shard's images; leaves its folder whole or not at all.

        with ShardWriter(final, cell.key) as writer:
            writer.add(row, pixels)
            made = writer.commit()

    Leaving it without `commit`, for whatever reason, removes all that was written.

    Args:
        final: the folder's name.
        key: of the cell.
        encode: u8 [H,W,3] -> PNG; called in threads.
    """

    def __init__(self, final: Path, key: str, encode: Callable[[NDArray[np.uint8]], bytes] = codec.encode_png) -> None:
        self.final, self._encode = final, encode
        self.key = key
        self._stack = ExitStack()
        self._pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="evalkit-write")
        self._waiting: deque[Future[None]] = deque()
        self.rows: list[dict[str, Any]] = []  # the lines of metadata.jsonl; whole once `commit` is called

    def __enter__(self) -> Self:
        with writing(self.final), ExitStack() as stack:
            self.folder = stack.enter_context(temporary_path(self.final))
            self.folder.mkdir()
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
        self.rows.append(line)
        self._waiting.append(self._pool.submit(self._write, line, pixels))
        while len(self._waiting) * pixels.nbytes > QUEUE_BYTES:
            self._waiting.popleft().result()
        while self._waiting and self._waiting[0].done():
            self._waiting.popleft().result()  # a full disk is known at once, not after the last batch

    def _write(self, line: dict[str, Any], pixels: NDArray[np.uint8]) -> None:
        data = self._encode(pixels)
        line["sha256"] = sha256_bytes(data)
        with writing(self.final):
            _write_synced(self.folder / str(line["file_name"]), data)

    def commit(self) -> bool:
        """Gives the shard its name; false where another process was first, whose shard then counts.

        Raises:
            StoreError: the disk is full, say.
        """
        self.finish()
        text = write_rows(self.rows, self.key)
        with writing(self.final):
            _write_synced(self.folder / METADATA, text.encode())
            _sync_folder(self.folder)
            try:
                self.folder.rename(self.final)
            except OSError as error:
                if error.errno in (errno.ENOTEMPTY, errno.EEXIST) or self.final.is_dir():
                    return False
                raise
            _sync_folder(self.final.parent)
        return True

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
