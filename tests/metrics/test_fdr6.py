"""FDr6: its encoders against FD-loss's own preparation and pooling, on tiny networks of the same classes; its mean."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import peers
import pytest
import torch
from fakes import random_images
from golden import RANDOM, Golden, peer
from options import metric_of, option

from evalkit.config.build import build
from evalkit.errors import ConfigError
from evalkit.metric import Batch
from evalkit.metrics.fdr6 import IMAGENET256, FrechetRatios

timm = pytest.importorskip("timm", reason="timm is not installed")

TINY_VIT = {"embed_dim": 32, "depth": 2, "num_heads": 2}
# By extractor: the metric of it, what makes its network tiny, and FD-loss's input size (eval_all_fds.py).
ENCODERS: dict[str, tuple[str, dict[str, Any], int]] = {
    "convnextv2_base": ("fd_convnextv2", {"dims": [8, 8, 16, 32], "depths": [1, 1, 1, 1]}, 224),
    "dinov2_vitl14_256": ("fd_dinov2_256", TINY_VIT, 256),
    "mae_vitl16": ("fd_mae", TINY_VIT, 224),
    "siglip2_so400m": ("fd_siglip2", TINY_VIT, 224),
    "clip_vitl14_256": ("fd_clip_256", TINY_VIT, 256),
}


def extractor_of(name: str, folder: Path) -> tuple[Any, Any]:
    """The YAML's extractor with a tiny network of random weights, and the network as FD-loss makes it."""
    from safetensors.torch import save_file

    values = option("extractor", name)
    args = ENCODERS[name][1]
    torch.manual_seed(0)
    dynamic = {} if "convnext" in name else {"dynamic_img_size": True, "dynamic_img_pad": True}
    theirs = timm.create_model(values["model"], num_classes=0, **dynamic, **args).eval()
    for value in theirs.parameters():
        torch.nn.init.normal_(value, std=0.3)
    file = folder / f"{name}.safetensors"
    save_file(theirs.state_dict(), file)
    options = {"weights": str(file), "width": None, "model_args": {**values["model_args"], **args}}
    extractor = build(values | options)
    extractor.check()
    extractor.load("cpu")
    return extractor, theirs


