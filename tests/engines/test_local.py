"""Local workers: one contract with all engines; order, alone, pinned; losses; errors; ends."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import pytest
from engine_contract import EngineContract, wait_until
from toy_work import ToyUnit, check_done, open_dying, open_refused, runs_of, toy_work, toys

from evalkit.engines import launch
from evalkit.engines.base import Engine, InProcess
from evalkit.engines.local import Local
from evalkit.errors import ConfigError, DataError, EvalkitError

ROOT = Path(__file__).resolve().parents[2]


class TestLocal(EngineContract):
    def make(self, losses: int = 3) -> Engine:
        return Local(workers=2, losses=losses)

    def pids(self, engine: Engine) -> list[int]:
        assert isinstance(engine, Local)
        return [process.pid for process in list(engine._processes.values())]

    def targets(self, engine: Engine) -> list[int]:
        assert isinstance(engine, Local)
        return [process.pid for process in list(engine._processes.values()) if process.ready]


class TestInProcess(EngineContract):
    def make(self, losses: int = 3) -> Engine:
        return InProcess()

    def test_a_unit_that_ends_whoever_runs_it_is_named_and_all_others_are_done(self, tmp_path: Path) -> None:
        pytest.skip("it would end these tests")


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    """The records of evalkit's loggers, which do not go to the root's handlers once the command line has run."""
    monkeypatch.setattr(logging.getLogger("evalkit"), "propagate", True)
    caplog.set_level(logging.INFO, "evalkit")
    return caplog


def run_local(folder: Path, units: list[ToyUnit], workers: int = 2, losses: int = 3, **more: object) -> None:
    engine = Local(workers=workers, losses=losses)
    try:
        engine.map(toy_work(folder, units, **more))
    finally:
        engine.close()


def test_one_worker_without_a_gpu_is_this_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "_count_gpus", lambda: 0)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    engine = Local()
    assert engine.in_process
    engine.map(toy_work(tmp_path, [unit := ToyUnit("a")]))
    assert int(runs_of(tmp_path, unit)[0][0]) == os.getpid()
    assert not Local(workers=2).in_process
    engine.close()


def test_a_worker_per_gpu_sees_that_alone_and_has_its_share_of_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-abc,7")
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr("evalkit.engines.local.cores", lambda: 14)
    engine = Local()
    assert engine.count == 3
    units = toys(6, 0.3)
    engine.map(toy_work(tmp_path, units))
    engine.close()
    runs = [runs_of(tmp_path, unit)[0] for unit in units]
    assert {run[3] for run in runs} == {"4", "GPU-abc", "7"}
    assert {run[2] for run in runs} == {"4"}
    assert len({run[0] for run in runs}) == 3
    engine.device = "cpu"
    assert engine.in_process


def test_units_are_given_out_in_order_as_workers_get_free(tmp_path: Path) -> None:
    units = [ToyUnit("slow", 1.2), *toys(8, 0.05)]
    run_local(tmp_path, units)
    starts = [float(runs_of(tmp_path, unit)[0][-1]) for unit in units]
    assert starts == sorted(starts)
    pids = [runs_of(tmp_path, unit)[0][0] for unit in units]
    assert len(set(pids[1:])) <= 2
    assert pids.count(pids[0]) < 4  # the other one did the rest: a queue, no halves


def test_alone_means_that_all_others_wait(tmp_path: Path) -> None:
    units = toys(7, 0.15)
    run_local(tmp_path, units, alone=frozenset({"000", "003"}))
    runs = [runs_of(tmp_path, unit)[0] for unit in units]
    starts = [float(run[-1]) for run in runs]
    for alone in (0, 3):
        others = [start for place, start in enumerate(starts) if place != alone]
        assert all(abs(start - starts[alone]) > 0.14 for start in others)
        assert runs[alone][1] == "1"
    assert {run[1] for place, run in enumerate(runs) if place not in (0, 3)} == {"2"}


def test_pinned_units_stay_with_one_worker(tmp_path: Path) -> None:
    units = toys(8, 0.3)
    run_local(tmp_path, units, pinned=frozenset({"000", "002", "003", "007"}))
    pids = [runs_of(tmp_path, unit)[0][0] for unit in units]
    assert len({pids[place] for place in (0, 2, 3, 7)}) == 1
    assert len(set(pids)) == 2


def test_the_last_units_are_the_second_workers_alone(tmp_path: Path) -> None:
    """The first one starts late, so that pinned units are the second's; at the end nobody else may run them."""
    before, units = [ToyUnit("a", 0.3), ToyUnit("b", 0.3)], toys(4, 0.3)
    engine = Local(workers=2)
    try:
        engine.map(toy_work(tmp_path, before))  # both are there, and ready
        first = engine.process(0, toy_work(tmp_path, units))
        first.ready = False
        threading.Timer(0.2, lambda: engine._events.put((first, ("ready",)))).start()
        engine.map(toy_work(tmp_path, units, pinned=frozenset({"000", "001", "002"})))
    finally:
        engine.close()
    check_done(tmp_path, [*before, *units])


