"""One process of several that were started with one command: each does its stripe, then what is missing.

There are no locks: the store says what is done, and where two do the same, the first writer wins. So it is no matter
whether a process was lost, is late or never came. What a unit that is begun leaves there in notes (`tries.py`) is for
the one that ends whoever runs it.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from evalkit.engines.base import BESIDE, Engine, InProcess, Run, Work, missing
from evalkit.engines.launch import ARRAY, Gang, find_gang, take_gpu, visible_gpus
from evalkit.engines.local import Local
from evalkit.engines.queue import given_up
from evalkit.engines.tries import Tries
from evalkit.engines.voice import describe, rebuild
from evalkit.errors import ConfigError, EvalkitError, whole_number
from evalkit.utils import progress

log = logging.getLogger(__name__)

LONGEST = 15.0  # seconds between two looks at the store


class Stripe:
    """Every `world`-th unit, from `rank` on; then units that nobody gets on with.

    Args:
        rank: of this process, from 0; none: from the launcher's variables (torchrun, accelerate, srun, mpirun,
            Kubernetes indexed jobs, Slurm arrays).
        world: how many processes there are; none: likewise.
        patience: seconds in which a stripe does not get on, > 0, until the other processes take its units.
        report: the rank that goes on to the table and the report; where it never comes, the first of those that do.
        losses: processes, started again or not, that one unit may end before it is set aside.

    Raises:
        ConfigError: a value makes no sense.
    """

    def __init__(
        self,
        rank: int | None = None,
        world: int | None = None,
        patience: float = 120,
        report: int = 0,
        losses: int = 3,
    ) -> None:
        if world is not None:
            whole_number(world, "engine.stripe.world")
        if rank is not None and world is None:
            raise ConfigError("engine.stripe.rank: give engine.stripe.world as well")
        most = (world or 1 << 30) - 1
        for name, value in (("rank", rank), ("report", report)):
            if value is not None and not (isinstance(value, int) and 0 <= value <= most):
                raise ConfigError(f"engine.stripe.{name}={value}: give a number from 0 to engine.stripe.world - 1")
        if isinstance(patience, bool) or not isinstance(patience, int | float) or not patience > 0:
            raise ConfigError(f"engine.stripe.patience={patience}: give seconds > 0")
        self._rank, self._world, self._patience = rank, world, float(patience)
        self.report = report
        self._losses = whole_number(losses, "engine.stripe.losses")
        self._tries: Tries | None = None
        self._gang: Gang | None = None
        self._inner: Engine = InProcess()

    @property
    def gang(self) -> Gang:
        """This process among the others.

        Raises:
            ConfigError: nothing says which it is.
        """
        if self._gang is None and self._rank is not None and self._world is not None:
            self._gang = Gang(self._rank, self._world, "engine.stripe", *_on_machine(find_gang(os.environ)))
        if self._gang is None:
            self._gang = find_gang(os.environ, self._world)
        if self._gang is None:
            raise ConfigError(
                "engine=stripe: nothing says which of several processes this is: start it with torchrun, srun or "
                "mpirun, or give engine.stripe.rank and engine.stripe.world"
            )
        return self._gang

    @property
    def name(self) -> str:
        """As people count: from 1."""
        return f"stripe {self.gang.rank + 1} of {self.gang.world}"

    @property
    def leads(self) -> bool:
        return self.gang.rank == self.report

    @property
    def many(self) -> bool:
        return self.gang.world > 1 or self._inner.many

    @property
    def in_process(self) -> bool:
        return self._inner.in_process

    def settle(self, device: str) -> None:
        """Takes its part of the machine, before torch looks at it: one of the GPUs, or all where it is alone there."""
        gang = self.gang
        if self.report >= gang.world:
            raise ConfigError(f"engine.stripe.report={self.report}: there are ranks 0 to {gang.world - 1}")
        take_gpu(os.environ, gang.local_rank)
        if gang.local_rank is None and device in ("auto", "cuda") and len(visible_gpus()) > 1:
            self._inner = Local()
        os.environ[BESIDE] = str(gang.local_world)
        progress.share_the_terminal(f"[stripe {gang.rank + 1}] ")
        log.info("%s (%s)", self.name, gang.launcher)
        if gang.launcher == ARRAY:
            log.info("the array's elements share this one run; where each is a run of its own: engine.local.workers=1")

    def map(self, work: Work) -> None:
        owners = {unit.key: 0 if unit.key in work.pinned else i % self.gang.world for i, unit in enumerate(work.units)}
        left, since = missing(work), time.monotonic()
        if not left:
            return
        watch, tries = _Watch(owners, left), self._tried(work)
        tries.look()
        own = [unit for unit in left if owners[unit.key] == self.gang.rank and tries.free(unit.key)]
        # What has ended a process may end this one too: all else comes first.
        self._run(work, sorted(own, key=lambda unit: tries.count(unit.key)), self.name)
        pause = shortest = min(1.0, self._patience / 4)
        while left := missing(work):
            tries.look()
            if all(tries.set_aside(unit.key) for unit in left):
                tries.name(left)
                raise given_up([unit.label for unit in left], f"{self._losses} processes")
            unit = self._other(work, left, watch.look(left), owners, tries)
            if unit is not None:
                self._run(work, [unit], f"{unit.label}, by {self.name}")
                watch.took(owners[unit.key])
                pause = shortest
                continue
            time.sleep(pause)
            pause = min(pause * 1.5, LONGEST, max(self._patience / 4, shortest))
        log.debug("%s: %s took %.1f s", work.stage, self.name, time.monotonic() - since)

    def close(self) -> None:
        self._inner.close()

    def _tried(self, work: Work) -> Tries:
        if self._tries is None:
            self._tries = Tries(work.notes, self.gang.rank, self._patience, self._losses)
        return self._tries

    def _open(self, work: Work) -> Run:
        return self._tried(work).noted(work.open())

    def _run(self, work: Work, units: Sequence[Any], shown: str) -> None:
        stage = f"{work.stage}, {shown}" if shown == self.name else shown
        try:
            # Several GPUs in one process's hands: that engine counts the workers that a unit ends by itself.
            opened = partial(self._open, work) if self._inner.in_process else work.open
            self._inner.map(replace(work, stage=stage, units=units, totals={}, open=opened))
        except EvalkitError as error:
            raise rebuild(describe(error), f"{socket.gethostname()}, {self.name}") from None

    def _other(
        self, work: Work, left: Sequence[Any], still: dict[int, float], owners: dict[str, int], tries: Tries
    ) -> Any:
        """A unit to take: of a stripe that stands still, or its own, else from the far end of a long one."""
        rank, world = self.gang.rank, self.gang.world
        free = [unit for unit in left if tries.free(unit.key) and (unit.key not in work.pinned or rank == 0)]
        own = [unit for unit in free if owners[unit.key] == rank]
        if own:  # another had begun it
            return min(own, key=lambda unit: tries.count(unit.key))
        units = [unit for unit in free if still[owners[unit.key]] >= self._patience]
        if not units:
            # its owner works from the near end, and finds these done when it comes to them
            by_owner: dict[int, list[Any]] = {}
            for unit in free:
                by_owner.setdefault(owners[unit.key], []).append(unit)
            units = [
                unit for theirs in by_owner.values() for unit in theirs[(len(theirs) + 1) // 2 :] if len(theirs) > 2
            ]
        return units[rank * len(units) // world] if units else None  # each of the others takes another


class _Watch:
    """How long each stripe has stood still."""

    def __init__(self, owners: dict[str, int], left: Sequence[Any]) -> None:
        self._owners = owners
        self._left = Counter(owners[unit.key] for unit in left)
        self._since = dict.fromkeys(owners.values(), time.monotonic())

    def took(self, owner: int) -> None:
        """This process did a unit of a stripe: that stripe does not get on by it."""
        self._left[owner] -= 1

    def look(self, left: Sequence[Any]) -> dict[int, float]:
        """Seconds since each stripe last got on."""
        now, counts = time.monotonic(), Counter(self._owners[unit.key] for unit in left)
        for owner in self._since:
            if counts[owner] != self._left[owner]:
                self._since[owner] = now
        self._left = counts
        return {owner: now - since for owner, since in self._since.items()}


def _on_machine(gang: Gang | None) -> tuple[int | None, int]:
    return (gang.local_rank, gang.local_world) if gang else (None, 1)
