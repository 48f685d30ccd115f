"""The driver's end of a worker process: starts it, gives it units, hears it, ends it."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import pickle
import queue
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import IO, Any

from evalkit.engines.base import Run
from evalkit.errors import printable

PATIENCE = 4.0  # seconds that a worker has to put away what it had begun

Events = queue.SimpleQueue[tuple["Process", tuple[Any, ...]]]

# SIGINT of the group first: the import takes longer. The path: what the driver can import, its workers can.
_CODE = (
    "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
    "import json, sys; sys.path[:] = json.loads(sys.argv[1])\n"
    "from evalkit.engines.worker import main; main()\n"
)


class Process:
    """A worker process. What it says comes as (process, message) into `events`; ("gone",) is the last.

    Args:
        slot: its number among the workers, from 0; whoever takes its place has the same.
        open: see `Work.open`.
        environment: variables to set, before anything is imported there.
        events: where to.

    Attributes:
        ready: whether it takes units.
        unit: the one in its hand.
        started: whether it said that it started on that.
    """

    def __init__(self, slot: int, open: Callable[[], Run], environment: Mapping[str, str], events: Events) -> None:
        self.slot, self.ready, self.started = slot, False, False
        self.unit: Any = None
        self._last: deque[str] = deque(maxlen=20)
        self._popen: subprocess.Popen[bytes] = subprocess.Popen(
            [sys.executable, "-c", _CODE, json.dumps(sys.path), str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ | environment,
        )
        self._readers = [
            threading.Thread(target=self._hear, args=(events,), daemon=True),
            threading.Thread(target=self._hear_errors, args=(events,), daemon=True),
        ]
        for reader in self._readers:
            reader.start()
        self._send(_levels(), open)

    @property
    def name(self) -> str:
        """As people count: from 1."""
        return f"worker {self.slot + 1}"

    @property
    def pid(self) -> int:
        return self._popen.pid

    def give(self, unit: Any, beside: int) -> None:
        """Has it run a unit, next to so many workers in all."""
        self.unit, self.started = unit, False
        self._send((unit, str(beside)))

    def code(self) -> int:
        """The exit code, once it is gone."""
        return self._popen.wait()

    def last_words(self) -> str:
        """The last lines of its standard error, in one."""
        self._readers[1].join(1.0)  # its own children may hold the pipe
        return printable(" | ".join(list(self._last)[-5:]))

    def _send(self, *values: Any) -> None:
        with contextlib.suppress(OSError):  # it is gone: the event says so
            for value in values:
                self._in.write(pickle.dumps(value))
            self._in.flush()

    @property
    def _in(self) -> IO[bytes]:
        assert self._popen.stdin is not None
        return self._popen.stdin

    def _hear(self, events: Events) -> None:
        with contextlib.suppress(Exception):  # cut short by a kill
            while True:
                events.put((self, pickle.load(self._popen.stdout)))  # type: ignore[arg-type]
        events.put((self, ("gone",)))

    def _hear_errors(self, events: Events) -> None:
        for line in self._popen.stderr or ():
            text = printable(line.decode(errors="replace").rstrip().rpartition("\r")[2])
            if text:
                self._last.append(text)
                events.put((self, ("log", __name__, logging.INFO, text)))


def end(processes: Iterable[Process]) -> None:
    """Ends workers: SIGTERM at once, SIGKILL to those that are still there after 4 s, or at a second Ctrl-C."""
    pending = [process._popen for process in processes]
    deadline = time.monotonic() + PATIENCE
    try:
        for popen in pending:
            popen.terminate()
        for popen in pending:
            with contextlib.suppress(subprocess.TimeoutExpired):
                popen.wait(max(deadline - time.monotonic(), 0.01))
    finally:
        for popen in pending:
            popen.kill()
            popen.wait()
            for pipe in (popen.stdin, popen.stdout):
                with contextlib.suppress(OSError):
                    pipe.close()  # type: ignore[union-attr]


def _levels() -> dict[str, int]:
    """How loud the driver's loggers are, where that was set."""
    loggers = dict(logging.root.manager.loggerDict)
    return {name: it.level for name, it in loggers.items() if isinstance(it, logging.Logger) and it.level}
