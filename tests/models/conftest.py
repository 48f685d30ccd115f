"""Tiny pipelines for the tests of models: saved once, loaded once a session."""

from __future__ import annotations

from pathlib import Path

import pytest
from model_calls import Loaded, Saved

from evalkit.models.diffusers.model import DiffusersModel


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    """Folder of a tiny pipeline by kind (tiny_pipelines.MAKERS). Do not change it."""
    folder = tmp_path_factory.mktemp("pipelines")

    def get(kind: str) -> Path:
        import tiny_pipelines

        return folder / kind if (folder / kind).is_dir() else tiny_pipelines.save(kind, folder / kind)

    return get


@pytest.fixture(scope="session")
def loaded(saved: Saved) -> Loaded:
    """A loaded model by kind. Do not change it."""
    models: dict[str, DiffusersModel] = {}

    def get(kind: str) -> DiffusersModel:
        if kind not in models:
            models[kind] = DiffusersModel(str(saved(kind)))
            models[kind].load("cpu")
        return models[kind]

    return get
