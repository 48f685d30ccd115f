"""What runs in a Ray worker: units in one thread, while another hands on their progress and log lines. Needs no Ray."""

from __future__ import annotations

import logging
import os
import queue
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from evalkit.engines.base import BESIDE, Run
from evalkit.engines.voice import Failure, Forward, describe

WAIT = 5.0  # seconds until `news` answers that there are none: the driver then knows that this worker lives
LOGGER = "evalkit"  # whose lines the driver gets
GATHER = 0.2  # seconds that more news are waited for


class Stopped(BaseException):
    """The run was stopped; what the unit had begun is put away as it passes."""


@dataclass
class News:
    """Since the last: images done by name, and (logger, level, line) of the log."""

    told: dict[str, int] = field(default_factory=dict)
    logged: list[tuple[str, int, str]] = field(default_factory=list)

    def add(self, name: str, count: int, *text: str) -> None:
        """A name and images, or a record: logger, level, line."""
        if text:
            self.logged.append((name, count, *text))  # type: ignore[arg-type]
        else:
            self.told[name] = self.told.get(name, 0) + count


class Actor:
    """A worker. `run` takes one unit at a time; `news` and `stop` are called while it is at work."""

    def __init__(self) -> None:
        self._run: Run | None = None
        self._stopped = threading.Event()
        self._news: queue.SimpleQueue[tuple[Any, ...]] = queue.SimpleQueue()

    def open(self, opener: Callable[[], Run]) -> tuple[str, str, Failure | None]:
        """This host, this node's id in the cluster, and why the worker refuses, if it does."""
        logger = logging.getLogger(LOGGER)
        logger.addHandler(Forward(lambda *record: self._news.put(record)))
        logger.setLevel(logging.INFO)
        logger.propagate = False
        refusal = None
        try:
            self._run = opener()
        except Exception as error:
            refusal = describe(error)
        return socket.gethostname(), _node(), refusal

    def run(self, unit: Any, beside: int) -> tuple[Failure | None, News]:
        """Runs a unit, with so many workers of this run on this machine: what it raised, if it did, and its news."""
        assert self._run is not None
        os.environ[BESIDE] = str(beside)
        failure = None
        try:
            self._run(unit, self._tell)
        except Stopped:
            pass
        except Exception as error:
            failure = describe(error, unit.label)
        return failure, self._drain(News())

    def _tell(self, name: str, count: int) -> None:
        if self._stopped.is_set():
            raise Stopped
        self._news.put((name, count))

    def news(self) -> News:
        """What there is to tell, soon after there is something; nothing after 5 s."""
        news = News()
        try:
            news.add(*self._news.get(timeout=WAIT))
        except queue.Empty:
            return news
        time.sleep(GATHER)
        return self._drain(news)

    def _drain(self, news: News) -> News:
        while True:
            try:
                news.add(*self._news.get_nowait())
            except queue.Empty:
                return news

    def stop(self) -> None:
        """The unit at work ends at its next batch."""
        self._stopped.set()


def _node() -> str:
    """This node's id in the cluster; empty where this is no worker of one."""
    ray = sys.modules.get("ray")
    return str(ray.get_runtime_context().get_node_id()) if ray and ray.is_initialized() else ""
