"""Tests that need a CUDA device; EVALKIT_TEST_DEVICE=cpu runs their lines without one, for a look at the tests."""

from __future__ import annotations

import os

import pytest
import torch


@pytest.fixture
def device() -> str:
    """The device under test; skips where there is none."""
    chosen = os.environ.get("EVALKIT_TEST_DEVICE", "cuda")
    if chosen.startswith("cuda") and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return chosen
