"""Skips a module of tests whose package is not installed, without importing it: each worker collects all modules."""

from __future__ import annotations

from importlib.util import find_spec

import pytest


def need(package: str, reason: str) -> None:
    if find_spec(package) is None:
        pytest.skip(reason, allow_module_level=True)
