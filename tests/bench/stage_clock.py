"""Runs the command line with its arguments, and writes what each stage took as JSON to $STAGES (bench_scale.py).

A stage within another one's time is taken out of it, so that the parts add up. CPU seconds are of all threads: what the
lint measures while features are extracted counts as features. Linux alone tells what living children took.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import json
import os
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# In the order of a run: the stage, and the functions whose time it is. One that a version lacks is left out.
STAGES = (
    ("plan", "evalkit.plan.plan", "make_plan"),
    ("generate", "evalkit.work.stages", "Stages._make_samples"),
    ("open", "evalkit.samples.sample_set", "SampleSet.open"),
    ("features", "evalkit.work.stages", "Stages._extract"),
    ("scores", "evalkit.work.stages", "Stages._score"),
    ("reference", "evalkit.scoring.scoring", "Scorer._observe_sides"),
    ("features", "evalkit.features.feature_pass", "FeaturePass.compute"),
    ("scores", "evalkit.pipeline", "_score"),
    ("lint", "evalkit.pipeline", "_lint"),
    ("table", "evalkit.pipeline", "_table"),
    ("files", "evalkit.pipeline", "write"),
    ("report", "evalkit.report", "write_report"),
)
WHOLE = {"reference"}  # stages that nothing is taken out of
_TICKS = os.sysconf("SC_CLK_TCK")


class Clock:
    """What each stage took so far: [wall, CPU of this process, CPU of its children, peak of this process in MB]."""

    def __init__(self) -> None:
        self.spent: dict[str, list[float]] = {}
        self._stack = ["start"]
        self._last = _now()

    def turn(self) -> None:
        """Gives the time since the last turn to the stage at work."""
        now = _now()
        spent = self.spent.setdefault(self._stack[-1], [0.0] * 4)
        for i in range(3):
            spent[i] += now[i] - self._last[i]
        spent[3] = now[3]
        self._last = now

    def timed(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, whose time is the stage's."""

        @functools.wraps(function)
        def run(*args: Any, **options: Any) -> Any:
            if self._stack[-1] in WHOLE:
                return function(*args, **options)
            self.turn()
            self._stack.append(stage)
            try:
                return function(*args, **options)
            finally:
                self.turn()
                self._stack[-2:] = ["other" if self._stack[-2] == "start" else self._stack[-2]]

        return run


def _now() -> list[float]:
    mine, reaped = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    children = reaped.ru_utime + reaped.ru_stime + _living(os.getpid())
    return [time.perf_counter(), mine.ru_utime + mine.ru_stime, children, mine.ru_maxrss / 1024]


def _living(pid: int) -> float:
    """CPU seconds of the children of a process that were not waited for yet, and of theirs."""
    total = 0.0
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                fields = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
                total += sum(map(int, fields[11:15])) / _TICKS + _living(int(child))
    return total


def main() -> None:
    clock = Clock()
    for stage, module, name in STAGES:
        with contextlib.suppress(ImportError, AttributeError):
            owner = importlib.import_module(module)
            *inside, last = name.split(".")
            for part in inside:
                owner = getattr(owner, part)
            real = vars(owner)[last] if isinstance(owner, type) else getattr(owner, last)
            wrapped = clock.timed(stage, getattr(real, "__func__", real))
            setattr(owner, last, classmethod(wrapped) if isinstance(real, classmethod) else wrapped)
    from evalkit.cli import main as run

    try:
        run()
    finally:
        clock.turn()
        children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        Path(os.environ["STAGES"]).write_text(json.dumps({"stages": clock.spent, "largest_child_mb": children}))


if __name__ == "__main__":
    main()
