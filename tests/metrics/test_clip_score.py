"""CLIP score: a case by hand, torchmetrics' result on the same embeddings, merging in any order."""

from __future__ import annotations

import math
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from golden import Golden, peer
from hypothesis import given, settings
from hypothesis import strategies as st
from options import score_of
from torch import Tensor

from evalkit.metric import Batch, Rows
from evalkit.metrics.clip_score import ClipScore, HesselClipScore, Hps, PickScore


def batch(image: Tensor, text: Tensor, start: int = 0) -> Batch:
    n = len(image)
    features = {"clip_vit_b32/image": image, "clip_vit_b32/text": text}
    return Batch(None, torch.arange(start, start + n), n, [f"text {i}" for i in range(start, start + n)], features)


def embeddings(n: int, d: int = 16, seed: int = 0) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    image = torch.randn(n, d, generator=g) * 5
    return image, image * 0.3 + torch.randn(n, d, generator=g)


def test_by_hand() -> None:
    """Cosines 1 and 0.6: mean 80, standard error std(100, 60)/sqrt(2) = 20; lengths play no part."""
    metric = ClipScore()
    image = torch.tensor([[2.0, 0.0], [5.0, 0.0]])
    text = torch.tensor([[3.0, 0.0], [3.0, 4.0]])
    score = metric.score(generated=metric.observe(batch(image, text)))
    assert score.value == pytest.approx(80.0, rel=1e-6)
    assert score.stderr == pytest.approx(20.0, rel=1e-6)
    assert score.influence == pytest.approx((100.0, 60.0), rel=1e-6)
    assert score.note is None


def test_clamped_after_the_mean() -> None:
    metric = ClipScore()
    image, text = torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([[-1.0, 0.0], [1.0, 1.0]])
    score = metric.score(generated=metric.observe(batch(image, text)))
    assert score.value == 0.0
    assert score.note is not None
    assert f"{100 * (math.sqrt(0.5) - 1) / 2:.4g}" in score.note


def test_equals_torchmetrics(golden: Golden) -> None:
    from torchmetrics.functional.multimodal import clip_score

    n = 64
    image, text = embeddings(n)

    class Model(torch.nn.Module):
        config = SimpleNamespace()

        def get_image_features(self, pixels: Tensor) -> Tensor:
            return image

        def get_text_features(self, ids: Tensor, mask: Tensor) -> Tensor:
            return text

    def processor(**kwargs: Any) -> dict[str, Tensor]:
        return dict.fromkeys(("pixel_values", "input_ids", "attention_mask"), torch.zeros(1))

    theirs = clip_score([torch.zeros(3, 4, 4)] * n, ["text"] * n, lambda: (Model(), processor))
    found = score_of("clip_score", {"clip_vit_b32/image": image, "clip_vit_b32/text": text}).value
    golden("clip_score", found, theirs, rel=1e-6, source=f"{peer('torchmetrics')}, the same embeddings")


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 29), max_size=5), st.randoms(use_true_random=False))
def test_merges_in_any_order_to_the_same_bits(cuts: list[int], rng: object) -> None:
    image, text = embeddings(30)
    metric = ClipScore()
    edges = sorted({0, 30, *cuts})
    parts = [metric.observe(batch(image[i:j], text[i:j], i)) for i, j in pairwise(edges)]
    rng.shuffle(parts)  # type: ignore[attr-defined]
    merged: Rows = parts[0]
    for part in parts[1:]:
        merged = merged + part
    assert metric.score(generated=merged) == metric.score(generated=metric.observe(batch(image, text)))


def test_contract() -> None:
    metric = ClipScore(image="digits_clip/image", text="digits_clip/text")
    assert metric.needs == ("digits_clip/image", "digits_clip/text")
    assert metric.needs_prompts
    assert metric.constants() == {"estimator": "max(mean(scale * cos), 0)", "scale": 100.0}
    assert ClipScore.per_sample
    with pytest.raises(ValueError, match="clamp=both: give mean, each or none"):
        ClipScore(clamp="both")  # type: ignore[arg-type]


def test_hessels_own_by_hand() -> None:
    """Cosines 0.6, -1 and 0: 2.5 (0.6 + 0 + 0) / 3; clamped in each sample, so that the negative one weighs nothing."""
    metric = HesselClipScore()
    image = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 2.0]])
    text = torch.tensor([[3.0, 4.0], [-2.0, 0.0], [1.0, 0.0]])
    features = {"clip_vit_b32/image": image, "clip_vit_b32_hessel/text": text}
    score = metric.score(generated=metric.observe(Batch(None, torch.arange(3), 3, ["a text"] * 3, features)))
    assert score.value == pytest.approx(0.5, rel=1e-6)
    assert score.influence == pytest.approx((1.5, 0.0, 0.0), abs=1e-6)
    assert metric.constants() == {"estimator": "mean(scale * max(cos, 0))", "scale": 2.5}


def test_equals_hessels_code(golden: Golden) -> None:
    """`get_clip_score` of jmhessel/clipscore on embeddings: w * np.clip(sum(images * candidates), 0, None)."""
    import numpy as np

    image, noise = embeddings(50, seed=3)
    text = noise - 0.35 * image
    a, b = (x.numpy() / np.sqrt(np.sum(x.numpy() ** 2, axis=1, keepdims=True)) for x in (image, text))
    expected = 2.5 * np.clip(np.sum(a * b, axis=1), 0, None)
    assert 5 < (expected == 0).sum() < 45
    score = score_of("clip_score_hessel", {"clip_vit_b32/image": image, "clip_vit_b32_hessel/text": text})
    source = "Hessel's code written out, the same embeddings"
    golden("clip_score_hessel", score.value, float(np.mean(expected)), rel=1e-6, source=source)
    assert score.influence == pytest.approx(expected.tolist(), rel=1e-4, abs=1e-6)


def test_pickscore_takes_the_product_as_it_is() -> None:
    """The extractor has scaled the text by exp(logit_scale), 104 here: no second normalisation."""
    metric = PickScore()
    image, text = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[62.4, 83.2], [62.4, 83.2]])
    features = {"pickscore/image_unit": image, "pickscore/text_logit": text}
    score = metric.score(generated=metric.observe(Batch(None, torch.arange(2), 2, ["a text"] * 2, features)))
    assert score.influence == pytest.approx((62.4, 83.2), rel=1e-6)
    assert metric.constants()["estimator"] == "mean(scale * dot)"
    assert (Hps().needs, Hps().scale, Hps().title) == (("hpsv2/image", "hpsv2/text"), 100.0, "HPS v2.1")
