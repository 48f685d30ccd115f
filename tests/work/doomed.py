"""A run that kills itself once the first unit of a stage is done, as the system would: `doomed.py STAGE LOG WORD...`.

STAGE: what the line of the stage begins with ("generating", ..., "report"), or "-": it lives. In LOG is then a line per
unit that this process gave to a worker, or ran itself.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import evalkit.report
from evalkit import cli
from evalkit.engines.process import Process
from evalkit.engines.voice import Shown
from evalkit.work.worker import Worker


def main(stage: str, log: Path) -> None:
    def note(unit: Any) -> None:
        with log.open("a") as file:
            file.write(f"{unit.key}\n")

    def die(*arguments: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def before(kind: Any, name: str, act: Any) -> None:
        function = getattr(kind, name)

        def both(*arguments: Any) -> Any:
            act(*arguments)
            return function(*arguments)

        mock.patch.object(kind, name, both).start()

    before(Process, "give", lambda process, unit, beside: note(unit))
    before(Worker, "run", lambda worker, unit, tell: note(unit))
    before(Shown, "done", lambda shown, *key: die() if shown._stage.startswith(stage) else None)
    if stage == "report":
        mock.patch.object(evalkit.report, "write_report", die).start()
    cli.main()


if __name__ == "__main__":
    stage, log, sys.argv[1:] = sys.argv[1], Path(sys.argv[2]), sys.argv[3:]
    main(stage, log)
