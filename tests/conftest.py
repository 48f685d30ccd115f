"""Fixtures that several test modules share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Two workers with two threads each spin against one another on 2 cores. Set before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data for tests (../shared/data beside the repo, or EVALKIT_SHARED_DATA)."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("EVALKIT_SHARED_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"no shared data in {folder} (EVALKIT_SHARED_DATA)")
    return folder


@pytest.fixture(scope="session")
def inception_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A seeded random weights file of the FID Inception network, as torch-fidelity reads it."""
    from seeded_inception import write_weights

    path = tmp_path_factory.mktemp("inception") / "seeded.pth"
    write_weights(path)
    return path
