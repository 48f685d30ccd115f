"""What all networks share: precisions under protocols of their own, batches by device, images prepared ahead."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from fakes import MemorySource
from options import CONFIGS, extractor_of, option
from pictures import pictures

from evalkit.config.build import build
from evalkit.config.compose import compose, resolve
from evalkit.errors import ConfigError
from evalkit.extractors.base import NetworkExtractor, Prepared
from evalkit.features.feature_pass import FeaturePass
from evalkit.features.store import extractor_id

SHIPPED = {"digits": ["features", "logits"], "digits_clip": ["image"]}  # with weights that are here
OTHERS = {"vqascore", "image_reward_env", "hpsv3", "scorer"}  # run as their packages do, in environments of their own
OTHERS |= {"judge", "judge_digits", "judge_local", "judge_viescore"}  # these answer questions
OTHERS |= {"detector", "mmdet_detector", "segmentation", "depth"}  # of transformers, torchvision and mmdet, in float32
OPTIONS = sorted(path.stem for path in (CONFIGS / "extractor").glob("*.yaml") if path.stem not in OTHERS)


@pytest.mark.parametrize("name", SHIPPED)
def test_each_precision_is_a_protocol_of_its_own(name: str) -> None:
    """bfloat16 changes features, a little; labels and identities tell all of them apart."""
    images = pictures(12)
    exact, half = (extractor_of(name, precision=precision) for precision in ("float32", "bf16"))
    for extractor in (exact, half):
        extractor.load("cpu")
    a, b = (extractor(images, [], SHIPPED[name]) for extractor in (exact, half))
    for layer in SHIPPED[name]:
        assert b[layer].dtype == torch.float32
        error = float((a[layer] - b[layer]).norm() / a[layer].norm())
        assert 1e-5 < error < 0.05, f"{layer}: {error:.1e}"
    every = [
        build(option("extractor", name, precision=precision))
        for precision in ("float32", "tf32", "bfloat16", "float16")
    ]
    assert [each.label() for each in every] == [name, f"{name}:tf32", f"{name}:bf16", f"{name}:fp16"]
    assert len({str(each.identity()) for each in every}) == 4
    assert len({extractor_id(each) for each in every}) == 4
    assert extractor_id(half) == extractor_id(every[2])
    with pytest.raises(ConfigError, match=r"precision=tf32: cpu has no units for it: give float32"):
        every[1].load("cpu")
    with pytest.raises(ConfigError, match=rf"extractor\.{name}\.precision=float8: Did you mean"):
        build(option("extractor", name, precision="float8"))


@pytest.mark.parametrize("name", OPTIONS)
def test_every_network_has_the_options(name: str) -> None:
    options = {"model": "resnet18"} if name == "timm" else {}
    extractor = build(option("extractor", name, precision="fp16", **options))
    assert isinstance(extractor, NetworkExtractor)
    assert extractor.precision == "float16"
    assert extractor.batch_on("cuda") >= extractor.batch_on("cpu") == extractor.batch_on("mps")


def test_a_batch_is_one_number_or_one_per_device() -> None:
    def asked(*overrides: str) -> object:
        config = resolve(compose(["metric=[fid_digits]", *overrides]))
        return config.extractor["digits"]["batch_size"]

    assert asked() == {"cpu": 64, "cuda": 256}
    assert asked("extractor.digits.batch_size=32") == 32
    assert asked("extractor.digits.batch_size.cuda=128") == {"cpu": 64, "cuda": 128}


def test_prepared_ahead_is_prepared_the_same(tmp_path: Path) -> None:
    """In the readers' threads (large images) or the reading thread (small ones): the bits of a call on plain images."""
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (h, w, 3), dtype=np.uint8) for h, w in ((160, 150), (32, 32), (40, 20)) * 4]
    extractor = extractor_of("digits_clip")
    extractor.load("cpu")
    assert extractor.prepares
    assert isinstance(extractor.prepare(images[0]), Prepared)
    run = FeaturePass(tmp_path, {"digits_clip": extractor}, "cpu")
    run.compute(MemorySource(images), ["digits_clip/image"])
    (batch,) = run.batches(MemorySource(images), ["digits_clip/image"])
    assert torch.equal(batch.features["digits_clip/image"], extractor(images, [], ["image"])["image"])
