"""Runs the command line as a user does: in this process, which has paid for the imports, or in one of its own."""

import io
import json
import logging
import os
import subprocess
import sys
import warnings
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any
from unittest import mock

import evalkit.cli

ROOT = Path(__file__).resolve().parents[2]
# The embedded models, few and small: what a test of the whole way needs.
SMALL = (
    "experiment=digits",
    "model=[digits_dcgan,digits_ldm]",
    "sampler=[dpmpp_2m]",
    "sampler.dpmpp_2m.num_inference_steps=2",
    "model.digits_ldm.guidance_scale=4",
)


QUIET = {"HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, **QUIET, **more}


def evalkit_process(*overrides: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Runs `run_eval.py` with overrides in a folder, in a process: for what depends on there being one."""
    command = [sys.executable, str(ROOT / "run_eval.py"), *overrides]
    return subprocess.run(
        command, cwd=cwd, env=environment(**env), capture_output=True, text=True, check=False, timeout=280
    )


def run_evalkit(*overrides: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Calls the command's `main` with overrides in a folder, and gives back what a process would.

    An exception that `main` lets through is raised here, where a process would print its traceback. The folder, the
    environment, warnings and the logger "evalkit" are as before afterwards; Hydra clears its own state.
    """
    command = ["run_eval.py", *overrides]
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
    logger, before = logging.getLogger("evalkit"), Path.cwd()
    handlers, level, propagate = logger.handlers, logger.level, logger.propagate
    logger.handlers = []  # those of an earlier call write to its stderr
    code = 0
    os.chdir(cwd)
    try:
        with (
            mock.patch.dict(os.environ, QUIET | env),
            mock.patch.object(sys, "argv", command),
            warnings.catch_warnings(action="ignore"),
            redirect_stdout(out),
            redirect_stderr(err),
        ):
            evalkit.cli.main(program=False)
    except SystemExit as stop:
        code = int(stop.code or 0)
    finally:
        os.chdir(before)
        logger.handlers, logger.propagate = handlers, propagate
        logger.setLevel(level)
    stdout, stderr = (stream.buffer.getvalue().decode() for stream in (out, err))
    return subprocess.CompletedProcess(command, code, stdout, stderr)


def results(folder: Path) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return data


def scores(folder: Path) -> dict[tuple[str, str], Any]:
    """The values that do not depend on the machine's speed, by cell and metric."""
    timed = {"latency_p50", "latency_p95", "images_per_second", "peak_memory_mb"}
    return {(r["cell"], r["metric"]): r["value"] for r in results(folder)["rows"] if r["metric"] not in timed}
