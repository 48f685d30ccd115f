"""A silent stage is named: by a spinner on a terminal, by a line in a log where it takes long."""

from __future__ import annotations

import logging
import os
import pty
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from evalkit.utils.progress import Progress, stage

ROOT = Path(__file__).resolve().parents[2]


def test_in_a_log_only_a_long_stage_is_told(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("evalkit")
    logger.addHandler(caplog.handler)
    caplog.set_level(logging.INFO, "evalkit")
    try:
        with stage("planning", live=False, after=5):
            pass
        with stage("scoring", live=False, after=0.01):
            time.sleep(0.3)
    finally:
        logger.removeHandler(caplog.handler)
    assert {record.getMessage() for record in caplog.records} == {"scoring ..."}


SHOWN = """
import logging, time
from evalkit.utils.progress import LogHandler, Progress, stage
logging.getLogger("evalkit").addHandler(LogHandler())
with stage("planning"):
    time.sleep(.3)
    logging.getLogger("evalkit").warning("a line")
    with Progress({"cell": 2}) as bars:
        bars.advance("cell", 1)
        time.sleep(.2)
        bars.advance("cell", 1)
    with stage("looking"):
        time.sleep(.3)
    time.sleep(.2)
"""


def test_on_a_terminal_a_spinner_names_the_stage_and_gives_way_to_bars() -> None:
    leader, follower = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    process = subprocess.Popen(
        [sys.executable, "-c", SHOWN], stderr=follower, stdout=follower, cwd=ROOT, env=environment
    )
    os.close(follower)
    data = b""
    while True:
        try:
            part = os.read(leader, 65536)
        except OSError:
            break
        data += part
        if not part:
            break
    os.close(leader)
    assert process.wait(30) == 0, data.decode()
    text = data.decode()
    places = [text.index(words) for words in ("planning ...", "a line", "cell: 2 images", "looking ...")]
    assert places == sorted(places)
    assert text.rindex("planning ...") > places[-1]  # it goes on after what stood in its place
    assert text.endswith("\x1b[?25h\r\x1b[1A\x1b[2K") or "\x1b[?25h" in text[-40:]  # the cursor is back


def test_a_log_says_now_and_then_how_far_all_is(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr("evalkit.utils.progress.log.info", lambda line, *values: said.append(line % values))
    clock = iter([0.0, 0.0, 10.0, 61.0, 70.0, 130.0, 9000.0])
    monkeypatch.setattr("evalkit.utils.progress.time", SimpleNamespace(monotonic=lambda: next(clock)))
    with Progress({"a": 100, "b": 100}, live=False) as bars:
        bars.workers(3, 4)
        for _ in range(3):
            bars.advance("a", 20)
        bars.advance("b", 1)
        bars.advance("b", 1)
    assert said == [
        "40 of 200 images, 0.7 per s, 3 of 4 workers, about 4 min left",
        "61 of 200 images, 0.5 per s, 3 of 4 workers, about 5 min left",
        "62 of 200 images, 0.0 per s, 3 of 4 workers, about 5.6 h left",
    ]


def test_processes_that_share_a_terminal_draw_nothing_and_say_who_they_are() -> None:
    code = (
        "import logging\n"
        "from evalkit.utils.progress import LogHandler, Progress, share_the_terminal\n"
        "logger = logging.getLogger('evalkit'); logger.addHandler(LogHandler()); logger.setLevel(logging.INFO)\n"
        "share_the_terminal('[stripe 2] ')\n"
        "share_the_terminal('[stripe 2] ')\n"
        "bars = Progress({'cell': 2})\n"
        "with bars:\n"
        "    bars.advance('cell', 2)\n"
    )
    leader, follower = pty.openpty()
    subprocess.run([sys.executable, "-c", code], stderr=follower, stdout=follower, cwd=ROOT, check=True)
    os.close(follower)
    text = os.read(leader, 65536).decode()
    os.close(leader)
    assert text == "[stripe 2] cell: 2 images\r\n"
