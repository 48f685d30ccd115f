"""Whole runs whose store is an S3 of this machine: equal to a folder's, whoever works and however the server fails."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from equal_everywhere import METRICS, Outcome, outcome
from moto_s3 import S3, s3_of_this_process
from runs import BOUND, ROOT, command

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def server() -> Iterator[S3]:
    with s3_of_this_process() as server:
        yield server


@pytest.fixture
def s3(server: S3) -> S3:
    server.mend()
    return server


def run(tmp_path: Path, store: str, out: str, *more: str) -> subprocess.CompletedProcess[str]:
    words = [word for word in command(tmp_path / "store", *more) if not word.startswith("store=")]
    words = [sys.executable, *words, f"store={store}", f"out={tmp_path / out}"]
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(words, capture_output=True, text=True, timeout=BOUND, env=variables, cwd=tmp_path)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """What a run in one process makes in a folder."""
    folder = tmp_path_factory.mktemp("folder")
    done = run(folder, str(folder / "store"), "out")
    assert done.returncode == 0, done.stderr
    made = outcome(str(folder / "store"), folder / "out")
    assert (made.images, len(made.scores)) == (520, 3)
    assert {name for name, _ in made.scores} < set(METRICS)
    return made


def test_a_bucket_holds_what_a_folder_holds_and_is_asked_for_little(s3: S3, tmp_path: Path, expected: Outcome) -> None:
    done = run(tmp_path, "s3://bucket/one", "out")
    assert done.returncode == 0, done.stderr
    assert outcome("s3://bucket/one", tmp_path / "out") == expected
    assert not (tmp_path / "s3:").exists()
    s3.counts.clear()
    done = run(tmp_path, "s3://bucket/one", "out")
    print(f"requests of a finished run with one cell and three metrics: {dict(s3.counts)}")
    assert done.returncode == 0, done.stderr
    assert s3.counts["HEAD"] == s3.counts["DELETE"] == 0
    assert s3.counts["LIST"] == 1
    assert s3.counts["GET"] <= 8
    assert s3.counts["PUT"] <= 2  # of the copy of the results, which say when they were made


def test_worker_processes_share_it(s3: S3, tmp_path: Path, expected: Outcome) -> None:
    workers = ("engine=local", "engine.local.workers=2", "engine.local.threads=1")
    done = run(tmp_path, "s3://bucket/pool", "out", *workers)
    assert done.returncode == 0, done.stderr
    assert outcome("s3://bucket/pool", tmp_path / "out") == expected


def test_a_server_that_is_busy_and_loses_answers_changes_nothing(s3: S3, tmp_path: Path, expected: Outcome) -> None:
    s3.busy = s3.lost = 0.1
    done = run(tmp_path, "s3://bucket/busy", "out")
    s3.busy = s3.lost = 0.0
    assert done.returncode == 0, done.stderr
    assert outcome("s3://bucket/busy", tmp_path / "out") == expected


def test_a_server_that_replaces_is_refused_before_the_first_sample(s3: S3, tmp_path: Path) -> None:
    s3.careless = True
    done = run(tmp_path, "s3://bucket/careless", "out")
    assert done.returncode == 1
    assert "replaces a key that it is told not to (If-None-Match)" in done.stderr.splitlines()[-1]
    assert "images" not in done.stderr
    made = outcome("s3://bucket/careless", tmp_path / "out") if (tmp_path / "out" / "results.json").exists() else None
    assert made is None
