"""Stripes: each its own, then what is missing; whoever is lost is made good by the others."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from engine_contract import EngineContract, wait_until
from toy_work import ToyUnit, check_done, runs_of, toy_work, toys

from evalkit.engines import stripe
from evalkit.engines.base import Engine, Run, Tell
from evalkit.engines.stripe import Stripe

ROOT = Path(__file__).resolve().parents[2]
RANK = """
import logging, sys
from pathlib import Path
from toy_work import ToyUnit, toy_work
from evalkit.engines.base import InProcess
from evalkit.engines.factory import choose
from evalkit.engines.local import Local
from evalkit.engines.stripe import Stripe
from evalkit.utils.progress import LogHandler
folder, count, seconds, patience = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4])
logger = logging.getLogger("evalkit")
logger.addHandler(LogHandler())
logger.setLevel(logging.INFO)
engine = choose(Stripe(patience=patience) if patience else Local(), "cpu")
for stage in ("first", "second"):
    engine.map(toy_work(folder, [ToyUnit(f"{stage}-{n:03d}", seconds) for n in range(count)], stage=stage))
    print(stage, flush=True)
print("leads" if engine.leads else "follows", flush=True)
"""

TOYS = """
import json, sys
from pathlib import Path
from toy_work import ToyUnit, toy_work
from evalkit.engines.stripe import Stripe
from evalkit.errors import EvalkitError
folder, rank, world, units = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), json.loads(sys.argv[4])
try:
    Stripe(rank, world, patience=0.5).map(toy_work(folder, [ToyUnit(*unit) for unit in units]))
except EvalkitError as error:
    sys.exit(str(error))
