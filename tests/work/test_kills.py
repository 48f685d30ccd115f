"""A hundred workers killed at random over a real run: the numbers of one process, and nothing left behind."""

from __future__ import annotations

import itertools
import math
import os
import random
import signal
import statistics
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from real_run import THREE, UNITS, files_of, litter, plan_of, scores_of

from evalkit import pipeline
from evalkit.engines.local import STARTS, Local
from evalkit.engines.process import Process

LOSSES = 3  # of workers, after which a unit is set aside: the engine's own number


class Killer:
    """Kills workers of a local engine at random moments: as they start, and in every kind of unit.

    No unit is hit in as many workers as would have it set aside; starts are hit as often as it comes, but for so many
    in a row that the engine would rightly stop.

    Args:
        most: workers to kill.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.kills = Counter[str]()  # by what the worker was at
        self._draw = random.Random(0)
        self._hits = Counter[str]()  # by unit
        self._starts = Counter[int]()  # by slot, in a row
        self._took: dict[str, list[float]] = {}  # seconds, by kind, of what came to its end
        self._at: dict[int, tuple[str, float, float]] = {}  # by pid: what it is at, since when, and when it is to die

    @property
    def count(self) -> int:
        return self.kills.total()

    def pids(self) -> list[int]:
        """Of all workers that were seen."""
        return list(self._at)

    @contextmanager
    def at_work(self, engine: Local) -> Iterator[None]:
        over = threading.Event()
        self._hits.clear()  # another round's units
        self._starts.clear()

        def watch() -> None:
            while not over.wait(0.01):
                for process in list(engine._processes.values()):
                    self._look(process)

        thread = threading.Thread(target=watch)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _look(self, process: Process) -> None:
        unit, now = process.unit, time.monotonic()
        doing = "start" if not process.ready else "idle" if unit is None else unit.key
        kind = doing.partition("/")[0]
        before, since, due = self._at.get(process.pid, ("start", now, math.inf))
        if doing != before or process.pid not in self._at:
            if doing != before:
                self._took.setdefault(before.partition("/")[0], []).append(now - since)
            wanted = self.count < self.most and self._draw.random() < self._odds(kind)
            since, due = now, now + self._draw.uniform(0, 1) * self._usual(kind) if wanted else math.inf
            self._at[process.pid] = doing, since, due
        if process.started:
            self._starts[process.slot] = 0
        if now < due or self._hits[doing] >= LOSSES - 1 or self._starts[process.slot] >= STARTS - 1:
            return
        self._at[process.pid] = doing, since, math.inf
        if kind == "start" or not process.started:
            self._starts[process.slot] += 1
        if unit is not None:
            self._hits[doing] += 1
        self.kills[kind] += 1
        os.kill(process.pid, signal.SIGKILL)

    def _usual(self, kind: str) -> float:
        return statistics.median(self._took.get(kind, [1.0])[-20:])

    def _odds(self, kind: str) -> float:
        """Starts come often by themselves, and what was hit least is hit first."""
        fewest = min(self.kills[each] for each in UNITS)
        return 0.25 if kind in ("start", "idle") else 1.0 if self.kills[kind] <= fewest + 2 else 0.5


@pytest.mark.slow
@pytest.mark.timeout(5400)
def test_a_hundred_workers_that_are_killed_over_a_real_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr(tempfile, "tempdir", None)
    plan = plan_of(tmp_path / "alone", None, *THREE)
    scores = scores_of(pipeline.run(plan))
    assert sum(not text.startswith("None") for text in scores.values()) == 3 * 4 + 1 + 1  # ssim, ppl of one each
    files = files_of(tmp_path / "alone" / "runs")
    most = int(os.environ.get("KILLS", "100"))
    killer = Killer(most)
    for round_ in itertools.count():
        folder = tmp_path / f"round-{round_}"
        folder.mkdir()
        (folder / "reference").symlink_to(tmp_path / "alone" / "reference")
        engine, before = Local(workers=2), killer.count
        with killer.at_work(engine):
            table = pipeline.run(plan_of(folder, engine, *THREE))
        print(f"round {round_}: {killer.count - before} kills, in all {dict(killer.kills)}", flush=True)
        assert scores_of(table) == scores
        assert files_of(folder / "runs") == files
        assert litter(folder) == []
        if killer.count >= most:
            break
        assert killer.count > before, "the units are too short to be hit"
    assert [pid for pid in killer.pids() if Path(f"/proc/{pid}").exists()] == []
    assert [path for path in (tmp_path / "tmp").iterdir() if not path.name.startswith("torchinductor_")] == []
    assert set(killer.kills) >= {*UNITS, "start"}
    assert min(killer.kills[kind] for kind in (*UNITS, "start")) >= most // 20
