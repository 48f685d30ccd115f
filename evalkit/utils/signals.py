"""SIGTERM as Ctrl-C: Slurm, Kubernetes and CI time-outs send it, and what is being written is to be put away first."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Terminated(KeyboardInterrupt):
    """The process was sent SIGTERM; wherever Ctrl-C is handled, so is this."""


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
