"""Whole runs on the device: equal in every bit from process to process, close to the CPU's, resumable."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from command import ROOT, SMALL, environment
from fakes import MemorySource, random_images
from options import metric_of, option

from evalkit.config.build import build
from evalkit.samples.store import Store
from evalkit.scoring import Against, score_sources

pytestmark = pytest.mark.gpu

COSTS = {"latency_p50", "latency_p95", "images_per_second", "peak_memory_mb"}
STORED = ("*.png", "*.safetensors")  # what must be equal in every bit


def start(device: str, store: Path, *overrides: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(ROOT / "run_eval.py"), *SMALL, f"device={device}", f"store={store}"]
    more = ("num_samples=64", "report=false", "lint=false", *overrides)
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [*command, *more], env=environment(PYTHONPATH=path), text=True, stderr=subprocess.PIPE, stdout=subprocess.PIPE
    )


def scores(store: Path) -> dict[tuple[str, str], dict[str, Any]]:
    (file,) = store.glob("*/results.json")
    rows = json.loads(file.read_text())["rows"]
    return {
        (row["cell"], row["metric"]): row for row in rows if row["value"] is not None and row["metric"] not in COSTS
    }


def stored(store: Path) -> dict[str, bytes]:
    return {str(file.relative_to(store)): file.read_bytes() for kind in STORED for file in store.rglob(kind)}


def test_two_processes_agree_in_every_bit_and_with_the_cpu(device: str, tmp_path: Path) -> None:
    """Two processes on the device side by side, one on the CPU: all at once."""
    stores = {name: tmp_path / name for name in ("first", "second", "cpu")}
    runs = {name: start("cpu" if name == "cpu" else device, store) for name, store in stores.items()}
    try:
        for name, run in runs.items():
            error = run.communicate(timeout=240)[1]
            assert run.returncode == 0, f"{name}: {error[-2000:]}"
    finally:
        for run in runs.values():
            run.kill()
    first, second, cpu = (scores(store) for store in stores.values())
    assert len(first) > 10
    assert {key: row["value"] for key, row in first.items()} == {key: row["value"] for key, row in second.items()}
    samples = [{k: v for k, v in stored(stores[name]).items() if k.endswith(".png")} for name in ("first", "second")]
    assert samples[0] == samples[1]
    assert len(samples[0]) == 128
    for key, row in cpu.items():
        allowed = 0.1 * row["stderr"] if row.get("stderr") else 1e-3 * abs(row["value"]) + 1e-6
        assert first[key]["value"] == pytest.approx(row["value"], abs=allowed), key


def test_features_of_a_killed_pass_are_those_of_a_whole_one(device: str, tmp_path: Path) -> None:
    def features(folder: Path, fail_at: int | None = None) -> None:
        extractor: Any = build(option("extractor", "digits"))
        extractor.check()
        score_sources(
            {"cell": MemorySource(random_images(600, 1, 32), fail_at=fail_at)},
            metrics={"fid_digits": ({}, metric_of("fid_digits"))},
            extractors={"digits": extractor},
            against=Against(MemorySource(random_images(300, 2, 32))),
            store=Store(folder),
            device=device,
            progress=lambda name, done, total: None,
        )

    features(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        features(tmp_path / "killed", fail_at=550)
    features(tmp_path / "killed")
    whole, again = stored(tmp_path / "whole"), stored(tmp_path / "killed")
    assert len(whole) >= 4
    assert again == whole
