"""Units that write one file each: for tests of engines. What a unit is to do stands in its name."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from evalkit.engines.base import Run, Tell, Work
from evalkit.errors import DataError, StoreError
from evalkit.utils.blobs import LocalBlobs


@dataclass(frozen=True)
class Toy:
    """`what`: write; log; sleep:SECONDS; kill (its worker, every time); kill:N (the first N times); raise; bug."""

    key: str
    what: str = "write"

    @property
    def label(self) -> str:
        return f"toy {self.key}"


def run_toy(folder: Path, unit: Toy, tell: Tell) -> None:
    verb, _, number = unit.what.partition(":")
    (folder / "started").mkdir(exist_ok=True)
    tries = folder / "started" / f"{unit.key}-{time.monotonic_ns()}-{os.getpid()}"
    tries.touch()
    before = len(list((folder / "started").glob(f"{unit.key}-*")))
    if verb == "kill" and (not number or before <= int(number)):
        os.kill(os.getpid(), signal.SIGKILL)
    elif verb == "raise":
        raise DataError(f"{unit.label} has no data")
    elif verb == "bug":
        raise ZeroDivisionError("a bug")
    elif verb == "log":
        logging.getLogger("evalkit.toy").warning("a line of %s", unit.label)
    elif verb == "sleep":
        end = time.monotonic() + float(number)
        begun = folder / f".tmp-{unit.key}-{os.getpid()}"
        begun.touch()
        try:
            while time.monotonic() < end:
                time.sleep(0.1)
                tell("toys", 0)
        finally:
            begun.unlink()
    LocalBlobs(folder).put_new(unit.key, str(os.getpid()).encode())
    LocalBlobs(folder / "finished").put_new(f"{unit.key}-{time.monotonic_ns()}-{os.getpid()}", b"-")
    tell("toys", 1)


def open_toys(folder: Path, refuse: str = "", die: bool = False) -> Run:
    """`refuse`: what to refuse with, unless empty; `die`: end the process instead."""
    if refuse:
        raise StoreError(refuse)
    if die:
        os.kill(os.getpid(), signal.SIGKILL)
    with (folder / "opened").open("a") as file:
        file.write(f"{os.getpid()}\n")
    return partial(run_toy, folder)


def done_toys(folder: Path, units: Sequence[Toy]) -> set[str]:
    return {unit.key for unit in units if (folder / unit.key).exists()}


def toy_work(folder: Path, units: Sequence[Toy], **options: object) -> Work:
    opener = partial(open_toys, folder, **{k: v for k, v in options.items() if k in ("refuse", "die")})
    rest = {k: v for k, v in options.items() if k not in ("refuse", "die")}
    return Work("toys", units, {"toys": len(units)}, opener, partial(done_toys, folder), **rest)
