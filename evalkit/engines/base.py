"""Engines: who runs the units of work. An engine knows callables and items, and nothing of samples or metrics.

What is done is told by the store, never by an engine: a unit may be run twice, anywhere, even at the same time, since
whatever it writes is written whole, and by the first one alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from evalkit.engines.voice import Shown
from evalkit.utils.blobs import Blobs

Tell = Callable[[str, int], None]
"""Called by a unit as it goes on: tell(what people call the thing, images just done); with 0 as it begins."""

Run = Callable[[Any, Tell], None]
"""Runs one unit in a worker, and writes its outcome into the store."""


class Unit(Protocol):
    """A piece of work: small (100 bytes pickled), named; what it needs comes from the plan in the store."""

    @property
    def key(self) -> str:
        """Unique in its stage, the same in every process."""

    @property
    def label(self) -> str:
        """What people call it ("samples 256 to 511 of sdxl-ddim")."""


@dataclass(frozen=True)
class Work:
    """One stage's units, and what an engine needs to have them run.

    Attributes:
        stage: what people call the stage ("generating").
        units: all of the stage, done or not, in the order in which they are best started and the same in every process
            (stripes are cut by it): an engine asks `done` first, and leaves out what is there.
        totals: by name as `Tell` gives it, images to do: for progress. Empty: units are counted instead.
        open: called once in each worker process, for all stages of the run; can be pickled, some 100 bytes. It reads
            the plan from the store, refuses (EvalkitError) what does not fit, and returns what runs a unit.
        done: which of some units have their outcome in the store; one listing for all of them.
        command: a process of its own that works on a part of the plan, all stages: `[*command, "--stripe", "3/8"]`
            (rank 3, from 0, of 8).
        alone: keys of units that are run while all other workers wait (`timing=alone`).
        pinned: keys of units that one worker alone may run, and nobody takes from it (services that are paid by call).
        notes: a place in the store where the processes of a gang tell what they have begun; none: they do not.
    """

    stage: str
    units: Sequence[Any]
    totals: dict[str, int]
    open: Callable[[], Run]
    done: Callable[[Sequence[Any]], set[str]]
    command: Sequence[str] = ()
    alone: frozenset[str] = field(default_factory=frozenset)
    pinned: frozenset[str] = field(default_factory=frozenset)
    notes: Blobs | None = None


class Engine(Protocol):
    """Has units run.

    Attributes:
        in_process: whether `Work.open` is called in this very process (the driver's own plan serves), and units run in
            the order given, one at a time.
        leads: whether this process goes on to the table and the report; of several processes of one command, one does.
        many: whether other processes work on the same run. Where none does, samples alone are made by units: the
            driver's own code path does the rest, in one pass over each set.
    """

    @property
    def in_process(self) -> bool: ...

    @property
    def leads(self) -> bool: ...

    @property
    def many(self) -> bool: ...

    def map(self, work: Work) -> None:
        """Returns when all units are done.

        Raises:
            EvalkitError: what a unit raised, in one line with the worker's host and name; or units that ended their
                workers several times, by their labels, after all others are done.
            KeyboardInterrupt: after all workers are ended and what they had begun is put away.
        """

    def close(self) -> None:
        """Ends the workers; called once, whatever happened."""


def missing(work: Work) -> list[Any]:
    """The units whose outcome is not in the store, in their order; by one listing."""
    done = work.done(work.units) if work.units else set()
    return [unit for unit in work.units if unit.key not in done]


BESIDE = "EVALKIT_BESIDE"  # set in a worker: how many of a run's workers are at work on its machine, itself included


def beside() -> int:
    """How many workers of this run are at work on this machine while the unit in hand runs: 1 where it is alone."""
    return int(os.environ.get(BESIDE, "1"))


class InProcess:
    """One unit after another in this process: a loaded model stays loaded from unit to unit."""

    in_process = True
    leads = True
    many = False

    def __init__(self) -> None:
        self._run: Run | None = None

    def map(self, work: Work) -> None:
        units = missing(work)
        if not units:
            return
        self._run = self._run or work.open()
        with Shown(work.stage, work.totals, len(units)) as shown:
            for unit in units:
                self._run(unit, partial(shown.tell, unit.key))
                shown.done(unit.key)

    def close(self) -> None:
        self._run = None