def authors(model: Any, name: str, images: list[np.ndarray]) -> torch.Tensor:
    """FD-loss, frechet_distance/repr_models.py, `TimmReprModel.forward`, written out: its first output, f32 [B,D]."""
    config = timm.data.resolve_data_config(model.pretrained_cfg)
    mean, std = (torch.tensor(config[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    size = ENCODERS[name][2]
    rows = []
    for image in images:
        x = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
        if tuple(x.shape[-2:]) != (size, size):
            x = torch.nn.functional.interpolate(
                x, size=(size, size), mode="bicubic", align_corners=False, antialias=True
            )
        tokens = model.forward_features((x - mean) / std)
        if tokens.ndim == 4:
            rows.append(tokens.mean((2, 3)))
        elif model.num_prefix_tokens > 0:
            rows.append(tokens[:, 0])
        else:
            rows.append(model.pool(tokens))
    return torch.cat(rows)


@pytest.mark.parametrize("name", ENCODERS)
def test_encoders_are_those_of_fd_loss(name: str, tmp_path: Path, golden: Golden) -> None:
    extractor, theirs = extractor_of(name, tmp_path)
    big = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    images = [big, *random_images(5), 255 - big]
    with torch.inference_mode():
        expected = authors(theirs, name, images)
    found = extractor(images, [], ["features"])["features"]
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3 * float(expected.std(0).mean()))
    assert float(expected.std(0).mean()) > 5e-3
    metric = metric_of(ENCODERS[name][0])
    assert metric.needs == (f"{name}/features",)
    assert metric.needs[0] in IMAGENET256
    states = [
        metric.observe(Batch(None, torch.arange(len(x)), len(x), [None] * len(x), {metric.needs[0]: x}))
        for x in (found[:4], found[3:])
    ]
    value = metric.score(generated=states[0], reference=states[1]).value
    source = f"FD-loss's TimmReprModel written out, {peer('timm')}, singular values; images"
    expected_value = peers.frechet(expected[:4].numpy(), expected[3:].numpy())
    golden(ENCODERS[name][0], value, expected_value, rel=1e-3, source=source, weights=RANDOM)


def test_weights_that_are_not_there_are_one_line() -> None:
    for name in ENCODERS:
        extractor = build(option("extractor", name, weights="nowhere/model.safetensors"))
        with pytest.raises(ConfigError, match=rf"{name}.*nowhere/model.safetensors") as error:
            extractor.check()
        assert "\n" not in str(error.value)


def features(n: int, shift: float, seed: int) -> dict[str, torch.Tensor]:
    """By address, of widths of their own: one latent moves all of a sample's features."""
    rng = np.random.default_rng(seed)
    latent = rng.standard_normal((n, 3))
    found = {}
    for number, address in enumerate(IMAGENET256):
        mixing = np.random.default_rng(number).standard_normal((3, 4 + number))
        noise = 0.5 * rng.standard_normal((n, 4 + number))
        found[address] = torch.from_numpy(latent @ mixing + noise + shift).float()
    return found


def state(metric: FrechetRatios, given: dict[str, torch.Tensor], parts: int = 1) -> Any:
    n = len(next(iter(given.values())))
    states = []
    for index in torch.arange(n).tensor_split(parts):
        batch = {address: x[index] for address, x in given.items()}
        states.append(metric.observe(Batch(None, index, n, [None] * len(index), batch)))
    return sum(states[1:], start=states[0])


def test_the_mean_of_six_distances_each_by_its_normaliser(golden: Golden) -> None:
    metric = metric_of("fdr6")
    assert dict(metric.normalisers) == dict(IMAGENET256)
    assert metric.needs == type(metric).needs == tuple(IMAGENET256)
    a, b = features(60, 0.3, 1), features(80, 0.0, 2)
    score = metric.score(generated=state(metric, a), reference=state(metric, b, parts=3))
    expected = {address: peers.frechet(a[address].numpy(), b[address].numpy()) for address in IMAGENET256}
    mean = sum(expected[address] / IMAGENET256[address] for address in IMAGENET256) / 6
    source = "the formula, singular values in float64, features"
    golden("fdr6", score.value, mean, rel=1e-6, source=source)
    assert score.details["FD mae_vitl16/features"] == pytest.approx(expected["mae_vitl16/features"])
    assert score.details["FDr mae_vitl16/features"] == pytest.approx(expected["mae_vitl16/features"] / 0.04)


def test_its_standard_error_is_that_of_all_at_once() -> None:
    """Samples move all six together: the error is the spread over draws, and not that of independent distances."""
    metric = FrechetRatios(dict.fromkeys(IMAGENET256, 1.0))
    reference = state(metric, features(400, 0.0, 0))
    values, errors = [], []
    for seed in range(1, 31):
        given = features(100, 0.3, seed)
        made = state(metric, given)
        influence = metric.influence(generated=made, reference=reference)
        assert callable(influence)
        each = influence(Batch(None, torch.arange(100), 100, [None] * 100, given))  # f64 [100,2]
        assert each.shape == (100, 2)
        errors.append(float(each.std(0).max()) / 100**0.5)
        values.append(metric.score(generated=made, reference=reference).value)
    assert np.std(values) == pytest.approx(np.mean(errors), rel=0.35)
    few = state(metric, features(10, 0.0, 3))
    assert metric.influence(generated=few, reference=reference) == (
        "no standard error: N = 10 is below 2 d = 12 (dinov2_vitl14_256/features)"
    )


@pytest.mark.parametrize("normalisers", [{}, {"a/b": 0.0}, {"a/b": -1.0}])
def test_what_is_no_normaliser_is_refused(normalisers: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="normalisers"):
        metric_of("fdr6", normalisers=normalisers)