@pytest.mark.parametrize("does", ["SIGKILL", "SIGSEGV", "exit"])
def test_a_lost_workers_unit_is_done_by_another(tmp_path: Path, does: str, lines: pytest.LogCaptureFixture) -> None:
    units = [*toys(3, 0.05), ToyUnit("bad", does=does, times=2)]
    run_local(tmp_path, units)
    check_done(tmp_path, units)
    assert len(runs_of(tmp_path, units[-1])) == 3
    named = {"exit": "exit code 3", "SIGKILL": "SIGKILL (out of memory?)"}.get(does, does)
    lost = [line for line in lines.messages if " ended by " in line]
    assert len(lost) == 2
    assert lost[0].partition(" ended")[2] == f" by {named} with toy bad"


def test_deaths_at_the_start_count_against_no_unit(tmp_path: Path) -> None:
    with pytest.raises(EvalkitError) as caught:
        run_local(tmp_path, toys(4), open=partial(open_dying, tmp_path))
    assert str(caught.value) == ("workers end before they start on anything: SIGKILL (out of memory?): the last words")


def test_a_worker_that_refuses_says_so_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        run_local(tmp_path, toys(4), open=partial(open_refused, tmp_path))
    assert str(caught.value) == "this store is another one"


def test_a_bug_is_one_line_and_its_traceback_is_in_the_log(tmp_path: Path, lines: pytest.LogCaptureFixture) -> None:
    with pytest.raises(EvalkitError) as caught:
        run_local(tmp_path, [ToyUnit("a", does="bug")])
    assert str(caught.value) == "worker 1: ZeroDivisionError: a bug (toy a); the traceback is above"
    assert "worker 1: ZeroDivisionError: a bug" in lines.messages
    assert any("_misbehave(unit)" in line for line in lines.messages)


def test_an_error_ends_the_others_and_nothing_is_left(tmp_path: Path) -> None:
    began = time.monotonic()
    with pytest.raises(EvalkitError, match="b is broken"):
        run_local(tmp_path, [ToyUnit("a", 60), ToyUnit("b", 0.3, does="refuse")])
    assert time.monotonic() - began < 5
    check_done(tmp_path, [])


def test_ctrl_c_in_a_unit_is_ctrl_c(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run_local(tmp_path, [ToyUnit("a", does="interrupt")])


def test_what_workers_say_comes_once_and_names_them(tmp_path: Path, lines: pytest.LogCaptureFixture) -> None:
    run_local(tmp_path, [ToyUnit(f"{n}", 0.2, does=does) for n, does in enumerate(["log", "log", "print", "print"])])
    said = [line for line in lines.messages if line.startswith("[")]
    assert sorted(line.partition("] ")[2] for line in said) == ["a line that all say", "printed"]
    assert all(line.startswith("[worker ") for line in said)
    assert any(line.startswith("toys: 4 images in ") for line in lines.messages)


def test_bad_settings() -> None:
    for settings in ({"workers": 0}, {"workers": "many"}, {"threads": 0}, {"losses": 0}, {"timing": "both"}):
        with pytest.raises(ConfigError, match=f"engine.local.{next(iter(settings))}="):
            Local(**settings)  # type: ignore[arg-type]


DRIVER = """
import logging, sys
from pathlib import Path
from toy_work import ToyUnit, toy_work
from evalkit import cli
from evalkit.engines.local import Local
def run():
    engine = Local(workers=2)
    try:
        engine.map(toy_work(Path(sys.argv[1]), [ToyUnit("a", 60), ToyUnit("b", 60), ToyUnit("c", 60)]))
    finally:
        engine.close()
cli._parse = lambda arguments: run
cli.main()
"""


@pytest.fixture
def driver(tmp_path: Path) -> subprocess.Popen[str]:
    """A process with two workers at work, in a group of its own as a shell starts it."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "helpers")])
    process = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(tmp_path)],
        env=os.environ | {"PYTHONPATH": path},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    wait_until(lambda: len(list(tmp_path.glob("done/.tmp-*"))) == 2)
    yield process
    process.kill()


def workers_of(folder: Path) -> list[int]:
    return [int(path.name) for path in (folder / "opened").iterdir()]


def are_gone(pids: list[int]) -> bool:
    return not any(Path(f"/proc/{pid}").exists() for pid in pids)


@pytest.mark.parametrize("how", ["Ctrl-C", "SIGTERM"])
def test_ctrl_c_and_sigterm_end_all(driver: subprocess.Popen[str], tmp_path: Path, how: str) -> None:
    began, pids = time.monotonic(), workers_of(tmp_path)
    if how == "Ctrl-C":
        os.killpg(driver.pid, signal.SIGINT)  # a terminal tells the whole group
    else:
        driver.terminate()
    error = driver.communicate(timeout=10)[1]
    assert time.monotonic() - began < 5
    assert driver.returncode == (130 if how == "Ctrl-C" else 143)
    assert error.startswith("evalkit: stopped. ")
    assert len(error.splitlines()) == 1
    assert are_gone(pids)
    assert list((tmp_path / "done").iterdir()) == []


def test_workers_end_with_their_driver(driver: subprocess.Popen[str], tmp_path: Path) -> None:
    pids = workers_of(tmp_path)
    driver.kill()
    driver.wait()
    wait_until(lambda: are_gone(pids), 5)
    assert list((tmp_path / "done").iterdir()) == []


def test_a_worker_that_does_not_hear_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evalkit.engines.process.PATIENCE", 0.5)
    units = [ToyUnit("deaf", 0.0, does="deaf"), ToyUnit("b", 0.5, does="refuse")]
    with pytest.raises(EvalkitError, match="b is broken"):
        run_local(tmp_path, units)
    assert are_gone(workers_of(tmp_path))
