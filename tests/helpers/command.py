"""Runs the command line in a process of its own, as a user does."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
# The embedded models, few and small: what a test of the whole way needs.
SMALL = (
    "model=[digits_dcgan,digits_ldm]",
    "sampler=[dpmpp_2m]",
    "sampler.dpmpp_2m.num_inference_steps=2",
    "model.digits_ldm.guidance_scale=4",
)


def environment(**more: str) -> dict[str, str]:
    quiet = {"HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return {**os.environ, **quiet, **more}


def evalkit(*overrides: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Runs `run_eval.py` with overrides in a folder."""
    command = [sys.executable, str(ROOT / "run_eval.py"), *overrides]
    return subprocess.run(
        command, cwd=cwd, env=environment(**env), capture_output=True, text=True, check=False, timeout=280
    )


def results(folder: Path) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return data


def scores(folder: Path) -> dict[tuple[str, str], Any]:
    """The values that do not depend on the machine's speed, by cell and metric."""
    timed = {"latency_p50", "latency_p95", "images_per_second", "peak_memory_mb"}
    return {(r["cell"], r["metric"]): r["value"] for r in results(folder)["rows"] if r["metric"] not in timed}
