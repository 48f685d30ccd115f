"""What runs in a Ray worker: units in one thread, while another hands on their progress and log lines. Needs no Ray."""

from __future__ import annotations

import logging
import queue
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from evalkit.engines.base import Run
from evalkit.errors import EvalkitError

WAIT = 5.0  # seconds until `news` answers that there are none: the driver then knows that this worker lives
LOGGER = "evalkit"  # whose lines the driver gets
GATHER = 0.2  # seconds that more news are waited for


class Stopped(BaseException):
    """The run was stopped; what the unit had begun is put away as it passes."""


@dataclass
class News:
    """Since the last: images done by name, and (level, line) of the log."""

    told: dict[str, int] = field(default_factory=dict)
    logged: list[tuple[int, str]] = field(default_factory=list)


@dataclass
class Failure:
    """What a unit raised; exceptions of other packages may not survive pickling."""

    error: EvalkitError | None
    text: str

    def raised(self, worker: str, label: str) -> Exception:
        """What to raise in the driver: of the same class where it is ours, else with the worker's traceback."""
        if self.error is None:
            summary = self.text.rstrip().rpartition("\n")[2]
            error = RuntimeError(f"{worker}: {label}: {summary}")
            error.add_note(self.text)
            return error
        self.error.args = (f"{worker}: {self.text}", *self.error.args[1:])
        return self.error


class Actor:
    """A worker. `run` takes one unit at a time; `news` and `stop` are called while it is at work."""

    def __init__(self) -> None:
        self._run: Run | None = None
        self._stopped = threading.Event()
        self._news: queue.SimpleQueue[tuple[Any, Any]] = queue.SimpleQueue()

    def open(self, opener: Callable[[], Run]) -> tuple[str, str, EvalkitError | None]:
        """This host, its name in the cluster, and why the worker refuses, if it does."""
        logger = logging.getLogger(LOGGER)
        logger.addHandler(_Handler(self._news))
        logger.setLevel(logging.INFO)
        logger.propagate = False
        refusal = None
        try:
            self._run = opener()
        except EvalkitError as error:
            refusal = error
        return socket.gethostname(), _node(), refusal

    def run(self, unit: Any) -> Failure | None:
        """Runs a unit: none where all went well."""
        assert self._run is not None
        try:
            self._run(unit, self._tell)
        except EvalkitError as error:
            return Failure(error, str(error))
        except Exception:
            return Failure(None, traceback.format_exc())
        except Stopped:
            return None
        return None

    def _tell(self, name: str, count: int) -> None:
        if self._stopped.is_set():
            raise Stopped
        self._news.put((name, count))

    def news(self) -> News:
        """What there is to tell, as soon as there is something; nothing after 5 s."""
        news = News()
        try:
            name, value = self._news.get(timeout=WAIT)
            time.sleep(GATHER)
            while True:
                if isinstance(name, str):
                    news.told[name] = news.told.get(name, 0) + value
                else:
                    news.logged.append((name, value))
                name, value = self._news.get_nowait()
        except queue.Empty:
            return news

    def stop(self) -> None:
        """The unit at work ends at its next batch."""
        self._stopped.set()


def _node() -> str:
    """This node's id in the cluster; empty where this is no worker of one."""
    ray = sys.modules.get("ray")
    return str(ray.get_runtime_context().get_node_id()) if ray and ray.is_initialized() else ""


class _Handler(logging.Handler):
    """Log records as lines for the driver."""

    def __init__(self, news: queue.SimpleQueue[tuple[Any, Any]]) -> None:
        super().__init__()
        self._news = news

    def emit(self, record: logging.LogRecord) -> None:
        self._news.put((record.levelno, self.format(record)))
