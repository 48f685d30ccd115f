"""Progress on the terminal: cell, images, images/s, time left. One log line per cell where there is no terminal."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

log = logging.getLogger(__name__)


class Progress:
    """A context manager; call `advance` as images are made.

    Args:
        totals: images to make, by cell, in the order of the work.
        live: whether to draw bars; none: where stderr is a terminal.
    """

    def __init__(self, totals: Mapping[str, int], *, live: bool | None = None) -> None:
        self._totals = dict(totals)
        self._done = dict.fromkeys(totals, 0)
        self._started: dict[str, float] = {}
        self._live = sys.stderr.isatty() if live is None else live
        self._bars: Bars | None = None
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        if self._live:
            self._bars = _make_bars()
            self._bars.start()
            if len(self._totals) > 1:
                self._tasks[""] = self._bars.add_task(
                    f"all {len(self._totals)} cells", total=sum(self._totals.values())
                )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()

    def start(self, cell: str) -> None:
        """The clock of a cell starts here, so that loading its model counts as part of it."""
        if cell in self._started:
            return
        self._started[cell] = time.monotonic()
        if self._bars is not None:
            self._tasks[cell] = self._bars.add_task(cell, total=self._totals[cell])

    def advance(self, cell: str, count: int) -> None:
        """`count` more images of a cell are there."""
        self.start(cell)
        self._done[cell] += count
        if self._bars is not None:
            self._bars.advance(self._tasks[cell], count)
            if "" in self._tasks:
                self._bars.advance(self._tasks[""], count)
        if self._done[cell] >= self._totals[cell]:
            self._finish(cell)

    def _finish(self, cell: str) -> None:
        seconds = max(time.monotonic() - self._started[cell], 1e-6)
        done = self._done[cell]
        line = f"{cell}: {done} images in {seconds:.1f} s ({done / seconds:.1f} images/s)"
        if self._bars is None:
            log.info("%s", line)
            return
        self._bars.console.print(line, markup=False, highlight=False)
        self._bars.remove_task(self._tasks[cell])  # the screen has room for the cells at work


def _make_bars() -> Bars:
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
    )
