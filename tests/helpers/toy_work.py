"""Work for engines to be tried with: units write files, and misbehave as they are told."""

from __future__ import annotations

import functools
import logging
import os
import signal
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from evalkit.engines.base import Run, Tell, Work, beside
from evalkit.errors import DataError, EvalkitError
from evalkit.utils.blobs import LocalBlobs
from evalkit.utils.files import sweep, temporary_path

log = logging.getLogger("evalkit.toy")


class TwoArguments(DataError):
    """Cannot be unpickled by its arguments."""

    def __init__(self, file: str, line: int) -> None:
        super().__init__(f"{file}: line {line} is broken")
        self.line = line


@dataclass(frozen=True)
class ToyUnit:
    """A unit that writes `done/<key>`, after `seconds`.

    Attributes:
        does: nothing; or "refuse", "two", "bug", "interrupt", "deaf", "exit", "log", "print"; or a signal's name: it
            sends that to its own process, in its first `times` runs.
    """

    key: str
    seconds: float = 0.0
    does: str = ""
    times: int = 1 << 30

    @property
    def label(self) -> str:
        return f"toy {self.key}"


def open_toy(folder: Path) -> Run:
    """What runs the units; says once a process that it was opened."""
    (folder / "opened").mkdir(exist_ok=True)
    (folder / "opened" / str(os.getpid())).touch()
    return functools.partial(run_toy, folder)


def open_refused(folder: Path) -> Run:
    raise DataError("this store is another one")


def open_dying(folder: Path) -> Run:
    print("the last words", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def run_toy(folder: Path, unit: ToyUnit, tell: Tell) -> None:
    blobs = LocalBlobs(folder / "done")
    if (blobs.root / unit.key).exists():
        return
    runs = folder / "runs" / unit.key  # a line per run: pid, workers beside, threads, GPUs, start, stop
    runs.parent.mkdir(exist_ok=True)
    earlier = len(runs.read_text("utf-8").splitlines()) if runs.exists() else 0
    variables = [os.environ.get(name, "") for name in ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES")]
    with runs.open("a", encoding="utf-8") as file:
        file.write(" ".join([str(os.getpid()), str(beside()), *variables, f"{time.time():.3f}"]) + "\n")
    tell("toys", 0)
    blobs.root.mkdir(exist_ok=True)
    with temporary_path(blobs.root / unit.key) as temporary:
        temporary.mkdir()
        if unit.does and earlier < unit.times:
            _misbehave(unit)
        time.sleep(unit.seconds)
        tell("toys", 1)
        blobs.put_new(unit.key, f"{unit.key} * 2\n".encode())


def _misbehave(unit: ToyUnit) -> None:
    if unit.does.startswith("SIG"):
        os.kill(os.getpid(), signal.Signals[unit.does])
    elif unit.does == "refuse":
        raise EvalkitError(f"{unit.key} is broken: mend it")
    elif unit.does == "two":
        raise TwoArguments("table.csv", 7)
    elif unit.does == "bug":
        raise ZeroDivisionError("a bug")
    elif unit.does == "interrupt":
        raise KeyboardInterrupt
    elif unit.does == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(60)
    elif unit.does == "exit":
        os._exit(3)
    elif unit.does == "log":
        log.warning("a line that all say")
    elif unit.does == "print":
        print("printed")


def done_toys(folder: Path, units: Sequence[ToyUnit]) -> set[str]:
    there = {key for key, _ in LocalBlobs(folder / "done").list()}
    return {unit.key for unit in units} & there


def toy_work(folder: Path, units: Iterable[ToyUnit], *, stage: str = "toying", **more: object) -> Work:
    """A stage of toy units in a folder; `more` goes to Work."""
    units = list(units)
    filled = {
        "totals": {"toys": len(units)},
        "open": functools.partial(open_toy, folder),
        "done": functools.partial(done_toys, folder),
        "notes": LocalBlobs(folder / "tries"),
    }
    return Work(stage, units, **(filled | more))  # type: ignore[arg-type]


def toys(count: int, seconds: float = 0.0) -> list[ToyUnit]:
    return [ToyUnit(f"{number:03d}", seconds) for number in range(count)]


def runs_of(folder: Path, unit: ToyUnit) -> list[list[str]]:
    """A unit's runs: pid, workers beside, threads, GPUs (where there are), start."""
    file = folder / "runs" / unit.key
    return [line.split() for line in file.read_text("utf-8").splitlines()] if file.exists() else []


def check_done(folder: Path, units: Iterable[ToyUnit]) -> None:
    """All units have their outcome, whole, and nothing else lies there but what the killed left, which is swept."""
    sweep(folder / "done")
    written = {path.name: path.read_text("utf-8") for path in (folder / "done").iterdir()}
    assert written == {unit.key: f"{unit.key} * 2\n" for unit in units}
