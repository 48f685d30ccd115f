"""The process that hands one run to one tracker: a job comes on standard input, its answer goes to a file.

Run by `evalkit.trackers.push.push`; people use `python -m evalkit.trackers`.
"""

from __future__ import annotations

import json
import sys
import traceback
from pathlib import Path

from evalkit.config.build import build
from evalkit.trackers.base import FinishedRun
from evalkit.utils.files import write_json


def main() -> None:
    """Builds the tracker that the job describes and logs the run; what goes wrong becomes the answer."""
    job = json.load(sys.stdin)
    try:
        run = FinishedRun.load(Path(job["out"]))
        answer = {"place": build(job["option"], f"tracker.{job['name']}").log(run)}
    except BaseException as error:  # a tracker may also exit
        traceback.print_exc()
        answer = {"error": f"{type(error).__name__}: {error}"}
    write_json(Path(job["answer"]), answer)


if __name__ == "__main__":
    main()
