"""Progress on the terminal: a spinner that names each stage, bars of images; lines in a log where there is none."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

log = logging.getLogger(__name__)

SHORTEST = 1e-3  # seconds: where all images came with the first call, the clock began too late to tell their rate


SILENT = 10.0  # seconds after which a stage is named where there is no terminal

_spinner: Any = None  # of the stage at work; one live display at a time


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
    if not (sys.stderr.isatty() if live is None else live):
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
    """

    def __init__(self, totals: Mapping[str, int], *, live: bool | None = None) -> None:
        self._totals = dict(totals)
        self._live = sys.stderr.isatty() if live is None else live
        self._bars = _make_bars(self._live)
        self._tasks: dict[str, TaskID] = {}  # "": all cells

    def __enter__(self) -> Self:
        if _spinner is not None and self._live:
            _spinner.stop()
        self._bars.start()
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

    def advance(self, cell: str, count: int) -> None:
        """`count` more images of a cell are there."""
        self.start(cell)
        for name in self._tasks.keys() & {"", cell}:
            self._bars.advance(self._tasks[name], count)
        task = next(task for task in self._bars.tasks if task.id == self._tasks[cell])
        if task.finished:
            seconds, line = task.elapsed or 0.0, f"{cell}: {task.completed:.0f} images"
            if seconds >= SHORTEST:
                line += f" in {seconds:.1f} s ({task.completed / seconds:.1f} images/s)"
            if not self._live:
                log.info("%s", line)
                return
            self._bars.console.print(line, markup=False, highlight=False)
            self._bars.update(task.id, visible=False)  # the screen has room for the cells at work


def _make_bars(live: bool) -> Bars:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Any) -> Text:
            return Text(f"{task.speed:.1f} images/s" if task.speed else "", style="progress.data.speed")

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
