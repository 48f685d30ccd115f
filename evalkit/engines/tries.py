"""What the processes of a gang note of units that they begin, so that one which ends whoever runs it is known.

A note is written before a unit is run and removed after it, however that went, as long as the process lives: what is
left is of those that died in it, or are at it now. The latter's notes grow: clocks of machines are not compared.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from evalkit.utils.blobs import Blobs
from evalkit.utils.files import sha256_bytes

DIGITS = 20  # of a unit's digest in the name of its note
NAMED = "named"  # is there once a unit was named: whoever starts then is another run of the command, and tries again


class Tries:
    """The tries of a run's units that have not ended.

    Args:
        notes: where they are; none: nothing is noted.
        rank: of this process.
        patience: seconds in which a note does not grow, until whoever wrote it is taken for dead.
        losses: processes that a unit may end before it is set aside.
    """

    def __init__(self, notes: Blobs | None, rank: int, patience: float, losses: int) -> None:
        self._notes, self._rank, self._patience, self._losses = notes, rank, patience, losses
        self._seen: dict[str, tuple[bytes, float, float]] = {}  # by name: what it held, since when, first seen when
        self._sizes: dict[str, int] = {}
        self._at: str | None = None  # this process's own note
        self._before = {name for name, _ in notes.list()} if notes is not None else set()
        if notes is not None and NAMED in self._before:
            for name in self._before:
                notes.delete(name)

    def look(self) -> None:
        """Reads what is noted now; by one listing, and a read per note that has changed."""
        if self._notes is None:
            return
        now, sizes = time.monotonic(), dict(self._notes.list())
        for name in set(self._seen) - set(sizes):
            del self._seen[name]
        for name, size in sizes.items():
            if self._sizes.get(name) != size and name not in (self._at, NAMED):
                with contextlib.suppress(OSError):  # it has just been removed
                    first = self._seen.get(name, (b"", now, now))[2]
                    self._seen[name] = (self._notes.get(name), now, first)
        self._sizes = sizes

    def count(self, key: str) -> int:
        """How many processes a unit has ended."""
        return sum(self._dead(name) for name in self._of(key))

    def set_aside(self, key: str) -> bool:
        """Whether it has ended too many."""
        return self.count(key) >= self._losses

    def free(self, key: str) -> bool:
        """Whether this process may try it: not while somebody has begun within `patience`, nor once it is set aside."""
        now = time.monotonic()
        begun = any(not self._dead(name) and now - self._seen[name][2] < self._patience for name in self._of(key))
        return not begun and not self.set_aside(key)

    def noted(self, run: Callable[[Any, Any], None]) -> Callable[[Any, Any], None]:
        """Runs units with a note of each; none that another process has begun since the last look."""

        def run_noted(unit: Any, tell: Any) -> None:
            with self._note(unit.key) as ours:
                if ours:
                    run(unit, tell)

        return run_noted

    def name(self, units: Sequence[Any]) -> None:
        """Notes that units are named: a later start forgets what was noted of them."""
        assert self._notes is not None
        self._notes.put(NAMED, b"\n".join(unit.label.encode() for unit in units))

    @contextlib.contextmanager
    def _note(self, key: str) -> Iterator[bool]:
        if self._notes is None:
            yield True
            return
        numbers = [int(name.rpartition(".")[2]) for name in self._of(key)]
        name, text = f"{_digest(key)}.{max(numbers, default=-1) + 1}", f"{self._rank} ".encode()
        if not self._notes.put_new(name, text):  # of several that would try it after the same loss, one does
            yield False
            return
        self._at, over = name, threading.Event()
        beats = threading.Thread(target=self._beat, args=(self._notes, name, text, over), daemon=True)
        beats.start()
        try:
            yield True
        finally:
            over.set()
            beats.join(5)  # or its last word is there again after the note is removed, which only a failed unit minds
            self._notes.delete(name)
            self._at = None

    def _beat(self, notes: Blobs, name: str, text: bytes, over: threading.Event) -> None:
        while not over.wait(self._patience / 4):
            text += b"."
            with contextlib.suppress(Exception):  # the unit itself tells of a store that cannot be written
                notes.put(name, text)

    def _of(self, key: str) -> list[str]:
        return [name for name in self._seen if name.startswith(f"{_digest(key)}.")]

    def _dead(self, name: str) -> bool:
        """Whether a note is of a process that is gone: this rank's before this one, or any that is silent."""
        text, since, _ = self._seen[name]
        earlier = name in self._before and text.startswith(f"{self._rank} ".encode())
        return earlier or time.monotonic() - since >= self._patience


def _digest(key: str) -> str:
    return sha256_bytes(key.encode())[:DIGITS]
