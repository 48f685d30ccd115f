"""A worker's main loop: a process that `Local` started, which takes units from its standard input, one at a time.

The driver's end of it is `process.py`. Messages are pickled tuples of plain values, back on what was standard output:
("ready",), ("started",), ("tell", name, count), ("log", logger, level, text), ("done",), ("failed", failure).
"""

from __future__ import annotations

import ctypes
import faulthandler
import logging
import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any, BinaryIO

from evalkit.engines.base import BESIDE, Run
from evalkit.engines.voice import Forward, describe
from evalkit.errors import EXIT_DONE, EXIT_TERMINATED
from evalkit.utils.signals import Terminated, leave, sigterm_is_ctrl_c

_PR_SET_PDEATHSIG = 1

Send = Callable[..., None]


def main() -> None:
    """The process's whole life: argument 2 is the driver's process id."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group; the driver ends its workers
    faulthandler.enable()  # a segmentation fault says where
    code = EXIT_DONE
    with sigterm_is_ctrl_c():
        try:
            _die_with(int(sys.argv[2]))
            inlet, send = _channels()
            _serve(inlet, send)
        except Terminated:
            code = EXIT_TERMINATED
        except EOFError:  # the driver has no more work, or is gone
            pass
        leave(code)


def _serve(inlet: BinaryIO, send: Send) -> None:
    """Runs units until the driver closes the pipe (EOFError)."""
    label = ""
    try:
        _set_up_logging(pickle.load(inlet), send)
        run: Run = pickle.load(inlet)()
        send("ready")
        while True:
            unit, os.environ[BESIDE] = pickle.load(inlet)
            label = unit.label
            send("started")
            run(unit, lambda name, count: send("tell", name, count))
            send("done")
    except (EOFError, Terminated):
        raise
    except BaseException as error:
        send("failed", describe(error, label))
        raise EOFError from error


def _channels() -> tuple[BinaryIO, Send]:
    """The pipes to the driver. What else prints goes to standard error, what else reads finds nothing."""
    inlet, outlet = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb", buffering=0)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(2, 1)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    lock = threading.Lock()

    def send(*message: Any) -> None:
        data = memoryview(pickle.dumps(message))
        with lock:
            try:
                while data:
                    data = data[outlet.write(data) :]
            except OSError:  # the driver is gone: the unit in hand is finished, then the inlet has ended too
                pass

    return inlet, send


def _set_up_logging(levels: dict[str, int], send: Send) -> None:
    """Loggers are as loud as the driver's; records of ours and warnings go to the driver."""
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
    logger = logging.getLogger("evalkit")
    logger.addHandler(Forward(lambda name, level, text: send("log", name, level, text)))
    logger.propagate = False


def _die_with(driver: int) -> None:
    """Linux: SIGTERM comes where the driver dies. Elsewhere the worker ends after the unit in hand."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != driver:  # it died before that
        raise EOFError
