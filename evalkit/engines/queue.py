"""The units that wait, run and were lost, of an engine that gives them out one at a time; no process, no clock."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from typing import Any

from evalkit.engines.base import Work
from evalkit.errors import EvalkitError

MACHINES = 5  # that go weigh as one worker that ends: they are taken away, and seldom brought down by a unit
NAMED = 3  # labels in a line; how many more there are is a number


class Queue:
    """One stage's units, in their order; those that are timed alone go first, since a drain in between costs more.

    Args:
        work: the stage.
        losses: workers that one unit may end before it is set aside.
    """

    def __init__(self, work: Work, losses: int) -> None:
        self._alone, self._pinned, self._most = work.alone, work.pinned, losses
        self._waiting = deque(sorted(work.units, key=lambda unit: unit.key not in work.alone))
        self._bound: deque[Any] = deque()  # pinned units that came up before their worker asked
        self._pin: str | None = None  # the one worker for pinned units
        self._running: dict[str, Any] = {}  # by worker
        self._losses: Counter[str] = Counter()
        self._set_aside: list[Any] = []

    @property
    def left(self) -> int:
        """Units that wait or run."""
        return len(self._waiting) + len(self._bound) + len(self._running)

    @property
    def running(self) -> int:
        """Units in hand."""
        return len(self._running)

    def of(self, worker: str) -> Any | None:
        """What a worker has in hand."""
        return self._running.get(worker)

    def take(self, worker: str) -> Any | None:
        """The next unit for an idle worker; none: there is nothing for it now."""
        if any(unit.key in self._alone for unit in self._running.values()):
            return None
        if self._bound and self._pin == worker:
            return self._give(worker, self._bound.popleft())
        while self._waiting:
            unit = self._waiting[0]
            if unit.key in self._alone and self._running:
                return None
            if unit.key in self._pinned:
                self._pin = self._pin or worker
                if self._pin != worker:
                    if unit.key in self._alone:
                        return None  # its own worker, idle too, asks next
                    self._bound.append(self._waiting.popleft())
                    continue
            return self._give(worker, self._waiting.popleft())
        return None

    def _give(self, worker: str, unit: Any) -> Any:
        self._running[worker] = unit
        return unit

    def finish(self, worker: str) -> None:
        """A worker has done what it had in hand."""
        del self._running[worker]

    def lose(self, worker: str, *, blame: int = MACHINES) -> Any | None:
        """A worker is gone: what it had in hand waits again, or is set aside where it ended too many; returns the unit.

        Args:
            worker: who is gone.
            blame: how far the unit is to blame by all appearance, in fifths: 1 where the whole machine went, 0 where
                the worker had not begun on it.
        """
        if self._pin == worker:
            self._pin = None
            self._waiting.extendleft(reversed(self._bound))
            self._bound.clear()
        unit = self._running.pop(worker, None)
        if unit is None:
            return None
        self._losses[unit.key] += blame
        if self._losses[unit.key] < self._most * MACHINES:
            self._waiting.appendleft(unit)
        else:
            self._set_aside.append(unit)
        return unit

    def check(self) -> None:
        """Called at the end. Raises EvalkitError: units were set aside, by their labels."""
        if self._set_aside:
            raise given_up([unit.label for unit in self._set_aside], f"{self._most} workers")


def given_up(labels: Sequence[str], ended: str) -> EvalkitError:
    """The line on units that were set aside, by their labels; `ended`: what each of them did."""
    names = ", ".join(labels[:NAMED]) + (f" and {len(labels) - NAMED} more" if len(labels) > NAMED else "")
    fix = "all else is done; look for what ends them (mostly memory: a smaller batch_size), then run again"
    return EvalkitError(f"{names}: ended {ended} (each); {fix}")
