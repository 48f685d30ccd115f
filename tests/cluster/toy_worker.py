"""A worker as `Work.command` starts it, without models: units are names in STORE/PLAN.units, an outcome is a file.

    python toy_worker.py STORE PLAN --stripe I/N

Its stripe first, then what is missing where nobody goes on. STORE/toy.json says how long a unit takes and what goes
wrong; every unit that is begun leaves a line in STORE/begun.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any


class Ended(BaseException):
    pass


def end(number: int, frame: FrameType | None) -> None:
    raise Ended


def make(store: Path, name: str, seconds: float) -> None:
    with (store / "begun").open("a") as begun:
        begun.write(f"{name}\n")
    temporary = store / f".tmp-{name}-{os.getpid()}"
    temporary.write_text("half")
    try:
        time.sleep(seconds)
        temporary.write_text(name)
        os.link(temporary, store / f"unit-{name}")
        print(f"made {name}", flush=True)
    except FileExistsError:
        pass
    finally:
        temporary.unlink()


def begin(store: Path, name: str, toy: dict[str, Any]) -> None:
    if name in toy.get("poison", ()):
        os.kill(os.getpid(), signal.SIGKILL)
    if not (store / f"unit-{name}").exists():
        make(store, name, toy.get("seconds", 0.1))


def main() -> None:
    signal.signal(signal.SIGTERM, end)
    store, plan, stripe = Path(sys.argv[1]), sys.argv[2], sys.argv[4]
    rank, world = map(int, stripe.split("/"))
    toy = json.loads((store / "toy.json").read_text())
    if toy.get("refuse"):
        sys.exit(f"evalkit: {toy['refuse']}")
    names = (store / f"{plan}.units").read_text().split()
    pause = toy.get("seconds", 0.1)
    for name in names[rank::world]:
        begin(store, name, toy)
    while missing := [name for name in names if not (store / f"unit-{name}").exists()]:
        time.sleep(pause + 0.5)
        if missing == [name for name in names if not (store / f"unit-{name}").exists()]:  # nobody goes on
            begin(store, missing[-1], toy)  # not the one that ended another worker


if __name__ == "__main__":
    try:
        main()
    except Ended:
        print("put away", flush=True)
        sys.exit(143)
