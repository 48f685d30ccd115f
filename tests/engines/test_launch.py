"""What launchers' variables say of this process, as real launchers set them; GPUs; which engine follows."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from evalkit.engines import choose, launch
from evalkit.engines.base import BESIDE, InProcess
from evalkit.engines.launch import Gang, find_gang, take_gpu, visible_gpus
from evalkit.engines.local import Local
from evalkit.engines.stripe import Stripe
from evalkit.errors import ConfigError
from evalkit.utils import progress

SLURM = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "8", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}
STEP = {**SLURM, "SLURM_PROCID": "5", "SLURM_LOCALID": "1", "SLURM_NODEID": "1", "SLURM_STEP_NUM_TASKS": "8"}
ARRAY = {"SLURM_ARRAY_TASK_ID": "5", "SLURM_ARRAY_TASK_MIN": "1", "SLURM_ARRAY_TASK_MAX": "7"}
TORCHRUN = {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}

TABLE: dict[str, tuple[dict[str, str], Gang | None]] = {
    "nothing": ({}, None),
    "torchrun, accelerate": (TORCHRUN, Gang(3, 8, "torchrun", 1, 2)),
    "torchrun with one process": ({"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}, None),
    "a size alone": ({"WORLD_SIZE": "8"}, None),
    "not numbers": ({"RANK": "first", "WORLD_SIZE": "8"}, None),
    "mpirun of Open MPI": (
        {"OMPI_COMM_WORLD_RANK": "2", "OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_LOCAL_RANK": "0"},
        Gang(2, 4, "mpirun", 0, 1),
    ),
    "mpirun of MPICH, Intel": ({"PMI_RANK": "1", "PMI_SIZE": "2"}, Gang(1, 2, "mpirun", None, 1)),
    "srun": ({**STEP, "SLURM_STEP_TASKS_PER_NODE": "4(x1),3,1"}, Gang(5, 8, "srun", 1, 3)),
    "srun, many nodes": ({**STEP, "SLURM_STEP_TASKS_PER_NODE": "4(x2)"}, Gang(5, 8, "srun", 1, 4)),
    "a batch script, no srun": (SLURM, None),
    "salloc": ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "8"}, None),
    "srun --pty of one task": ({**SLURM, "SLURM_STEP_NUM_TASKS": "1", "SLURM_PTY_PORT": "1"}, None),
    "srun --pty of eight tasks": ({**SLURM, "SLURM_STEP_NUM_TASKS": "8", "SLURM_PTY_PORT": "1"}, None),
    "torchrun in a job of Slurm": ({**STEP, **TORCHRUN}, Gang(3, 8, "torchrun", 1, 2)),
    "an array": ({**SLURM, "SLURM_NTASKS": "1", **ARRAY}, Gang(4, 7, "a Slurm array")),
    "an array by steps": ({**ARRAY, "SLURM_ARRAY_TASK_STEP": "2"}, Gang(2, 4, "a Slurm array")),
    "an array of one": ({**ARRAY, "SLURM_ARRAY_TASK_MAX": "5", "SLURM_ARRAY_TASK_MIN": "5"}, None),
    "srun -n 1 in an array": (
        {**SLURM, **ARRAY, "SLURM_STEP_NUM_TASKS": "1", "SLURM_NTASKS": "1"},
        Gang(4, 7, "a Slurm array"),
    ),
    "an indexed job": ({"JOB_COMPLETION_INDEX": "2", "JOB_COMPLETIONS": "4"}, Gang(2, 4, "a Kubernetes indexed job")),
    "an indexed job that does not say of how many": ({"JOB_COMPLETION_INDEX": "2"}, None),
}


@pytest.mark.parametrize("case", TABLE)
def test_who_is_one_of_several(case: str) -> None:
    environ, gang = TABLE[case]
    assert find_gang(environ) == gang


def test_the_number_of_processes_may_be_a_setting() -> None:
    assert find_gang({"JOB_COMPLETION_INDEX": "2"}, 4) == Gang(2, 4, "a Kubernetes indexed job")


def test_contradictions_are_refused() -> None:
    with pytest.raises(ConfigError, match="RANK=8 of WORLD_SIZE=8"):
        find_gang({"RANK": "8", "WORLD_SIZE": "8"})


@pytest.mark.parametrize(
    ("visible", "gpus"), [("", []), ("-1", []), ("3", ["3"]), ("0, 2,GPU-5", ["0", "2", "GPU-5"]), ("1,-1,2", ["1"])]
)
def test_visible_gpus(visible: str, gpus: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert visible_gpus() == gpus


def test_a_rank_takes_its_gpu_where_it_sees_several() -> None:
    for visible, local_rank, taken in (
        (["4", "6"], 1, "6"),
        (["4", "6"], 2, "4"),  # more processes than GPUs share them
        (["4"], 3, None),  # Slurm gave it its own
        (["4", "6"], None, None),
        ([], 1, None),
    ):
        environ: dict[str, str] = {}
        take_gpu(environ, local_rank, lambda visible=visible: visible)  # type: ignore[misc]
        assert environ.get("CUDA_VISIBLE_DEVICES") == taken


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """No launcher's variables, no GPUs; what a gang changes in this process is put back."""
    monkeypatch.setattr(progress, "_shared", False)
    monkeypatch.setattr(launch, "_count_gpus", lambda: 0)
    for name in {name for environ, _ in TABLE.values() for name in environ} | {"CUDA_VISIBLE_DEVICES", BESIDE}:
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)
    return monkeypatch


