"""Functions called in processes: what comes back, what becomes of a lost one, and nothing left of any."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest

from evalkit.data import codec
from evalkit.data.encoders import Encoders
from evalkit.errors import DataError
from evalkit.utils.processes import Processes


def test_arrays_come_back_as_they_are_and_processes_end() -> None:
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (40 + i, 700, 3), dtype=np.uint8) for i in range(8)]
    images += [images[0][::2, ::-1], images[0][:0]]  # not contiguous; empty
    with Processes() as call, ThreadPoolExecutor(2) as pool:
        for image, copy in zip(images, pool.map(lambda image: call(np.flip, image), images), strict=True):
            np.testing.assert_array_equal(np.flip(image), copy)
        copy[...] = 0  # it can be written to
        processes = list(call._all)
        assert 1 <= len(processes) <= 2
        assert call(os.getpid) in {process.pid for process in processes}
    assert all(process.returncode is not None for process in processes)


def test_processes_that_are_started_ahead_have_imported() -> None:
    with Processes("json.tool", "there.is.no.such") as call:
        call.start(2)
        ahead = {process.pid for process in call._all}
        assert len(ahead) == 2
        assert call(os.getpid) in ahead
        assert call(eval, "'json.tool' in __import__('sys').modules")
        call.start(2)
        assert {process.pid for process in call._all} == ahead


def test_errors_are_raised_here() -> None:
    with Processes() as call:
        with pytest.raises(DataError, match=r"^x\.png: not an image file of a kind that is read"):
            call(codec.decode, b"no image", "x.png")
        with pytest.raises(ValueError, match="must be uint8"):
            call(codec.encode_png, np.zeros((2, 2, 3), np.float32))
        assert len(call._all) == 1, "an error loses no process"


def test_a_lost_process_loses_nothing() -> None:
    image = np.zeros((8, 8, 3), np.uint8)
    with Encoders() as encoders:
        assert encoders.encode(image) == codec.encode_png(image)
        encoders._all[0].kill()
        encoders._all[0].wait()
        assert encoders.encode(image) == codec.encode_png(image)
        assert encoders.encode(image) == codec.encode_png(image)
        assert len(encoders._all) == 1, "no other is started"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_processes_end_with_the_one_that_started_them(number: signal.Signals) -> None:
    code = (
        "import os, signal, sys, time; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from evalkit.utils.processes import Processes\n"
        "call = Processes(); print(call(os.getpid), flush=True); call(time.sleep, 0.5)\n"
        "time.sleep(60)"
    )
    root = str(Path(__file__).resolve().parents[2])
    shared = {path.name for path in Path("/dev/shm").glob("*")} if Path("/dev/shm").exists() else set()
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": root},
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        helper = psutil.Process(int(process.stdout.readline()))
        os.killpg(process.pid, number) if number == signal.SIGINT else process.kill()
        helper.wait(20)
    if shared:
        assert not [p for p in Path("/dev/shm").glob("*") if p.name not in shared and str(process.pid) in p.name]


def test_ctrl_c_in_the_middle_of_a_call_gives_that_process_up() -> None:
    def interrupt() -> None:
        time.sleep(0.7)
        os.kill(os.getpid(), signal.SIGINT)

    with Processes() as call, ThreadPoolExecutor(1) as pool:
        call(os.getpid)
        pool.submit(interrupt)
        with pytest.raises(KeyboardInterrupt):
            call(time.sleep, 30)
        assert not call._free, "its answer would be taken for the next one's"
        assert call(os.getpid) == call._all[-1].pid
