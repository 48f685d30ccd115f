"""Progress on the terminal: a spinner that names each stage, bars of images; lines in a log where there is none."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import Task, TaskID

log = logging.getLogger(__name__)


SILENT = 10.0  # seconds after which a stage is named where there is no terminal

_spinner: Any = None  # of the stage at work; one live display at a time
_shared = False  # whether other processes write to the terminal as well


def _is_live() -> bool:
    return sys.stderr.isatty() and not _shared


@contextmanager
def stage(name: str, *, live: bool | None = None, after: float = SILENT) -> Iterator[None]:
    """Names a stage that is silent otherwise: by a spinner on a terminal, else by a line where it takes long.

    Bars that open within it stand in the spinner's place.

    Args:
        name: such as "planning".
        live: whether to draw; none: where stderr is a terminal.
        after: seconds until the line where there is no terminal.
    """
    global _spinner
    if not (_is_live() if live is None else live):
        timer = threading.Timer(after, log.info, ("%s ...", name))
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
        return
    from rich.console import Console
    from rich.text import Text

    outer, _spinner = _spinner, Console(stderr=True).status(Text(f"{name} ..."))
    if outer is not None:
        outer.stop()
    _spinner.start()
    try:
        yield
    finally:
        _spinner.stop()
        _spinner = outer
        if outer is not None:
            outer.start()


def share_the_terminal(prefix: str) -> None:
    """Where several processes write to one terminal: nothing is drawn, and each record says whose it is."""
    global _shared
    if _shared:
        return
    _shared = True

    def say_whose(record: logging.LogRecord) -> bool:
        record.msg = prefix + str(record.msg)
        return True

    for handler in logging.getLogger("evalkit").handlers:
        if isinstance(handler, LogHandler):
            handler.addFilter(say_whose)


class LogHandler(logging.StreamHandler[Any]):
    """Writes to what is stderr at the time: above a spinner or a bar, where there is one."""

    def __init__(self) -> None:
        super().__init__(sys.stderr)

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


class Progress:
    """A context manager; call `advance` as images are made.

    Args:
        totals: images to make, by cell, in the order of the work.
        live: whether to draw bars; none: where stderr is a terminal.
        noun: what is counted.
        every: seconds between the lines that say how far it is, where there is no terminal.
    """

    def __init__(
        self, totals: Mapping[str, int], *, live: bool | None = None, noun: str = "images", every: float = 60.0
    ) -> None:
        self._totals, self._noun, self._every = dict(totals), noun, every
        self._live = _is_live() if live is None else live
        self._bars = _make_bars(self._live, noun)
        self._tasks: dict[str, TaskID] = {}  # "": all cells
        self._told: set[str] = set()
        self._workers = ""
        self._began = self._spoke = time.monotonic()

    def __enter__(self) -> Self:
        if _spinner is not None and self._live:
            _spinner.stop()
        self._bars.start()
        self._began = self._spoke = time.monotonic()
        if len(self._totals) > 1:
            self._tasks[""] = self._bars.add_task(f"all {len(self._totals)} cells", total=sum(self._totals.values()))
        return self

    def __exit__(self, *error: object) -> None:
        self._bars.stop()
        if _spinner is not None and self._live:
            _spinner.start()

    def start(self, cell: str) -> None:
        """The clock of a cell starts here, so that loading its model counts as part of it."""
        if cell not in self._tasks:
            self._tasks[cell] = self._bars.add_task(cell, total=self._totals[cell])

    def workers(self, busy: int, count: int) -> None:
        """How many workers are at work, of how many: shown with what stands for all cells."""
        text = f"{busy} of {count} workers"
        if text != self._workers:
            self._workers = text
            if "" in self._tasks:
                self._bars.update(self._tasks[""], description=f"all {len(self._totals)} cells, {text}")

    def advance(self, cell: str, count: int) -> None:
        """`count` more images of a cell are there; below 0, where a lost worker's are made again."""
        if cell not in self._totals:
            return
        at_once = cell not in self._tasks  # the clock began too late to tell the rate
        self.start(cell)
        for name in self._tasks.keys() & {"", cell}:
            self._bars.advance(self._tasks[name], count)
        task = next(task for task in self._bars.tasks if task.id == self._tasks[cell])
        if task.finished and cell not in self._told:
            self._told.add(cell)
            self._tell(task, None if at_once else task.elapsed)
        elif not self._live:
            self._tell_all()

    def _tell(self, task: Task, seconds: float | None) -> None:
        """The line of a cell that is done."""
        noun = self._noun if task.completed != 1 else self._noun.removesuffix("s")
        line = f"{task.description}: {task.completed:.0f} {noun}"
        if seconds:
            line += f" in {seconds:.1f} s ({task.completed / seconds:.1f} {self._noun}/s)"
        if not self._live:
            log.info("%s", line)
            return
        self._bars.console.print(line, markup=False, highlight=False)
        self._bars.update(task.id, visible=False)  # the screen has room for the cells at work

    def _tell_all(self) -> None:
        """A line of how far all is, once a minute."""
        now = time.monotonic()
        if now - self._spoke < self._every:
            return
        self._spoke = now
        done, total = (
            sum(task.completed for task in self._bars.tasks if task.id != self._tasks.get("")),
            sum(self._totals.values()),
        )
        rate = done / (now - self._began)
        left = f", about {_readable((total - done) / rate)} left" if rate > 0 else ""
        workers = f", {self._workers}" if self._workers else ""
        log.info("%.0f of %d %s, %.1f per s%s%s", done, total, self._noun, rate, workers, left)


def _readable(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _make_bars(live: bool, noun: str) -> Bars:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Any) -> Text:
            return Text(f"{task.speed:.1f} {noun}/s" if task.speed else "", style="progress.data.speed")

    return RichProgress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        Rate(),
        TimeRemainingColumn(compact=True),
        console=Console(stderr=True),
        speed_estimate_period=60,
        disable=not live,
    )
