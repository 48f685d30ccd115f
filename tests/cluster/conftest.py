"""What the tests that need a cluster share. They are run by `pytest -m cluster`, one after another (-n0)."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from slurm_cluster import missing_programs, slurm_cluster


@pytest.fixture(scope="session")
def cluster() -> Iterator[dict[str, str]]:
    """The environment of a Slurm of two nodes on this host."""
    if missing_programs() or os.getuid():
        pytest.skip(f"needs root and {', '.join(missing_programs())}: apt-get install slurm-wlm munge")
    with tempfile.TemporaryDirectory(prefix="slurm-") as name, slurm_cluster(Path(name)) as environment:
        yield environment


@pytest.fixture
def slurm(cluster: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The same, with this process in it."""
    for name, value in cluster.items():
        monkeypatch.setenv(name, value)
    return cluster
