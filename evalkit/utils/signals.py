"""SIGTERM as Ctrl-C: Slurm, Kubernetes and CI time-outs send it, and what is being written is to be put away first."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn


class Terminated(KeyboardInterrupt):
    """The process was sent SIGTERM; wherever Ctrl-C is handled, so is this."""


def leave(code: int) -> NoReturn:
    """Ends the process as `sys.exit` does, but does not take the interpreter apart, which with torch takes seconds."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):
            stream.flush()
    atexit._run_exitfuncs()
    os._exit(code)


@contextmanager
def sigterm_is_ctrl_c() -> Iterator[None]:
    """Raises `Terminated` where SIGTERM comes; a second one does not stop the putting away. As before afterwards.

    Does nothing outside of the main thread, where Python handles no signals.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise Terminated

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
