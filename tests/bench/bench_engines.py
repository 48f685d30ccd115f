"""What engines cost over a bare loop, and how well they share: `python tests/bench/bench_engines.py [local|stripes]`.

local: units that sleep (`--seconds`), and units that compute for about as long, in a bare loop, in one spawned worker
and in two; the start of the workers counts. stripes: the real `Stripe`, a thread per rank, at a hundredth of the time:
some ranks are slow, some are lost half-way; against what a perfect division of all units would take.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import hashlib
import logging
import random
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evalkit.engines.base import Run, Tell, Work
from evalkit.engines.local import Local
from evalkit.engines.stripe import Stripe

SCALE = 100  # stripes: how many times faster than life


@dataclass(frozen=True)
class Waits:
    """Sleeps, or hashes so many blocks, and writes a file."""

    key: str
    seconds: float
    blocks: int

    @property
    def label(self) -> str:
        return self.key

    def work(self) -> None:
        time.sleep(self.seconds)
        data = bytes(1 << 20)
        for _ in range(self.blocks):
            hashlib.sha256(data).digest()


def open_waits(folder: Path) -> Run:
    return functools.partial(run_waits, folder)


def run_waits(folder: Path, unit: Waits, tell: Tell) -> None:
    unit.work()
    (folder / unit.key).touch()


def done_waits(folder: Path, units: Sequence[Waits]) -> set[str]:
    return {path.name for path in folder.iterdir()}


def timed(units: Sequence[Waits], workers: int) -> float:
    """Seconds in a bare loop (no workers) or in spawned ones."""
    began = time.perf_counter()
    if not workers:
        for unit in units:
            unit.work()
        return time.perf_counter() - began
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        engine = Local(workers=workers, threads=1)
        opened, done = functools.partial(open_waits, folder), functools.partial(done_waits, folder)
        engine.map(Work("waiting", units, {}, opened, done))
        engine.close()
    return time.perf_counter() - began


def local(seconds: float, count: int) -> None:
    began = time.perf_counter()
    Waits("", 0, 200).work()
    blocks = round(200 * seconds / (time.perf_counter() - began))
    for what, wait, work in (("sleeping", seconds, 0), ("computing", 0.0, blocks)):
        units = [Waits(f"{what}-{number}", wait, work) for number in range(count)]
        bare, one, two = (timed(units, workers) for workers in (0, 1, 2))
        print(
            f"{what}: {count} units of {bare / count:.2f} s; one worker +{100 * (one / bare - 1):.1f} %, "
            f"two {bare / two:.2f}x"
        )


class Rank(threading.Thread):
    """A stripe in a thread: `speed` below 1 is slow; it is lost after `last` units."""

    def __init__(self, number: int, world: int, done: dict[str, int], units: Sequence[Any], speed: float, last: int):
        super().__init__(daemon=True)
        self.done, self.speed, self.last, self.runs = done, speed, last, 0
        self.engine = Stripe(number, world, patience=120 / SCALE)
        self.work = Work("striping", units, {}, lambda: self.run_unit, self.told)

    def run(self) -> None:
        with contextlib.suppress(SystemExit):
            self.engine.map(self.work)

    def told(self, units: Sequence[Any]) -> set[str]:
        return set(self.done)

    def run_unit(self, unit: Waits, tell: Tell) -> None:
        if unit.key in self.done:
            return
        self.runs += 1
        if self.runs > self.last:
            raise SystemExit  # with the unit in hand
        time.sleep(unit.seconds / self.speed / SCALE)
        self.done[unit.key] = 1


def stripes(seconds: float, count: int, world: int, slow: float, lost: float) -> None:
    draw = random.Random(0)
    units = [Waits(f"{number:06d}", seconds * draw.uniform(0.8, 1.2), 0) for number in range(count * world)]
    slow_ones = set(draw.sample(range(world), round(slow * world)))
    lost_ones = set(draw.sample(sorted(set(range(world)) - slow_ones), round(lost * world)))
    done: dict[str, int] = {}
    ranks = [
        Rank(
            *(number, world, done, units, 0.5 if number in slow_ones else 1.0),
            count // 2 if number in lost_ones else 1 << 30,
        )
        for number in range(world)
    ]
    began = time.perf_counter()
    for rank in ranks:
        rank.start()
    while len(done) < len(units):
        time.sleep(0.001)
    took = (time.perf_counter() - began) * SCALE
    speeds = sum(0.5 if number in slow_ones else 1.0 for number in range(world) if number not in lost_ones)
    speeds += len(lost_ones) / 2  # about: they worked for half of the time
    ideal = sum(unit.seconds for unit in units) / speeds
    twice = sum(rank.runs for rank in ranks) - len(lost_ones) - len(units)
    print(
        f"{world} stripes x {count} units of {seconds:.0f} s, {len(slow_ones)} slow, {len(lost_ones)} lost: "
        f"{took:.0f} s = {took / ideal:.2f} of ideal; {100 * twice / len(units):.1f} % done twice; "
        f"without taking {count * seconds / ideal * (2 if slow_ones else 1):.2f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["local", "stripes"], nargs="?", default="local")
    parser.add_argument("--seconds", type=float, default=10.0, help="a unit")
    parser.add_argument("--units", type=int, default=4, help="in all; stripes: each")
    options = parser.parse_args()
    logging.disable(logging.INFO)
    if options.what == "local":
        local(options.seconds, options.units)
        return
    for world, slow, lost in ((8, 0, 0), (8, 0.125, 0.125), (64, 0.02, 0.02), (64, 0.1, 0.05)):
        stripes(options.seconds, options.units, world, slow, lost)


if __name__ == "__main__":
    import bench_engines  # under this name its workers find what they are to run

    bench_engines.main()
