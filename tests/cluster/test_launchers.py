"""The same run by one process, under each launcher, and on Slurm: samples, features and scores equal to the bit."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from runs import BOUND, METRICS, ROOT, Outcome, command, outcome, run

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(2 * BOUND)]

TORCHRUN = ("torchrun", "--standalone", "--nproc-per-node", "2")
LAUNCHERS = {
    "torchrun": TORCHRUN,
    # --cpu would start one process alone
    "accelerate": (
        *("accelerate", "launch", "--multi_gpu", "--num_processes=2", "--num_machines=1"),
        *("--mixed_precision=no", "--dynamo_backend=no"),
    ),
    "mpirun": ("mpirun", "--allow-run-as-root", "--oversubscribe", "-np", "2", sys.executable),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def alone(folder: Path) -> Outcome:
    run(folder / "alone")
    left = outcome(folder / "alone")
    kinds = [name.split()[0] for name in left]
    assert (kinds.count("image"), kinds.count("features"), kinds.count("score")) == (520, 5, 3)
    return left


@pytest.mark.parametrize("name", LAUNCHERS)
def test_two_ranks_under_a_launcher(name: str, folder: Path, alone: Outcome) -> None:
    launcher = LAUNCHERS[name]
    if shutil.which(launcher[0]) is None:
        pytest.skip(f"no {launcher[0]}: apt-get install openmpi-bin")
    done = run(folder / name, before=launcher)
    for stripe in ("stripe 1 of 2", "stripe 2 of 2"):
        assert f"generating, {stripe}" in done.stderr
    assert outcome(folder / name) == alone


def test_evaluate_in_each_rank_of_a_group(folder: Path, alone: Outcome) -> None:
    script = f"""
import json, sys, torch.distributed as ranks
import evalkit
ranks.init_process_group("gloo")
images = {{"one": "{folder}/reference"}}
table = evalkit.evaluate(images, images["one"], {list(METRICS)}, store="{folder}/evaluate", device="cpu")
found = [None, None]
ranks.all_gather_object(found, json.dumps(table.to_json()["rows"]))
print("same" if found[0] == found[1] and len(table.rows) >= {len(METRICS)} else found)
"""
    (folder / "ranks.py").write_text(script)
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    words = [*TORCHRUN, str(folder / "ranks.py")]
    done = subprocess.run(words, env=env, timeout=BOUND, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "".join(done.stdout.split()) == "samesame"  # two processes may write on one line
    assert len(list(folder.glob("evaluate/*/results.json"))) == 1
    assert done.stderr.count("writing the results") <= 1


@pytest.mark.parametrize(("restarts", "code"), [(0, 1), (3, 0)])
def test_a_rank_that_is_lost_under_torchrun(restarts: int, code: int, folder: Path, alone: Outcome) -> None:
    store = folder / f"lost-{restarts}"
    launcher = [*TORCHRUN, "--max-restarts", str(restarts), "--monitor-interval", "1"]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [*launcher, *command(store)], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=env, cwd=ROOT
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "stripe 2 of 2 (torchrun)" in line:
                os.kill(child_of_rank(process.pid, 1), signal.SIGKILL)
                break
        said = process.stderr.read()
        assert process.wait(BOUND) == code, said
    if code:
        run(store, before=TORCHRUN)  # the same command again
    else:
        assert said.count("stripe 2 of 2 (torchrun)") == 1
    assert outcome(store) == alone


def test_an_array_on_slurm_with_an_element_that_is_requeued(
    slurm: dict[str, str], folder: Path, alone: Outcome
) -> None:
    store = folder / "slurm"
    settings = {"workers": 2, "gpus": 0, "cpus": 2, "memory": "1000M", "minutes": 5, "poll": 2}
    asked = ["engine=slurm", *(f"engine.slurm.{name}={value}" for name, value in settings.items())]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    words = [sys.executable, *command(store, *asked)]
    with subprocess.Popen(
        words, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=env, cwd=ROOT
    ) as process:
        assert process.stderr is not None
        said = ""
        for line in process.stderr:
            said += line
            if "[worker 1 of 2 on node" in line and "stripe 1 of 2" in line:
                job = re.findall(r"Slurm job (\d+): 2 workers", said)[0]
                subprocess.run(["scontrol", "requeue", f"{job}_0"], check=True, timeout=30)
                break
        said += process.stderr.read()
        assert process.wait(BOUND) == 0, said
    assert "[worker 2 of 2 on node" in said
    assert outcome(store) == alone
    again = run(store, "engine=slurm", "engine.slurm.partition=nix")  # all is there: nothing is submitted
    assert "Slurm" not in again.stderr


def test_an_array_of_your_own_on_slurm(slurm: dict[str, str], folder: Path, alone: Outcome) -> None:
    store = folder / "own"
    words = shlex.join([sys.executable, *command(store)])
    asked = ["--array=0-1", "--ntasks=1", "--cpus-per-task=2", f"--output={folder}/own-%a.log"]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    sbatch = ["sbatch", "--wait", *asked, f"--chdir={ROOT}", "--wrap", f"srun {words}"]
    done = subprocess.run(sbatch, env=env, timeout=BOUND, capture_output=True, text=True)
    said = "".join((folder / f"own-{i}.log").read_text() for i in range(2))
    assert done.returncode == 0, done.stderr + said
    assert "stripe 2 of 2 (a Slurm array)" in said
    assert outcome(store) == alone


def child_of_rank(launcher: int, rank: int) -> int:
    """The process that a launcher started as this rank."""
    for path in Path("/proc").glob("[0-9]*"):
        try:
            status = dict(line.split(":", 1) for line in (path / "status").read_text().splitlines())
            variables = (path / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if int(status["PPid"]) == launcher and f"RANK={rank}".encode() in variables:
            return int(path.name)
    raise AssertionError(f"no rank {rank} below {launcher}")
