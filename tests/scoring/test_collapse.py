"""A collapsed GAN and a model that copies its training set: which metrics catch them (`pytest -s` prints the table)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from lpips_weights import seeded_trunk

from evalkit.config.build import build
from evalkit.config.compose import compose, resolve
from evalkit.data.arrays import ArrayImages
from evalkit.digits.data import DIGIT_WORDS, reference_images
from evalkit.digits.nets import load_dcgan
from evalkit.samples.store import Store
from evalkit.scoring import Against, score_sources

N = 400
METRICS = [
    "recall_digits",
    "coverage_digits",
    "vendi_digits",
    "feature_diversity_digits",
    "lpips_diversity",
    "precision_digits",
    "authpct_digits",
    "c_t_digits",
    "nearest_training_digits",
]


def dcgan(latents: torch.Tensor, labels: torch.Tensor, name: str) -> ArrayImages:
    with torch.inference_mode():
        images = load_dcgan()(latents, labels)  # [N,3,32,32] in [-1,1]
    pixels = ((images.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).contiguous().numpy()
    return ArrayImages(name, pixels, [f"a {DIGIT_WORDS[label]}" for label in labels.tolist()])


@pytest.fixture(scope="module")
def scores(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Any]:
    folder = tmp_path_factory.mktemp("collapse")
    torch.save(seeded_trunk("alex"), folder / "alex.pth")
    generator, rng = torch.Generator().manual_seed(0), np.random.default_rng(0)
    real = reference_images()[0].transpose(0, 2, 3, 1)  # u8 [5000,32,32,3]
    held_out, training = np.ascontiguousarray(real[0::5]), np.ascontiguousarray(real[1::5])
    latents, labels = torch.randn(N, 64, generator=generator), torch.arange(N) % 10
    modes = torch.randn(10, 64, generator=generator)[labels]  # one latent a class, and a little noise
    jitter = 0.05 * torch.randn(N, 64, generator=generator)
    copied = training[rng.permutation(len(training))[:N]].astype(int) + rng.integers(-2, 3, (N, 32, 32, 3))
    sources = {
        "honest": dcgan(latents, labels, "honest"),
        "collapsed": dcgan(modes + jitter, labels, "collapsed"),
        "copier": ArrayImages("copier", copied.clip(0, 255).astype(np.uint8), ["a digit"] * N),
    }
    config = resolve(compose(["~experiment", f"metric=[{','.join(METRICS)}]", "extractor=[digits,lpips_alex]"]))
    config.extractor["lpips_alex"]["weights"] = str(folder / "alex.pth")
    found = score_sources(
        sources,
        metrics={name: (config.metric[name], build(config.metric[name])) for name in METRICS},
        extractors={name: build(config.extractor[name]) for name in ("digits", "lpips_alex")},
        against=Against(ArrayImages("held out", held_out), ArrayImages("training", training)),
        store=Store(folder / "store"),
        device="cpu",
        progress=lambda name, done, total: None,
    )
    print()
    for name in METRICS:
        values = "".join(f"{cell}: {found[cell, name].score.value:10.4f}   " for cell in sources)
        print(f"{found['honest', name].label:32s} {values}")
    return {key: scored.score for key, scored in found.items()}


@pytest.mark.parametrize(
    ("metric", "share"),
    [
        ("recall_digits", 0.7),
        ("coverage_digits", 0.5),
        ("vendi_digits", 0.7),
        ("feature_diversity_digits", 0.8),
        ("lpips_diversity", 0.8),
    ],
)
def test_a_collapsed_gan_is_caught(scores: dict[tuple[str, str], Any], metric: str, share: float) -> None:
    honest, collapsed = scores["honest", metric], scores["collapsed", metric]
    assert collapsed.value < share * honest.value
    if honest.stderr is not None and collapsed.stderr is not None:
        assert honest.value - collapsed.value > 5 * np.hypot(honest.stderr, collapsed.stderr)


def test_a_collapsed_gan_may_be_precise(scores: dict[tuple[str, str], Any]) -> None:
    assert scores["collapsed", "precision_digits"].value > 0.7  # so precision alone says nothing


def test_a_copier_is_caught(scores: dict[tuple[str, str], Any]) -> None:
    assert scores["copier", "authpct_digits"].value < 5 < scores["honest", "authpct_digits"].value
    assert scores["copier", "c_t_digits"].value < -5 < scores["honest", "c_t_digits"].value
    assert scores["copier", "nearest_training_digits"].value > 0.9
    assert scores["honest", "nearest_training_digits"].value < 0.1
    assert scores["copier", "recall_digits"].value > 0.7  # quality and diversity do not show it


def test_the_copies_are_named(scores: dict[tuple[str, str], Any]) -> None:
    expected = np.random.default_rng(0).permutation(1000)[:N]
    nearest = scores["copier", "nearest_training_digits"].nearest
    assert len(nearest) == 32
    assert sum(int(expected[sample]) == training for sample, training, _ in nearest) >= 31
    distances = [distance for _, _, distance in nearest]
    assert all(distance >= 0 for distance in distances)
