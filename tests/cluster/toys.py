"""Toy runs for engines that start processes: units are names, outcomes are files (toy_worker.py makes them)."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evalkit.engines.base import Run, Work

WORKER = Path(__file__).with_name("toy_worker.py")


@dataclass(frozen=True)
class Toy:
    key: str

    @property
    def label(self) -> str:
        return f"toy {self.key}"


def toy_work(store: Path, count: int, stage: str = "toys", **toy: Any) -> Work:
    """A stage of `count` units; `toy` goes to toy_worker.py: seconds, refuse, poison."""
    store.mkdir(exist_ok=True)
    names = [str(number) for number in range(count)]
    (store / "plan.units").write_text(" ".join(names))
    (store / "toy.json").write_text(json.dumps(toy))
    command = (sys.executable, str(WORKER), str(store), "plan")
    return Work(stage, [Toy(name) for name in names], {}, _no_worker, done_in(store), command)


def done_in(store: Path) -> Callable[[Sequence[Any]], set[str]]:
    def done(units: Sequence[Any]) -> set[str]:
        there = {path.name for path in store.glob("unit-*")}
        return {unit.key for unit in units if f"unit-{unit.key}" in there}

    return done


def begun(store: Path) -> list[str]:
    """The units that workers began, in order, as often as they did."""
    return (store / "begun").read_text().split()


def _no_worker() -> Run:
    raise AssertionError("the driver of an array runs no unit")


if __name__ == "__main__":  # a driver that tests may kill: python toys.py STORE COUNT TOY ENGINE
    from evalkit.engines.slurm import Slurm

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    engine = Slurm(**json.loads(sys.argv[4]))
    try:
        engine.map(toy_work(Path(sys.argv[1]), int(sys.argv[2]), **json.loads(sys.argv[3])))
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        engine.close()
