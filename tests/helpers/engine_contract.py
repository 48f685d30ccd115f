"""What every engine must do, as tests that its own test class inherits: toy units, lost workers, errors.

A class gives `make`, and `pids` where its workers can be killed by these tests.
"""

from __future__ import annotations

import os
import random
import re
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from toy_work import ToyUnit, TwoArguments, check_done, runs_of, toy_work, toys

from evalkit.engines.base import Engine
from evalkit.errors import DataError, EvalkitError


class EngineContract:
    """Inherit, name the class Test..., and write `make`.

    Attributes:
        where: what the line of a unit's error begins with.
        kills: workers killed in `test_workers_that_are_killed`.
        pause: seconds between kills.
    """

    where = ""
    kills = 10
    pause = 0.25

    def make(self, losses: int = 3) -> Engine:
        """An engine of at least two workers, where it has workers."""
        raise NotImplementedError

    def pids(self, engine: Engine) -> list[int]:
        """The workers' process ids on this machine; empty where none may be killed."""
        return []

    def targets(self, engine: Engine) -> list[int]:
        """Those of them that may be killed now: on a busy machine the starts of workers would else be all that dies."""
        return self.pids(engine)

    @pytest.fixture
    def engine(self) -> Iterator[Engine]:
        engine = self.make()
        yield engine
        pids = self.pids(engine)
        engine.close()
        assert not [pid for pid in pids if os.path.exists(f"/proc/{pid}")]  # noqa: PTH110

    def test_all_units_are_done_and_none_twice(self, engine: Engine, tmp_path: Path) -> None:
        units = toys(12)
        engine.map(toy_work(tmp_path, units))
        check_done(tmp_path, units)
        assert [len(runs_of(tmp_path, unit)) for unit in units] == [1] * 12

    def test_what_is_there_is_left_alone(self, engine: Engine, tmp_path: Path) -> None:
        units = toys(6)
        engine.map(toy_work(tmp_path, units[:4]))
        engine.map(toy_work(tmp_path, units, stage="more"))
        check_done(tmp_path, units)
        assert [len(runs_of(tmp_path, unit)) for unit in units] == [1] * 6

    def test_nothing_to_do_opens_nothing(self, engine: Engine, tmp_path: Path) -> None:
        engine.map(toy_work(tmp_path, []))
        assert not (tmp_path / "opened").exists()

    def test_the_same_workers_serve_all_stages(self, engine: Engine, tmp_path: Path) -> None:
        for stage in range(3):
            engine.map(toy_work(tmp_path, [ToyUnit(f"{stage}-{n}", 0.02) for n in range(8)], stage=f"stage {stage}"))
        assert 1 <= len(list((tmp_path / "opened").iterdir())) <= 2

    def test_an_error_that_a_user_can_mend_is_its_line(self, engine: Engine, tmp_path: Path) -> None:
        with pytest.raises(EvalkitError) as caught:
            engine.map(toy_work(tmp_path, [ToyUnit("a", does="refuse")]))
        assert str(caught.value).startswith(self.where)
        assert str(caught.value).endswith("a is broken: mend it")

    def test_an_error_of_several_arguments_comes_through(self, engine: Engine, tmp_path: Path) -> None:
        with pytest.raises(DataError) as caught:
            engine.map(toy_work(tmp_path, [ToyUnit("a", does="two")]))
        assert str(caught.value).endswith("table.csv: line 7 is broken")
        assert caught.value.line == 7  # type: ignore[attr-defined]
        assert isinstance(caught.value, TwoArguments) or type(caught.value) is DataError

    def line_on(self, folder: Path, units: list[ToyUnit]) -> str:
        """The line that a run of units ends with, of which one ends whoever runs it."""
        engine = self.make()
        with pytest.raises(EvalkitError) as caught:
            engine.map(toy_work(folder, units))
        engine.close()
        return str(caught.value)

    def test_a_unit_that_ends_whoever_runs_it_is_named_and_all_others_are_done(self, tmp_path: Path) -> None:
        units = [ToyUnit("bad", does="SIGKILL"), *toys(6, 0.02), ToyUnit("worse", does="SIGSEGV")]
        line = self.line_on(tmp_path, units)
        assert re.match("toy bad, toy worse: ended 3 [a-z]+ .each.; all else is done; ", line)
        check_done(tmp_path, units[1:-1])
        assert [len(runs_of(tmp_path, unit)) for unit in (units[0], units[-1])] == [3, 3]

    def test_two_runs_at_once_are_one(self, tmp_path: Path) -> None:
        units, engines = toys(12, 0.02), [self.make(), self.make()]
        threads = [threading.Thread(target=engine.map, args=(toy_work(tmp_path, units),)) for engine in engines]
        for thread in threads:
            thread.start()
        for thread, engine in zip(threads, engines, strict=True):
            thread.join()
            engine.close()
        check_done(tmp_path, units)

    def test_workers_that_are_killed(self, tmp_path: Path) -> None:
        self.kill_and_check(tmp_path, kills=self.kills)

    @pytest.mark.slow
    def test_a_hundred_workers_that_are_killed(self, tmp_path: Path) -> None:
        self.kill_and_check(tmp_path, kills=100)

    def kill_and_check(self, folder: Path, kills: int) -> None:
        """Stages go on until so many workers were killed at random; all their units are done, and nothing is left."""
        if type(self).pids is EngineContract.pids:
            pytest.skip("no workers that these tests can kill")
        engine = self.make(losses=1 << 20)
        units: list[ToyUnit] = []
        try:
            with self.chaos(engine, kills) as killed:
                while len(killed) < kills:
                    more = [ToyUnit(f"{len(units) + number:05d}", 0.05) for number in range(20)]
                    engine.map(toy_work(folder, more, stage=f"stage {len(units)}"))
                    units += more
            engine.map(toy_work(folder, units, stage="the end"))
        finally:
            engine.close()
        check_done(folder, units)
        assert len(killed) == kills

    @contextmanager
    def chaos(self, engine: Engine, kills: int) -> Iterator[list[int]]:
        """Kills a worker now and then, up to so many; gives the list of those killed."""
        killed: list[int] = []
        over = threading.Event()
        draw = random.Random(0)

        def kill() -> None:
            while len(killed) < kills and not over.wait(draw.uniform(0.2, 1.8) * self.pause):
                pids = [pid for pid in self.targets(engine) if pid not in killed]
                if pids:
                    pid = draw.choice(pids)
                    os.kill(pid, signal.SIGKILL)
                    killed.append(pid)

        thread = threading.Thread(target=kill)
        thread.start()
        try:
            yield killed
        finally:
            over.set()
            thread.join()


def wait_until(what: object, seconds: float = 20.0) -> None:
    """Waits until a callable says so."""
    deadline = time.monotonic() + seconds
    while not what():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.02)
