"""This end of a scorer's process: starts it, asks it, keeps its last words, ends it."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.errors import printable
from evalkit.utils.text import one_line

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

WORKER = Path(__file__).with_name("worker.py")
STOP_SECONDS = 2.0  # that a process has to go by itself, after its input ended
KEPT_LINES = 30  # of its standard error
SHOWN_LINES = 3
_OURS = ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__")

log = logging.getLogger(__name__)


class Gone(Exception):
    """The process ended before it answered; the message says how, with its last words."""


class Refused(Exception):
    """The scorer raised an error, and is still there.

    Attributes:
        memory: whether it ran out of memory.
    """

    def __init__(self, message: str, memory: bool) -> None:
        super().__init__(message)
        self.memory = memory


class ScorerProcess:
    """A process that runs `worker.py`. It ends with `close`, with this object, or with this process, however it ends.

    It is in a session of its own: Ctrl-C at the terminal is this process's to answer.

    Args:
        python: the interpreter, which has numpy.
        device: what it will load to: on the CPU its networks run on one thread, as ours do, so that scores do not
            depend on the number of cores.
        seconds: the most that a message may take; none: any time.

    Raises:
        Gone: it did not start.
    """

    def __init__(self, python: str, device: str = "cpu", seconds: float | None = None) -> None:
        from evalkit.extractors.isolated.worker import PROTOCOL

        ours = python == sys.executable
        environ = {name: value for name, value in os.environ.items() if ours or name not in _OURS}
        if device == "cpu":
            environ["OMP_NUM_THREADS"] = "1"
        self._lines: deque[str] = deque(maxlen=KEPT_LINES)
        self._lock = threading.Lock()
        self._late = False
        try:
            self._popen = subprocess.Popen(
                [python, "-s", str(WORKER), str(os.getpid())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=environ | {"PYTHONUNBUFFERED": "1"},
                start_new_session=True,
            )
        except OSError as error:
            raise Gone(f"{python} cannot be run: {error.strerror or error}") from error
        self._end = weakref.finalize(self, _end, self._popen)  # at exit too
        self._reader = threading.Thread(target=_keep_lines, args=(self._popen, self._lines), daemon=True)
        self._reader.start()
        self.hello = self._answer(None)[0]  # its protocol, Python and numpy
        self._seconds = seconds
        if self.hello.get("protocol") != PROTOCOL:
            self.close()
            raise Gone(f"it speaks protocol {self.hello.get('protocol')}, not {PROTOCOL}")

    @property
    def pid(self) -> int:
        return self._popen.pid

    def ask(
        self, header: Mapping[str, Any], arrays: Sequence[NDArray[np.uint8]] = (), *, limit: bool = True
    ) -> tuple[dict[str, Any], list[NDArray[np.float32]]]:
        """Sends a message and waits for its answer.

        Args:
            header: JSON.
            arrays: any number, of any shapes.
            limit: whether `seconds` hold.

        Raises:
            Gone: the process ended, or took too long and was ended.
            Refused: the scorer raised.
        """
        from evalkit.extractors.isolated.worker import send

        with self._lock:
            try:
                assert self._popen.stdin is not None
                send(self._popen.stdin, header, arrays)
            except OSError:
                raise self._gone() from None
            found, values = self._answer(self._seconds if limit else None)
        if "error" in found:
            raise Refused(one_line(found["error"]), bool(found.get("memory")))
        return found, values

    def _answer(self, seconds: float | None) -> tuple[dict[str, Any], list[Any]]:
        from evalkit.extractors.isolated.worker import receive

        watch = threading.Timer(seconds, self._stop_late) if seconds else None
        if watch is not None:
            watch.start()
        try:
            return receive(self._popen.stdout)  # type: ignore[arg-type]
        except (EOFError, OSError):
            raise self._gone(seconds) from None
        except (ValueError, TypeError, LookupError, AttributeError, MemoryError) as error:
            self.close(wait=False)
            raise Gone(f"what it answered is none of the protocol's messages: {one_line(error)}") from None
        except BaseException:  # Ctrl-C in the middle of an answer
            self.close(wait=False)
            raise
        finally:
            if watch is not None:
                watch.cancel()

    def _stop_late(self) -> None:
        self._late = True
        _kill(self._popen)

    def _gone(self, seconds: float | None = None) -> Gone:
        code = _end(self._popen)
        self._reader.join(1.0)  # children of its own may hold the pipe
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        how = f"gave no answer in {seconds:g} s" if self._late else how
        said = self.last_words()
        return Gone(f"its process {how}" + (f": {said}" if said else ""))

    def last_words(self) -> str:
        """The last lines of its standard error, in one."""
        return one_line(" | ".join(list(self._lines)[-SHOWN_LINES:]))

    def close(self, *, wait: bool = True) -> None:
        """Ends the process; `wait`: it may take 2 s to go by itself."""
        if not wait:
            _kill(self._popen)
        self._end()


def _keep_lines(popen: subprocess.Popen[bytes], lines: deque[str]) -> None:
    for line in popen.stderr or ():
        text = printable(line.decode(errors="replace").rstrip().rpartition("\r")[2])
        if text:
            lines.append(text)
            log.debug("%d: %s", popen.pid, text)


def _kill(popen: subprocess.Popen[bytes]) -> None:
    """Ends a process and all that it started; does nothing once it was waited for: its number may be another's."""
    if popen.returncode is None:
        with contextlib.suppress(OSError):
            os.killpg(popen.pid, signal.SIGKILL)
        popen.kill()


def _end(popen: subprocess.Popen[bytes]) -> int:
    """Ends a process by the end of its input, else by force; its exit code."""
    for pipe in (popen.stdin, popen.stdout):
        with contextlib.suppress(OSError, ValueError):
            if pipe is not None:
                pipe.close()
    end = time.monotonic() + STOP_SECONDS
    while popen.returncode is None and not _is_over(popen) and time.monotonic() < end:
        time.sleep(0.005)
    _kill(popen)  # what it started too, while its number is still its own
    return popen.wait()


def _is_over(popen: subprocess.Popen[bytes]) -> bool:
    """Whether a process has ended; it is not waited for, where the system can tell without."""
    if not hasattr(os, "waitid"):
        return popen.poll() is not None
    try:
        return os.waitid(os.P_PID, popen.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:  # another thread waited for it
        return True
