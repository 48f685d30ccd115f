"""Programs in Slurm's place: scripts in a folder that a test puts first on its PATH."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evalkit.engines.base import Work

# Each appends its arguments to calls. sbatch keeps the script, and runs what the test wants to happen then.
PROGRAMS = {
    "sbatch": '. ./sbatch.sh; echo "Submitted batch job 7"; env | grep ^SLURM_ >> calls; cat "$1" > script',
    "srun": ":",
    "scancel": "rm -f jobs",
    "squeue": "[ ! -e deaf ] || exit 1; cat jobs 2>/dev/null || :",
}


@dataclass(frozen=True)
class Toy:
    key: str
    label: str


class FakeSlurm:
    """A folder whose programs stand for a cluster: `jobs` is what squeue says, `calls` what was called."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "bin").mkdir()
        for name, body in PROGRAMS.items():
            path = folder / "bin" / name
            path.write_text(f'#!/bin/sh\ncd {folder}\necho "{name} $*" >> calls\n{body}\n')
            path.chmod(0o755)
        self.on_sbatch("")

    def on_sbatch(self, script: str) -> None:
        (self.folder / "sbatch.sh").write_text(script)

    def calls(self, name: str) -> list[str]:
        lines = (self.folder / "calls").read_text().splitlines()
        return [line for line in lines if line.startswith(name)]

    def work(self, count: int = 3) -> Work:
        units = [Toy(str(number), f"toy {number}") for number in range(count)]
        command = (sys.executable, "-m", "nobody", str(self.folder), "abc")
        there = self.folder.glob
        return Work("toys", units, {}, _never, lambda _: {path.name[5:] for path in there("unit-*")}, command)

    @property
    def logs(self) -> Path:
        return self.folder / "slurm" / "abc"


def _never() -> Any:
    raise AssertionError("the driver of an array runs no unit")
