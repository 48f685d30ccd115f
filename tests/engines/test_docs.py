"""docs/scale.md and docs/deploy: every setting that they name exists, with the default that they say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "scale.md").read_text("utf-8")
FILES = sorted((ROOT / "docs" / "deploy").iterdir())


def options(engine: str) -> dict[str, object]:
    text = (ROOT / "configs" / "engine" / f"{engine}.yaml").read_text("utf-8")
    settings: dict[str, object] = yaml.safe_load(text)[engine]
    return settings


@pytest.mark.parametrize(
    "text", [PAGE, *(path.read_text("utf-8") for path in FILES)], ids=["page", *(path.name for path in FILES)]
)
def test_settings_exist(text: str) -> None:
    for engine, setting in re.findall(r"engine\.(\w+)\.(\w+)", text):
        assert setting in options(engine), f"engine.{engine}.{setting}"
    for engine in re.findall(r"\bengine=(\w+)", text):
        options(engine)


def test_defaults_are_as_said() -> None:
    said = re.findall(r"`engine\.(\w+)\.(\w+)`\s\((\d+) s", PAGE)
    assert len(said) >= 3
    for engine, setting, value in said:
        assert options(engine)[setting] == int(value), f"engine.{engine}.{setting}"


def test_all_files_are_linked_and_those_linked_are_there() -> None:
    assert set(re.findall(r"\(deploy/([^)]+)\)", PAGE)) == {path.name for path in FILES}
    for path in FILES:
        if path.suffix == ".yaml":
            assert yaml.safe_load(path.read_text("utf-8"))
