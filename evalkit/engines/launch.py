"""How this process was started: alone, or as one of several by a launcher; and what of the machine is its own."""

from __future__ import annotations

import functools
import logging
import os
import re
import sys
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from evalkit.errors import ConfigError

log = logging.getLogger(__name__)


ARRAY = "a Slurm array"


@dataclass(frozen=True)
class Gang:
    """Processes that were started with one command.

    Attributes:
        rank: this one's number, from 0.
        world: how many there are.
        launcher: whose variables said so.
        local_rank: this one's number on its machine; none where each has what it sees to itself.
        local_world: how many there are on this machine.
    """

    rank: int
    world: int
    launcher: str
    local_rank: int | None = None
    local_world: int = 1


class _Launcher(NamedTuple):
    name: str
    rank: str
    world: str
    local_rank: str = ""
    local_world: str = ""


# The innermost first: torchrun within a Slurm job is torchrun's gang. torchrun also serves `accelerate launch`; PMI is
# MPICH's and Intel's mpirun. A batch script of Slurm has SLURM_PROCID=0 and SLURM_NTASKS as well, without having been
# started by srun, which alone sets SLURM_STEP_NUM_TASKS.
_LAUNCHERS = (
    _Launcher("torchrun", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"),
    _Launcher(
        "mpirun",
        *("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"),
    ),
    _Launcher("mpirun", "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
    _Launcher("srun", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"),
    _Launcher("a Kubernetes indexed job", "JOB_COMPLETION_INDEX", "JOB_COMPLETIONS"),
)


def find_gang(environ: Mapping[str, str], world_of: int | None = None) -> Gang | None:
    """The gang that a launcher's variables tell of, where it has more than one process; else none.

    A shell that `srun --pty` opened is not one of several, however many tasks its job has.

    Args:
        environ: the variables.
        world_of: how many processes there are, where the variables do not say (Kubernetes gives the rank alone).

    Raises:
        ConfigError: the variables contradict one another.
    """
    for launcher in _LAUNCHERS:
        rank, world = _number(environ, launcher.rank), world_of or _number(environ, launcher.world)
        if rank is None or world is None or (launcher.name == "srun" and "SLURM_PTY_PORT" in environ):
            continue
        if world < 2:
            break  # one task of its own: `srun -n 1` within an array is an element of the array
        if rank >= world:
            raise ConfigError(f"{launcher.rank}={rank} of {launcher.world}={world}: unset both, or count from 0")
        local_rank = _number(environ, launcher.local_rank)
        on_machine = _number(environ, launcher.local_world) or _tasks_here(environ, launcher)
        return Gang(rank, world, launcher.name, local_rank, on_machine)
    return _array(environ, world_of)


def _array(environ: Mapping[str, str], world_of: int | None) -> Gang | None:
    """An element of a Slurm array; where its ids have gaps, so has the gang, and the others take what is missing."""
    name = "SLURM_ARRAY_TASK_"
    number, least, most = (_number(environ, f"{name}{end}") for end in ("ID", "MIN", "MAX"))
    if number is None or least is None or most is None or most == least:
        return None
    step = _number(environ, f"{name}STEP") or 1
    return Gang((number - least) // step, world_of or (most - least) // step + 1, ARRAY)


def _tasks_here(environ: Mapping[str, str], launcher: _Launcher) -> int:
    """srun: tasks on this machine, from SLURM_STEP_TASKS_PER_NODE="4(x2),3" and this machine's number."""
    if launcher.name != "srun":
        return 1
    counts: list[int] = []
    for count, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", environ.get("SLURM_STEP_TASKS_PER_NODE", "")):
        counts += [int(count)] * int(times or 1)
    node = _number(environ, "SLURM_NODEID") or 0
    return counts[node] if node < len(counts) else 1


def _number(environ: Mapping[str, str], name: str) -> int | None:
    text = environ.get(name, "")
    return int(text) if text.isdecimal() else None


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def visible_gpus() -> list[str]:
    """GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them. torch is imported where it alone knows."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is None:
        return [str(number) for number in range(_count_gpus())]
    names = [name.strip() for name in named.split(",")]
    return names[: names.index("-1")] if "-1" in names else [name for name in names if name]


@functools.cache
def _count_gpus() -> int:
    if sys.platform == "darwin":
        return 0
    if sys.platform == "linux" and not (Path("/dev/kfd").exists() or Path("/dev/dxg").exists()):  # neither AMD nor WSL
        return sum(re.fullmatch(r"nvidia\d+", path.name) is not None for path in Path("/dev").iterdir())
    import torch

    return torch.cuda.device_count()


def take_gpu(
    environ: MutableMapping[str, str], local_rank: int | None, gpus: Callable[[], list[str]] = visible_gpus
) -> None:
    """Leaves this process one of several visible GPUs, by its number on the machine. Before torch looks at any."""
    visible = gpus() if local_rank is not None else []
    if local_rank is not None and len(visible) > 1:
        environ["CUDA_VISIBLE_DEVICES"] = visible[local_rank % len(visible)]
