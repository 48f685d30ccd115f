"""A run's name and folder: no finished run of others is overwritten, nothing lands among the store's own."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from evalkit.config.schema import RunConfig
from evalkit.errors import ConfigError
from evalkit.plan.results_folder import RESERVED, results_folder, with_name
from evalkit.samples.store import Store

CONFIG = RunConfig(
    name="a", model={"m": {"_target_": "x.Y", "path": "p"}}, metric={"fid": {}}, extractor={"e": {"w": 1}}
)


def finish(folder: Path, config: RunConfig) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps({"run": {"config": asdict(config)}}))


def test_another_configuration_gets_a_number_and_the_same_one_its_folder(tmp_path: Path) -> None:
    config = replace(CONFIG, store=str(tmp_path))
    assert results_folder(config, ["e"]) == tmp_path / "a"
    finish(tmp_path / "a", config)
    assert results_folder(config, ["e"]) == tmp_path / "a"
    for same in ({"batch_size": 1}, {"device": "cpu"}, {"lint": False}, {"gate": {"g": {}}}, {"report": False}):
        assert results_folder(replace(config, **same), ["e"]) == tmp_path / "a", same
    others: list[dict[str, Any]] = [
        {"model": {"m": {"_target_": "x.Y", "path": "q"}}},
        {"metric": {"kid": {}}},
        {"num_samples": 5},
        {"seed": 1},
        {"reference": {"digits": {}}},
        {"extractor": {"e": {"w": 2}}},
    ]
    for other in others:
        assert results_folder(replace(config, **other), ["e"]) == tmp_path / "a-2", other
    assert results_folder(replace(config, extractor={"e": {"w": 1}, "unused": {}}), ["e"]) == tmp_path / "a"
    finish(tmp_path / "a-2", replace(config, seed=1))
    assert results_folder(replace(config, seed=1), ["e"]) == tmp_path / "a-2"
    assert results_folder(replace(config, seed=2), ["e"]) == tmp_path / "a-3"


def test_out_is_not_overwritten_either(tmp_path: Path) -> None:
    config = replace(CONFIG, store=str(tmp_path), out=str(tmp_path / "o"))
    finish(tmp_path / "o", config)
    assert results_folder(config, ["e"]) == tmp_path / "o"
    with pytest.raises(ConfigError, match="holds another configuration's finished run"):
        results_folder(replace(config, seed=1), ["e"])
    (tmp_path / "f").write_text("")
    with pytest.raises(ConfigError, match="is a file"):
        results_folder(replace(config, out=str(tmp_path / "f")), ["e"])


@pytest.mark.parametrize("content", ["", "{", "[]", '{"run": {}}', '{"run": {"config": 3}}', "[" * 100_000])
def test_what_is_no_finished_run_is_written_over(tmp_path: Path, content: str) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "results.json").write_text(content)
    assert results_folder(replace(CONFIG, store=str(tmp_path)), ["e"]) == tmp_path / "a"


@pytest.mark.parametrize(
    ("models", "name"),
    [
        ({"sd15": {}, "sdxl": {}}, "sd15-sdxl"),
        ({"folder": {"path": "/data/my pictures.zip"}}, "my_pictures"),
        ({"diffusers": {"path": "owner/name"}}, "name"),
        ({"diffusers": {"path": {"sweep": ["a", "b"]}}}, "diffusers"),
        ({"sd15": {"path": "x/y"}}, "sd15"),
        ({"a": {}, "b": {}, "c": {}, "d": {}, "e": {}}, "a-b-c-and-2-more"),
        ({"samples": {}}, "samples-run"),
    ],
)
def test_a_run_is_named_after_its_models_and_folders(models: dict[str, Any], name: str) -> None:
    assert with_name(replace(CONFIG, name="auto", model=models)).name == name


@pytest.mark.parametrize(
    "name", ["", " ", ".", "..", "../x", "/abs", "a/b", "a\\b", "a\nb", "Samples", *sorted(RESERVED)]
)
def test_a_name_is_a_folder_of_its_own(name: str) -> None:
    """F11 e: these wrote outside of the store, or among its own folders."""
    with pytest.raises(ConfigError, match="name="):
        with_name(replace(CONFIG, name=name))


def test_the_stores_folders_are_reserved(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert {store.samples.name, *(blobs.root.name for blobs in (store.features, store.scores, store.lint))} <= RESERVED
