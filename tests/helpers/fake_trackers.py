"""Trackers that misbehave, and one that notes down what it was given; each is built in a process of its own."""

import json
import os
import signal
import subprocess
import sys
import time

from evalkit.trackers.base import FinishedRun, Tracker


class Notes(Tracker):
    """Writes what it got, and the process it ran in, below the run's folder."""

    package = "json"

    def __init__(self, timeout: float = 60.0) -> None:
        self.timeout = timeout

    def log(self, run: FinishedRun) -> str:
        os.environ["LEAKED_BY_A_TRACKER"] = "1"
        print("words that no one needs to see")
        note = {"id": run.id, "scores": run.scores, "gate": run.gate, "pid": os.getpid()}
        (run.folder / "note.json").write_text(json.dumps(note))
        return "note.json at https://me:hidden@host"


class Raises(Notes):
    def log(self, run: FinishedRun) -> str:
        raise ConnectionError("https://me:hidden@host/api is away\nand a second line")


class Exits(Notes):
    def log(self, run: FinishedRun) -> str:
        sys.exit(0)


class Dies(Notes):
    def log(self, run: FinishedRun) -> str:
        os.kill(os.getpid(), signal.SIGKILL)
        return "never"


class Hangs(Notes):
    """With a helper process, as W&B has one."""

    def log(self, run: FinishedRun) -> str:
        helper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        (run.folder / "helper.pid").write_text(str(helper.pid))
        time.sleep(600)
        return "never"


class NeedsTheUnknown(Notes):
    package = "no_such_package"


class NotATracker:
    pass
