"""Progress on the terminal: cell, images, images/s, time left. One log line per cell where there is no terminal."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

log = logging.getLogger(__name__)

SHORTEST = 1e-3  # seconds: where all images came with the first call, the clock began too late to tell their rate


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
        self._bars.start()
        if len(self._totals) > 1:
            self._tasks[""] = self._bars.add_task(f"all {len(self._totals)} cells", total=sum(self._totals.values()))
        return self

    def __exit__(self, *error: object) -> None:
        self._bars.stop()

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