"""


class TestStripe(EngineContract):
    """One stripe of one: it does all."""

    def make(self, losses: int = 3) -> Engine:
        return Stripe(rank=0, world=1)

    def line_on(self, folder: Path, units: list[ToyUnit]) -> str:
        for _ in range(6):  # whoever runs them ends, and is started again, as torchrun does it
            assert start_toys(folder, 0, 1, units).wait(30) < 0
        with start_toys(folder, 0, 1, units) as last:
            assert last.stderr is not None
            return last.stderr.read()

    where = os.uname().nodename + ", stripe 1 of 1: "


def start_toys(folder: Path, rank: int, world: int, units: list[ToyUnit]) -> subprocess.Popen[str]:
    told = json.dumps([[unit.key, unit.seconds, unit.does, unit.times] for unit in units])
    words = [sys.executable, "-c", TOYS, str(folder), str(rank), str(world), told]
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "helpers")])
    return subprocess.Popen(words, env=os.environ | {"PYTHONPATH": path}, stderr=subprocess.PIPE, text=True)


def start(folder: Path, rank: int, world: int, count: int, seconds: float, patience: float) -> subprocess.Popen[str]:
    variables = {
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests" / "helpers")]),
        "RANK": str(rank),
        "WORLD_SIZE": str(world),
    }
    return subprocess.Popen(
        [sys.executable, "-c", RANK, str(folder), str(count), str(seconds), str(patience)],
        env=os.environ | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def units_of(count: int) -> list[ToyUnit]:
    return [ToyUnit(f"{stage}-{n:03d}") for stage in ("first", "second") for n in range(count)]


def test_two_processes_share_the_work_and_one_leads(tmp_path: Path) -> None:
    processes = [start(tmp_path, rank, 2, 10, 0.1, 0) for rank in range(2)]
    said = [process.communicate(timeout=30) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    assert [out.split() for out, _ in said] == [["first", "second", "leads"], ["first", "second", "follows"]]
    assert "[stripe 2] stripe 2 of 2 (torchrun)" in said[1][1]
    check_done(tmp_path, units_of(10))
    runs = [runs_of(tmp_path, unit) for unit in units_of(10)]
    assert len({run[0][0] for run in runs}) == 2
    assert sum(len(run) for run in runs) <= 24  # each stage's far end may be done by both


def test_the_others_make_good_what_a_lost_one_leaves(tmp_path: Path) -> None:
    processes = [start(tmp_path, rank, 2, 12, 0.1, 0.5) for rank in range(2)]
    wait_until(lambda: len(list(tmp_path.glob("done/first-*"))) >= 4)
    processes[0].kill()
    processes[0].communicate()
    out, error = processes[1].communicate(timeout=30)
    assert processes[1].returncode == 0, error
    assert out.split() == ["first", "second", "follows"]
    check_done(tmp_path, units_of(12))
    again = start(tmp_path, 0, 2, 12, 0.1, 0.5)  # the same command: nothing is left but the report
    assert again.communicate(timeout=30)[0].split() == ["first", "second", "leads"]
    assert sum(len(runs_of(tmp_path, unit)) for unit in units_of(12)) <= 27


def test_one_that_never_came_is_made_good_too(tmp_path: Path) -> None:
    units = toys(6)
    Stripe(rank=1, world=2, patience=0.3).map(toy_work(tmp_path, units))
    check_done(tmp_path, units)


def test_what_has_ended_a_process_comes_after_all_else(tmp_path: Path) -> None:
    units = [ToyUnit("bad", does="SIGKILL"), *toys(4)]
    for _ in range(2):
        assert start_toys(tmp_path, 0, 1, units).wait(30) < 0
    check_done(tmp_path, units[1:])


def test_a_unit_that_ends_three_ranks_is_named_by_the_fourth(tmp_path: Path) -> None:
    units = [ToyUnit("bad", does="SIGKILL", times=3), *toys(7, 0.02)]
    ranks = [start_toys(tmp_path, rank, 4, units) for rank in range(4)]  # nobody starts any of them again
    said = [rank.communicate(timeout=60)[1] for rank in ranks]
    assert sorted(rank.returncode for rank in ranks) == [-signal.SIGKILL] * 3 + [1]
    assert "".join(said).startswith("toy bad: ended 3 processes (each); all else is done; ")
    check_done(tmp_path, units[1:])
    assert len(runs_of(tmp_path, units[0])) == 3
    Stripe(0, 1).map(toy_work(tmp_path, units))  # the same command again
    check_done(tmp_path, units)
    assert not list((tmp_path / "tries").iterdir())


def test_what_others_do_of_a_stripe_is_no_sign_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(stripe, "time", SimpleNamespace(monotonic=lambda: now[0]))
    units = toys(6)
    watch = stripe._Watch({unit.key: number % 2 for number, unit in enumerate(units)}, units)
    now[0] = 10
    assert watch.look(units) == {0: 10, 1: 10}
    watch.took(0)
    now[0] = 11
    assert watch.look(units[1:]) == {0: 11, 1: 11}
    assert watch.look(units[2:]) == {0: 11, 1: 0}


def test_pinned_units_are_the_first_ranks_alone(tmp_path: Path) -> None:
    units, pinned = toys(6, 0.02), frozenset({"001", "004", "005"})
    second = threading.Thread(target=Stripe(1, 2, patience=0.1).map, args=(toy_work(tmp_path, units, pinned=pinned),))
    second.start()
    time.sleep(1.0)
    check_done(tmp_path, [unit for unit in units if unit.key not in pinned])  # it waits for these
    Stripe(0, 2, patience=0.1).map(toy_work(tmp_path, units, pinned=pinned))
    second.join(5)
    assert not second.is_alive()
    check_done(tmp_path, units)
    assert [len(runs_of(tmp_path, unit)) for unit in units] == [1] * 6


def test_who_is_done_helps_a_slow_one_from_its_far_end(tmp_path: Path) -> None:
    units = [ToyUnit(f"{n:03d}", 0.02 if n % 2 else 0.4) for n in range(20)]  # the even ones, of rank 0, are slow
    work, helped = toy_work(tmp_path, units), list[str]()

    def opened() -> Run:
        run = work.open()

        def noted(unit: ToyUnit, tell: Tell) -> None:
            helped.append(unit.key)
            run(unit, tell)

        return noted

    first = threading.Thread(target=Stripe(0, 2).map, args=(work,))
    first.start()
    Stripe(1, 2).map(replace(work, open=opened))
    first.join()
    assert len(helped) > 10  # more than its own
    check_done(tmp_path, units)


@pytest.mark.slow
def test_any_number_of_stripes_that_are_killed_and_started_again(tmp_path: Path) -> None:
    processes = {rank: start(tmp_path, rank, 3, 60, 0.05, 0.5) for rank in range(3)}
    for kill in range(30):
        time.sleep(0.4)
        rank = kill % 3
        processes[rank].send_signal(signal.SIGKILL)
        processes[rank].communicate()
        processes[rank] = start(tmp_path, rank, 3, 60, 0.05, 0.5)
    for process in processes.values():
        assert process.communicate(timeout=60)[0].split()[:2] == ["first", "second"]
    check_done(tmp_path, units_of(60))
