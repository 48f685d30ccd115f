"""One voice for all workers: their log records, what they print, their errors; and the progress of a stage.

A worker sends plain values alone, since exceptions and log records of other packages may not be unpickled elsewhere.
"""

from __future__ import annotations

import logging
import signal
import traceback
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

from evalkit import errors
from evalkit.errors import EvalkitError, printable
from evalkit.utils.progress import Progress

log = logging.getLogger(__name__)

Failure = dict[str, Any]
"""An exception as plain values: what `describe` makes and `rebuild` takes."""


def describe(error: BaseException, label: str = "") -> Failure:
    """An exception, so that any other process can raise it again.

    Args:
        error: of a unit, or of a worker's start.
        label: of the unit.
    """
    kinds = (kind for kind in type(error).__mro__ if kind.__module__ == errors.__name__)
    plain = {name: value for name, value in vars(error).items() if isinstance(value, str | int | float | None)}
    return {
        "kind": next(
            (kind.__name__ for kind in kinds), ""
        ),  # the nearest of evalkit.errors: a user's own may not be there
        "name": type(error).__name__,
        "text": printable(str(error)),
        "state": {"exit_code": error.exit_code, **plain} if isinstance(error, EvalkitError) else {},
        "traceback": "".join(traceback.format_exception(error)),
        "label": label,
        "stop": isinstance(error, KeyboardInterrupt),
    }


def rebuild(failure: Failure, where: str = "") -> BaseException:
    """The error to raise in the driver; the traceback of one that no user can fix goes into the log.

    Args:
        failure: as `describe` made it.
        where: the worker, for the line ("node7, worker 3"); empty where that helps nobody.
    """
    if failure["stop"]:
        return KeyboardInterrupt()
    before = f"{where}: " if where else ""
    kind = getattr(errors, failure["kind"], None)
    if kind is not None:
        text = before + failure["text"]
        error: EvalkitError = kind.__new__(kind, text)  # its constructor may want more, or other, arguments
        error.__dict__.update(failure["state"])
        return error
    for line in failure["traceback"].splitlines():  # the log's records are lines
        log.error("%s%s", before, line)
    doing = f" ({failure['label']})" if failure["label"] else ""
    return EvalkitError(f"{before}{failure['name']}: {failure['text']}{doing}; the traceback is above")


def how_it_ended(code: int) -> str:
    """What people call an exit code of a process: "SIGSEGV", "exit code 3"."""
    if code >= 0:
        return f"exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"{name} (out of memory?)" if name == "SIGKILL" else name


class Forward(logging.Handler):
    """A worker's handler: sends each record to the driver as (logger's name, level, text).

    Args:
        send: takes these three.
    """

    def __init__(self, send: Callable[[str, int, str], None]) -> None:
        super().__init__()
        self._send = send

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._send(record.name, record.levelno, self.format(record))
        except Exception:
            self.handleError(record)


class Voice:
    """The driver's: hands on what workers say, each line once, however many workers say it."""

    def __init__(self) -> None:
        self._said: set[int] = set()

    def say(self, who: str, name: str, level: int, text: str) -> None:
        """A log record of a worker, with who said it before it ("worker 3", "node7:3")."""
        if hash((name, text)) in self._said:
            return
        self._said.add(hash((name, text)))
        log_of_worker = logging.getLogger(name if name.partition(".")[0] == "evalkit" else __name__)
        log_of_worker.log(level, "[%s] %s", who, text)


class Shown:
    """A stage's progress: images where its units tell of images, else units.

    Args:
        stage: what people call it.
        totals: images to do, by name; empty: units are counted.
        units: how many there are to do.
    """

    def __init__(self, stage: str, totals: Mapping[str, int], units: int) -> None:
        self._stage, self._by_image = stage, bool(totals)
        totals = totals or {stage: units}
        self._progress = Progress(totals, noun="images" if self._by_image else "units")
        self._in_hand: dict[object, dict[str, int]] = {}

    def __enter__(self) -> Self:
        self._progress.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._progress.__exit__(kind, error, at)

    def workers(self, busy: int, count: int) -> None:
        """How many workers are at work, of how many."""
        self._progress.workers(busy, count)

    def tell(self, worker: object, name: str, count: int) -> None:
        """A unit in a worker's hand made some images of `name`."""
        if self._by_image:
            held = self._in_hand.setdefault(worker, {})
            held[name] = held.get(name, 0) + count
            self._progress.advance(name, count)

    def done(self, worker: object) -> None:
        """A worker's unit is done."""
        self._in_hand.pop(worker, None)
        if not self._by_image:
            self._progress.advance(self._stage, 1)

    def lost(self, worker: object) -> None:
        """A worker's unit is not done: what it told is taken back."""
        for name, count in self._in_hand.pop(worker, {}).items():
            self._progress.advance(name, -count)
