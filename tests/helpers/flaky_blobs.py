"""A store that fails as shared folders and buckets do: over any Blobs, and by a seed."""

from __future__ import annotations

import errno
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from evalkit.utils.blobs import Blobs


@dataclass
class _State:
    """What all views (`below`) of one store share."""

    random: random.Random
    lock: threading.Lock = field(default_factory=threading.Lock)
    written: dict[str, float] = field(default_factory=dict)  # when each key was put, in this process
    counts: Counter[str] = field(default_factory=Counter)


@dataclass
class FlakyBlobs:
    """Another's keys, with faults.

    Attributes:
        blobs: what holds them.
        errors: share of calls that fail and change nothing, as a 503 does.
        lost: share of puts that are done, but whose answer is an error.
        cut: share of gets that give half of the bytes: a connection was lost.
        delay: seconds that each call takes, at most.
        stale: seconds for which a listing, and a look whether a key is there, do not show what was just put.
        seed: of the faults.
    """

    blobs: Blobs
    errors: float = 0.0
    lost: float = 0.0
    cut: float = 0.0
    delay: float = 0.0
    stale: float = 0.0
    seed: int = 0
    before: str = ""
    state: _State = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        if self.state is None:
            self.state = _State(random.Random(self.seed))

    @property
    def where(self) -> str:
        return self.blobs.where

    @property
    def counts(self) -> Counter[str]:
        """Calls by verb."""
        return self.state.counts

    def put_new(self, key: str, data: bytes) -> bool:
        self._begin("put_new")
        made = self.blobs.put_new(key, data)
        self._written(key)
        return made

    def put(self, key: str, data: bytes) -> None:
        self._begin("put")
        self.blobs.put(key, data)
        self._written(key)

    def get(self, key: str, start: int | None = None, stop: int | None = None) -> bytes:
        self._begin("get")
        data = self.blobs.get(key, start, stop)
        if not self._happens(self.cut):
            return data
        if stop is None:
            raise OSError(errno.ECONNRESET, "the body ended early")  # as clients find by its Content-Length
        return data[: len(data) // 2]

    def list(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        self._begin("list")
        now = time.monotonic()
        listed = list(self.blobs.list(prefix))
        return iter([(k, n) for k, n in listed if now - self.state.written.get(self.before + k, -1e9) >= self.stale])

    def delete(self, key: str) -> None:
        self._begin("delete")
        self.blobs.delete(key)

    def below(self, prefix: str) -> FlakyBlobs:
        faults = (self.errors, self.lost, self.cut, self.delay, self.stale, self.seed)
        return FlakyBlobs(self.blobs.below(prefix), *faults, f"{self.before}{prefix}/", self.state)

    def _begin(self, verb: str) -> None:
        with self.state.lock:
            self.state.counts[verb] += 1
        if self.delay:
            time.sleep(self.delay * self._random())
        if self._happens(self.errors):
            raise OSError(errno.EBUSY, "503 Slow Down")

    def _written(self, key: str) -> None:
        with self.state.lock:
            self.state.written.setdefault(self.before + key, time.monotonic())
        if self._happens(self.lost):
            raise OSError(errno.ECONNRESET, "the answer was lost")

    def _happens(self, share: float) -> bool:
        return share > 0 and self._random() < share

    def _random(self) -> float:
        with self.state.lock:
            return self.state.random.random()