def under_torchrun(alone: pytest.MonkeyPatch) -> None:
    for name, value in TORCHRUN.items():
        alone.setenv(name, value)


def test_one_process_has_what_was_asked_for(alone: pytest.MonkeyPatch) -> None:
    engine = Local(workers=2)
    assert choose(engine, "cuda") is engine
    assert engine.device == "cuda"
    assert isinstance(choose(None, "auto"), InProcess)
    with pytest.raises(ConfigError, match="start it with torchrun, srun or mpirun, or give"):
        choose(Stripe(), "auto")


def test_one_of_several_has_a_stripe_and_a_gpu(alone: pytest.MonkeyPatch) -> None:
    under_torchrun(alone)
    alone.setattr(launch, "_count_gpus", lambda: 2)
    engine = choose(Local(), "auto")
    assert isinstance(engine, Stripe)
    assert (engine.name, engine.leads, engine.in_process) == ("stripe 4 of 8", False, True)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "1"
    assert os.environ[BESIDE] == "2"


def test_an_array_element_uses_all_gpus_of_its_machine(alone: pytest.MonkeyPatch) -> None:
    for name, value in ARRAY.items():
        alone.setenv(name, value)
    alone.setattr(launch, "_count_gpus", lambda: 4)
    assert not choose(Local(), "auto").in_process
    assert choose(Local(), "cpu").in_process


def test_settings_of_its_own_keep_a_run_to_itself(alone: pytest.MonkeyPatch) -> None:
    under_torchrun(alone)
    engine = Local(workers=1)
    assert choose(engine, "auto") is engine


def test_settings_come_before_variables(alone: pytest.MonkeyPatch) -> None:
    under_torchrun(alone)
    engine = Stripe(rank=0, world=2)
    choose(engine, "cpu")
    assert (engine.gang.rank, engine.gang.world, engine.leads) == (0, 2, True)


def test_bad_settings(alone: pytest.MonkeyPatch) -> None:
    under_torchrun(alone)
    for settings in (
        {"rank": 0},
        {"rank": 2, "world": 2},
        {"report": -1},
        {"world": 0},
        {"patience": 0},
        {"patience": True},
    ):
        with pytest.raises(ConfigError, match=r"engine\.stripe"):
            Stripe(**settings)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="there are ranks 0 to 7"):
        choose(Stripe(report=8), "cpu")
