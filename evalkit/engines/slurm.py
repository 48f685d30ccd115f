"""An array of stripes on Slurm, submitted by submitit. The store says what is done, squeue who lives, sacct nothing.

Each element of the array is a process `Work.command --stripe I/N`: it works on its part of all stages, then on whatever
else is missing, so an element that waits in the queue holds nobody up. This process only looks on: it may be ended and
started again, finds its array by name, and submits another only where something is missing and nobody is left.
"""

from __future__ import annotations

import logging
import shutil
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evalkit.engines.base import Work, missing
from evalkit.engines.slurm_array import Array
from evalkit.engines.voice import Shown
from evalkit.errors import ConfigError, EvalkitError, whole_number
from evalkit.utils.files import writing

log = logging.getLogger(__name__)

NAMED = 5  # units that an error names


class Slurm:
    """Units run in an array of Slurm jobs.

    Args:
        workers: elements of the array; each is one process on `gpus` GPUs.
        gpus: per element; 0 asks for none.
        cpus: cores per element.
        memory: per element, as Slurm writes it ("64GB").
        minutes: time limit per element; a unit must fit into it.
        partition, account, qos, constraint: as sbatch's options of these names; none: the cluster's defaults.
        setup: shell lines before the worker, such as "module load cuda".
        requeue: whether an element goes back into the queue by itself after preemption, the time limit or a lost node.
        poll: seconds between two looks at the store and the queue.
        patience: seconds by which a shared folder's listing may be late (NFS: 3 to 60): so long nothing is called lost.
        losses: arrays in a row that may end without anything new before the run gives up, and names what is missing.
        folder: for logs and submitit's files (pickles of a command line), on a disk that all nodes see; none: `slurm`
            in the store, or in the working folder where the store is a URL.
        options: other options of sbatch, by their long names: {reservation: eval, exclude: node7}.
    """

    in_process = False
    leads = True
    many = True

    def __init__(
        self,
        *,
        workers: int = 8,
        gpus: int = 1,
        cpus: int = 8,
        memory: str = "64GB",
        minutes: int = 240,
        partition: str | None = None,
        account: str | None = None,
        qos: str | None = None,
        constraint: str | None = None,
        setup: Sequence[str] = (),
        requeue: bool = True,
        poll: float = 15,
        patience: float = 90,
        losses: int = 3,
        folder: str | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        for name, value in {"workers": workers, "cpus": cpus, "minutes": minutes, "losses": losses}.items():
            whole_number(value, f"engine.slurm.{name}")
        whole_number(gpus, "engine.slurm.gpus", 0)
        if poll <= 0:
            raise ConfigError(f"engine.slurm.poll={poll}: give seconds > 0")
        self._workers, self._poll, self._patience, self._losses = workers, poll, patience, losses
        self._folder = folder
        asked: dict[str, Any] = {"partition": partition, "account": account, "qos": qos, "constraint": constraint}
        asked |= {"time": minutes, "cpus_per_task": cpus, "gpus_per_node": gpus or None, "setup": list(setup)}
        self._asked, self._requeue, self._options = asked, requeue, {"mem": memory, **(options or {})}
        self._array: Array | None = None
        self._over = True  # whether the last stage was finished
        self._fruitless = 0  # arrays that ended without anything new, in a row
        self._fruit = False  # whether anything is new since the last one was submitted

    def map(self, work: Work) -> None:
        left = {unit.key: unit for unit in missing(work)}
        if not left:
            return
        array = self._array or self._begin(work.command)
        self._over = False
        pause, alive = min(1.0, self._poll), time.monotonic()
        with Shown(work.stage, {}, len(left)) as shown:
            while left:
                time.sleep(min(pause, self._poll))
                pause *= 1.5
                states = array.states()  # before the store: what a worker wrote before it ended is seen below
                array.show(states)
                if states is not None:
                    shown.workers(states["RUNNING"], self._workers)
                for key in left.keys() & work.done(list(left.values())):
                    del left[key]
                    shown.done(key)
                    self._fruit = True
                if states is None or states:  # None: the controller does not answer, which says nothing of the workers
                    alive = time.monotonic()
                elif left and time.monotonic() - alive > self._poll:
                    array.raise_error()
                    if time.monotonic() - alive > max(self._patience, 2 * self._poll):
                        self._again(array, work, [unit.label for unit in left.values()])
                        alive = time.monotonic()
        self._over = True

    def close(self) -> None:
        if self._array is not None:
            self._array.cancel("ended, with nothing left to do" if self._over else "cancelled")
            self._array = None

    def _begin(self, command: Sequence[str]) -> Array:
        """The array of an earlier start of the same plan, or a new one."""
        for program in ("sbatch", "srun", "squeue"):
            if shutil.which(program) is None:
                fix = "start evalkit on a login node, or without engine=slurm"
                raise ConfigError(f"engine=slurm: there is no {program} on {socket.gethostname()}: {fix}")
        store, plan = command[-2:]
        folder = Path(self._folder or ("slurm" if "://" in store else Path(store) / "slurm")).absolute() / plan
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        array = self._array = Array(f"evalkit-{plan}", folder)
        if any(not state.startswith("COMPLETING") for state in array.states() or ()):
            log.info("an array of an earlier start works on this, nothing is submitted; logs: %s", folder)
        else:
            self._submit(array, command)
        return array

    def _submit(self, array: Array, command: Sequence[str]) -> None:
        array.submit(command, self._workers, self._asked, requeue=self._requeue, options=self._options)

    def _again(self, array: Array, work: Work, labels: Sequence[str]) -> None:
        self._fruitless, self._fruit = 0 if self._fruit else self._fruitless + 1, False
        if self._fruitless > self._losses:
            named = ", ".join(labels[:NAMED]) + (f" and {len(labels) - NAMED} more" if len(labels) > NAMED else "")
            what = f"{self._fruitless} arrays in a row ended without anything new; missing: {named}"
            raise EvalkitError(f"{work.stage}: {what}. How they ended: {array.folder}")
        log.warning("%s: %d are missing and no worker is left: once more", work.stage, len(labels))
        self._submit(array, work.command)
