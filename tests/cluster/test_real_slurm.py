"""evalkit/engines/slurm.py on a real Slurm of two nodes, with toy units."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from toys import begun, toy_work

from evalkit.engines.slurm import Slurm
from evalkit.errors import EvalkitError

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(120)]

SMALL = {"gpus": 0, "cpus": 1, "memory": "100M", "minutes": 5, "poll": 1, "patience": 2, "workers": 2}


@pytest.fixture
def engine(slurm: dict[str, str]) -> Iterator[Callable[..., Slurm]]:
    """Makes engines, and ends them."""
    made = []

    def make(**settings: Any) -> Slurm:
        made.append(Slurm(**{**SMALL, **settings}))
        return made[-1]

    yield make
    for each in made:
        each.close()
    shell("scancel --user=root")
    until(lambda: not queue())


def shell(command: str) -> str:
    return subprocess.run(command, shell=True, check=True, capture_output=True, text=True, timeout=30).stdout.strip()


def queue() -> dict[str, str]:
    """The state of every element, by job id: {"3_0": "RUNNING"}."""
    return dict(line.split() for line in shell("squeue --noheader --array --format='%i %T'").splitlines())


def arrays(store: Path) -> int:
    """How many were submitted."""
    return len(list((store / "slurm" / "plan").glob("*_submission.sh")))


def logs(store: Path) -> str:
    return "".join(path.read_text() for path in sorted((store / "slurm" / "plan").glob("*_log.out")))


def until(ready: Callable[[], object], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.1)


def driver(store: Path, count: int, toy: dict[str, Any], **settings: Any) -> subprocess.Popen[str]:
    """The engine in a process of its own."""
    script = Path(__file__).with_name("toys.py")
    arguments = [str(store), str(count), json.dumps(toy), json.dumps({**SMALL, **settings})]
    return subprocess.Popen([sys.executable, script, *arguments], stderr=subprocess.PIPE, text=True)


def test_both_nodes_make_each_unit_once_without_sacct(
    engine: Callable[..., Slurm], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert subprocess.run(["sacct"], capture_output=True).returncode != 0
    caplog.set_level(logging.INFO)
    store = tmp_path / "store"
    slurm = engine(cpus=2)  # a node each
    slurm.map(toy_work(store, 6, seconds=0.4))
    slurm.map(toy_work(store, 6, stage="later"))  # all is there: nothing is submitted, nobody is waited for
    slurm.close()
    assert sorted(begun(store)) == list("012345")
    assert arrays(store) == 1
    assert re.search(rf"Slurm job \d+: 2 workers; their logs: {store}/slurm/plan", caplog.text)
    assert "[worker 1 of 2 on node1] made" in caplog.text
    assert "[worker 2 of 2 on node2] made" in caplog.text
    until(lambda: not queue())


def test_an_element_that_never_starts_holds_nobody_up(engine: Callable[..., Slurm], tmp_path: Path) -> None:
    shell("sbatch --job-name=blocker --nodes=2 --ntasks=4 --output=/dev/null --wrap 'sleep 300'")
    until(lambda: "RUNNING" in queue().values())
    store = tmp_path / "store"
    with driver(store, 6, {"seconds": 0.4}) as process:
        until(lambda: len(queue()) == 3)
        shell(f"scontrol hold {next(job for job in queue() if job.endswith('_1'))}")
        shell("scancel --name=blocker")
        assert process.wait(60) == 0
        assert process.stderr is not None
        assert re.search("[12] Slurm jobs named evalkit-plan are ended", process.stderr.read())
    assert sorted(begun(store)) == list("012345")
    assert "worker 2 of 2" not in logs(store)
    until(lambda: not queue())


def test_a_requeued_element_goes_on(engine: Callable[..., Slurm], tmp_path: Path) -> None:
    store = tmp_path / "store"
    with driver(store, 8, {"seconds": 2}) as process:
        until(lambda: (store / "begun").exists() and len(list(store.glob(".tmp-*"))) == 2)
        shell(f"scontrol requeue {next(job for job in queue() if job.endswith('_0'))}")
        until(lambda: "put away" in logs(store))
        assert process.wait(60) == 0
    assert logs(store).count("slurm: worker 1 of 2") == 2
    assert arrays(store) == 1
    assert len(begun(store)) == 9  # one was begun twice
    assert not list(store.glob(".tmp-*"))


@pytest.mark.timeout(240)
def test_sigterm_before_the_time_limit_puts_the_work_away_and_requeues(
    engine: Callable[..., Slurm], tmp_path: Path
) -> None:
    store = tmp_path / "store"
    slurm = engine(workers=1, minutes=1)
    slurm.map(toy_work(store, 7, seconds=5))
    assert "put away" in logs(store)
    assert "slurm: ended with 143" in logs(store)
    assert logs(store).count("slurm: worker 1 of 1") >= 2
    assert arrays(store) == 1
    assert not list(store.glob(".tmp-*"))


def test_another_array_only_where_something_is_missing_and_nobody_is_left(
    engine: Callable[..., Slurm], tmp_path: Path
) -> None:
    store = tmp_path / "store"
    with driver(store, 8, {"seconds": 1}) as process:
        until(lambda: (store / "begun").exists())
        one, other = queue()
        shell(f"scontrol requeuehold {one}")  # it waits: alive
        shell(f"scancel {other}")
        until(lambda: list(queue().values()) == ["PENDING"])
        there = len(list(store.glob("unit-*")))
        time.sleep(8)  # four times the patience
        assert arrays(store) == 1
        assert len(list(store.glob("unit-*"))) == there
        shell(f"scancel {one}")  # nobody is left
        assert process.wait(60) == 0
    assert arrays(store) == 2
    assert len(list(store.glob("unit-*"))) == 8


def test_a_unit_that_kills_its_workers_is_named_and_the_rest_is_made(
    engine: Callable[..., Slurm], tmp_path: Path
) -> None:
    store = tmp_path / "store"
    with pytest.raises(
        EvalkitError, match=r"^toys: 2 arrays in a row ended without anything new; missing: toy 3\. How"
    ):
        engine(losses=1, patience=1).map(toy_work(store, 6, poison=["3"]))
    assert len(list(store.glob("unit-*"))) == 5


def test_what_a_worker_refuses_is_said_at_once(engine: Callable[..., Slurm], tmp_path: Path) -> None:
    with pytest.raises(
        EvalkitError, match=r"^worker 1 of 2 on node\d: cannot see the store \(its log: .*_0_0_log.out\)$"
    ):
        engine(patience=60).map(toy_work(tmp_path / "store", 2, refuse="cannot see the store"))
    assert arrays(tmp_path / "store") == 1


def test_ctrl_c_cancels_the_array_in_one_line(engine: Callable[..., Slurm], tmp_path: Path) -> None:
    store = tmp_path / "store"
    with driver(store, 8, {"seconds": 60}) as process:
        until(lambda: len(list(store.glob(".tmp-*"))) == 2)
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.wait(5) == 130
        until(lambda: not list(store.glob(".tmp-*")), 5)
        assert time.monotonic() - began < 5
        assert process.stderr is not None
        assert process.stderr.read().splitlines()[-1] == "2 Slurm jobs named evalkit-plan are cancelled"
    until(lambda: not queue())
    assert logs(store).count("put away") == 2


def test_an_array_outlives_its_driver_and_is_found_again(engine: Callable[..., Slurm], tmp_path: Path) -> None:
    store = tmp_path / "store"
    with driver(store, 10, {"seconds": 1}) as process:
        until(lambda: (store / "begun").exists())
        os.kill(process.pid, signal.SIGKILL)
    count = len(list(store.glob("unit-*")))
    until(lambda: len(list(store.glob("unit-*"))) > count + 1)
    with driver(store, 10, {"seconds": 1}) as process:
        assert process.wait(60) == 0
        assert process.stderr is not None
        assert "an array of an earlier start works on this" in process.stderr.read()
    assert arrays(store) == 1
    assert sorted(begun(store), key=int) == [str(number) for number in range(10)]


def test_sbatch_refuses_in_its_own_words(engine: Callable[..., Slurm], tmp_path: Path) -> None:
    with pytest.raises(EvalkitError, match="engine=slurm: sbatch refuses: invalid partition specified: nix; Batch job"):
        engine(partition="nix").map(toy_work(tmp_path / "store", 2))
