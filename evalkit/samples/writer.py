"""Writes a shard while the next images are made: encoded in threads under a temporary name, then renamed."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import secrets
import shutil
import socket
import time
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from evalkit.data import codec
from evalkit.data.shard_format import METADATA
from evalkit.utils.files import sha256_bytes, writing

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

WORKERS = 4  # mostly waiting for fsync: four at a time take 0.2 ms per image, one after another 1 ms
QUEUE_BYTES = 256_000_000  # of pixels that wait to be written; a slower disk then slows generation down

_FOREIGN_AGE = 2 * 86_400.0  # seconds without a new file, after which another machine's leftovers are swept
_TEMPORARY = re.compile(r"\.tmp-.+-(?P<pid>\d+)-[0-9a-f]{8}")
_ACTIVE: set[Path] = set()  # folders of this process's writers, which `sweep` must leave


class ShardWriter:
    """Collects a shard's images; leaves its folder whole or not at all.

        with ShardWriter(final) as writer:
            writer.add(row, pixels)
            made = writer.commit()

    Leaving it without `commit`, for whatever reason, removes all that was written.
    """

    def __init__(self, final: Path) -> None:
        self.final = final
        self.folder = final.parent / f".tmp-{final.name}-{_host()}-{os.getpid()}-{secrets.token_hex(4)}"
        self._pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="evalkit-write")
        self._waiting: deque[Future[None]] = deque()
        self._rows: list[dict[str, Any]] = []

    def __enter__(self) -> Self:
        with writing(self.folder):
            self.folder.mkdir()
        _ACTIVE.add(self.folder)
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
        shutil.rmtree(self.folder, ignore_errors=True)  # gone already where it was committed
        _ACTIVE.discard(self.folder)

    def add(self, row: Mapping[str, Any], pixels: NDArray[np.uint8]) -> None:
        """Queues an image u8 [H,W,3] and its line of metadata (file_name given; sha256 and size are added).

        Raises:
            StoreError: an image that was queued before could not be written.
        """
        line = {**row, "sha256": "", "width": pixels.shape[1], "height": pixels.shape[0]}
        self._rows.append(line)
        self._waiting.append(self._pool.submit(self._write, line, pixels))
        while len(self._waiting) * pixels.nbytes > QUEUE_BYTES:
            self._waiting.popleft().result()
        while self._waiting and self._waiting[0].done():
            self._waiting.popleft().result()  # a full disk is known at once, not after the last batch

    def _write(self, line: dict[str, Any], pixels: NDArray[np.uint8]) -> None:
        data = codec.encode_png(pixels)
        line["sha256"] = sha256_bytes(data)
        with writing(self.folder):
            _write_synced(self.folder / str(line["file_name"]), data)

    def commit(self) -> bool:
        """Gives the shard its name; false where another process was first, whose shard then counts.

        Raises:
            StoreError: the disk is full, say.
        """
        while self._waiting:
            self._waiting.popleft().result()
        text = "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in self._rows)
        with writing(self.folder):
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


def sweep(shards: Path) -> None:
    """Removes what killed processes left in a cell's folder; those of living ones, and of other machines, are left."""
    with contextlib.suppress(OSError):  # a read-only store, or another process sweeps as well
        for path in shards.iterdir():
            if path not in _ACTIVE and _abandoned(path):
                shutil.rmtree(path, ignore_errors=True)


def _abandoned(path: Path) -> bool:
    match = _TEMPORARY.fullmatch(path.name)
    if match is None:
        return False
    if f"-{_host()}-{match['pid']}-" not in path.name:
        return time.time() - path.stat().st_mtime > _FOREIGN_AGE
    import psutil

    pid = int(match["pid"])
    return pid == os.getpid() or not psutil.pid_exists(pid)


def _host() -> str:
    """This machine; and the process namespace, since containers of one name may share a store."""
    namespace = ""
    with contextlib.suppress(OSError):
        namespace = f".{os.stat('/proc/self/ns/pid').st_ino}"  # noqa: PTH116
    return re.sub(r"[^A-Za-z0-9.]+", "_", socket.gethostname() + namespace)


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
