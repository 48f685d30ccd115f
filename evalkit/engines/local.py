"""A process per GPU of this machine, or as many as asked for; one alone is this very process."""

from __future__ import annotations

import contextlib
import logging
import os
import queue
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from evalkit.engines.base import InProcess, Work, missing
from evalkit.engines.launch import cores, visible_gpus
from evalkit.engines.process import Events, Process, end
from evalkit.engines.queue import MACHINES, Queue
from evalkit.engines.voice import Shown, Voice, how_it_ended, rebuild
from evalkit.errors import ConfigError, EvalkitError, whole_number

log = logging.getLogger(__name__)

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
STARTS = 3  # of a worker, one after another, that end before it has begun on anything
TIMINGS = ("beside", "alone")


class Local:
    """Runs units in worker processes of this machine. One worker is this process, where its threads are not given.

    Workers are given one unit at a time, in order, and serve all stages of a run. One that is lost is replaced, and its
    unit given out again.

    Args:
        workers: how many, >= 1; auto: one per visible GPU where there are several and the run may use them, else 1.
        threads: of each worker on the CPU, >= 1; auto: OMP_NUM_THREADS where it is set, else cores / workers.
        losses: of workers by one unit, >= 1, after which it is set aside, and named at the end.
        timing: of latencies: beside other workers; or alone, with the others held back for the first shard of a cell.

    Raises:
        ConfigError: a value makes no sense.
    """

    leads = True

    def __init__(
        self, workers: int | str = "auto", threads: int | str = "auto", losses: int = 3, timing: str = "beside"
    ) -> None:
        for name, value in (("workers", workers), ("threads", threads)):
            if value != "auto":
                _whole(value, f"engine.local.{name}", "auto")
        if timing not in TIMINGS:
            raise ConfigError(f"engine.local.timing={timing}: give {' or '.join(TIMINGS)}")
        self.workers, self.threads, self.timing = workers, threads, timing
        self.losses = whole_number(losses, "engine.local.losses")
        self.device = "auto"  # the run's: `choose` sets it
        self._here = InProcess()
        self._events: Events = queue.SimpleQueue()
        self._processes: dict[int, Process] = {}
        self._voice = Voice()

    @property
    def count(self) -> int:
        """How many workers there are to be."""
        if isinstance(self.workers, int):
            return self.workers
        return max(len(visible_gpus()), 1) if self.device in ("auto", "cuda") else 1

    @property
    def is_default(self) -> bool:
        """Whether nothing was set: a launcher's processes then share the work."""
        return (self.workers, self.threads, self.losses, self.timing) == ("auto", "auto", 3, "beside")

    @property
    def in_process(self) -> bool:
        return self.count == 1 and self.threads == "auto"

    @property
    def many(self) -> bool:
        return not self.in_process

    def map(self, work: Work) -> None:
        if self.in_process:
            self._here.map(work)
            return
        units = missing(work)
        if not units:
            return
        try:
            with Shown(work.stage, work.totals, len(units)) as shown:
                _Stage(self, work, units, shown).run()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._here.close()
        processes, self._processes, self._events = self._processes, {}, queue.SimpleQueue()
        end(processes.values())

    def process(self, slot: int, work: Work) -> Process:
        """The worker of a slot, started where there is none."""
        if slot not in self._processes:
            self._processes[slot] = Process(slot, work.open, self._environment(slot), self._events)
        return self._processes[slot]

    def has(self, slot: int) -> bool:
        """Whether a slot has a worker."""
        return slot in self._processes

    def drop(self, process: Process) -> None:
        """Forgets a worker that is gone."""
        end([self._processes.pop(process.slot)])

    def event(self) -> tuple[Process, tuple[Any, ...]]:
        """What a worker says next; Ctrl-C is heard while there is nothing."""
        while True:
            with contextlib.suppress(queue.Empty):
                return self._events.get(timeout=1.0)

    def say(self, process: Process, name: str, level: int, text: str) -> None:
        self._voice.say(process.name, name, level, text)

    def _environment(self, slot: int) -> dict[str, str]:
        threads = self.threads if self.threads != "auto" else os.environ.get(THREADS[0], max(cores() // self.count, 1))
        environment = dict.fromkeys(THREADS, str(threads))
        gpus = visible_gpus() if self.device in ("auto", "cuda") else []
        return environment | ({"CUDA_VISIBLE_DEVICES": gpus[slot % len(gpus)]} if gpus else {})


class _Stage:
    """One `map`: gives units out, and hears what becomes of them."""

    def __init__(self, engine: Local, work: Work, units: Sequence[Any], shown: Shown) -> None:
        self._engine, self._work, self._shown = engine, work, shown
        self._queue = Queue(replace(work, units=units), engine.losses)
        pinned = sum(unit.key in work.pinned for unit in units)
        self._most = min(engine.count, len(units) - pinned + bool(pinned))  # workers that there is something to do for
        self._bad_starts: Counter[int] = Counter()  # by slot, since one started on a unit there

    def run(self) -> None:
        while self._queue.left:
            self._give_out()
            process, (kind, *rest) = self._engine.event()
            getattr(self, f"_{kind}")(process, *rest)
        self._queue.check()

    def _give_out(self) -> None:
        for slot in range(self._most):
            if slot >= self._queue.left and not self._engine.has(slot):
                continue  # nobody is started for nothing; one that is there may be the one for pinned units
            process = self._engine.process(slot, self._work)
            if process.ready and process.unit is None and (unit := self._queue.take(process.name)) is not None:
                process.give(unit, 1 if unit.key in self._work.alone else self._engine.count)
        self._shown.workers(self._queue.running, self._engine.count)

    def _ready(self, process: Process) -> None:
        process.ready = True

    def _started(self, process: Process) -> None:
        process.started = True
        self._bad_starts[process.slot] = 0

    def _tell(self, process: Process, name: str, count: int) -> None:
        self._shown.tell(process, name, count)

    def _log(self, process: Process, name: str, level: int, text: str) -> None:
        self._engine.say(process, name, level, text)

    def _done(self, process: Process) -> None:
        process.unit = None
        self._queue.finish(process.name)
        self._shown.done(process)

    def _failed(self, process: Process, failure: dict[str, Any]) -> None:
        raise rebuild(failure, "" if failure["kind"] else process.name)

    def _gone(self, process: Process) -> None:
        """A worker was lost: its unit is given out again, unless it ended several workers."""
        self._engine.drop(process)
        self._shown.lost(process)
        end, begun = how_it_ended(process.code()), process.unit is not None and process.started
        unit = self._queue.lose(process.name, blame=MACHINES if begun else 0)
        if unit is not None and begun:
            log.warning("%s ended by %s with %s", process.name, end, unit.label)
            return
        if unit is None and process.ready:
            return  # it had nothing to do
        self._bad_starts[process.slot] += 1
        if self._bad_starts[process.slot] == STARTS:
            words = process.last_words()
            raise EvalkitError(f"workers end before they start on anything: {end}{f': {words}' if words else ''}")


def _whole(value: object, name: str, word: str) -> None:
    try:
        whole_number(value, name)
    except ConfigError as error:
        raise ConfigError(f"{error}, or {word}") from None
