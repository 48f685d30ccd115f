"""The golden values of `selfcheck=true` against independent implementations: SciPy, torch-fidelity, brute force."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from peers import distances_by_products, prdc
from scipy import linalg

from evalkit import selfcheck
from evalkit.extractors.clip import Clip
from evalkit.extractors.digits import Digits

GOLDEN = {golden.metric: golden for golden in (*selfcheck.DIGITS, *selfcheck.GAUSSIANS)}


@pytest.fixture(scope="module")
def features() -> dict[str, tuple[Any, Any]]:
    """By layer of the digits' extractor: features of the two parts, as float64 arrays."""
    extractor = Digits(weights="pkg://evalkit.digits/weights/classifier.safetensors", batch_size=50)
    extractor.load("cpu")
    found: dict[str, tuple[Any, Any]] = {}
    for layer in ("features", "logits"):
        parts = []
        for source in selfcheck.digit_sources():
            images = source.read(range(len(source)))
            blocks = [extractor(images[i : i + 50], [], [layer])[layer] for i in range(0, len(images), 50)]
            parts.append(torch.cat(blocks).double().numpy())
        found[layer] = (parts[0], parts[1])
    return found


def test_gaussians() -> None:
    generated, reference = (x.double().numpy() for x in selfcheck.gaussians())
    expected = prdc(reference, generated, 5, closed=True, between=distances_by_products)
    for name, value in expected.items():
        assert GOLDEN[name].expected == pytest.approx(value, abs=GOLDEN[name].tolerance), name


def test_frechet_distance_of_digits(features: dict[str, tuple[Any, Any]]) -> None:
    a, b = features["features"]
    cov1, cov2 = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = linalg.sqrtm(cov1 @ cov2).real
    value = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(cov1 + cov2 - 2 * root)
    assert GOLDEN["fid_digits"].expected == pytest.approx(value, abs=GOLDEN["fid_digits"].tolerance)


def test_inception_score_of_digits(features: dict[str, tuple[Any, Any]]) -> None:
    from torch_fidelity.metric_isc import isc_features_to_metric

    found = isc_features_to_metric(torch.from_numpy(features["logits"][0]), splits=10, shuffle=True, rng_seed=2020)
    golden = GOLDEN["is_digits"]
    assert golden.expected == pytest.approx(found["inception_score_mean"], abs=golden.tolerance)


def test_kernel_distance_of_digits(features: dict[str, tuple[Any, Any]]) -> None:
    from torch_fidelity.metric_kid import kid_features_to_metric

    a, b = (torch.from_numpy(x).float() for x in features["features"])
    golden = GOLDEN["kid_digits"]
    found = kid_features_to_metric(
        a,
        b,
        kid_subsets=100,
        kid_subset_size=500,
        rng_seed=2020,
        kid_kernel="poly",
        kid_kernel_poly_degree=3,
        kid_kernel_poly_gamma=None,
        kid_kernel_poly_coef0=1.0,
        verbose=False,
    )
    assert golden.expected == pytest.approx(found["kernel_inception_distance_mean"], abs=golden.tolerance)


def test_neighbours_of_digits(features: dict[str, tuple[Any, Any]]) -> None:
    generated, reference = features["features"]
    closed = prdc(reference, generated, 3, closed=True, between=distances_by_products)
    strict = prdc(reference, generated, 5, between=distances_by_products)
    for name in ("precision", "recall"):
        assert GOLDEN[f"{name}_digits"].expected == pytest.approx(closed[name], abs=GOLDEN[f"{name}_digits"].tolerance)
    for name in ("density", "coverage"):
        assert GOLDEN[f"{name}_digits"].expected == pytest.approx(strict[name], abs=GOLDEN[f"{name}_digits"].tolerance)


def test_clip_score_of_digits() -> None:
    clip = Clip(model="pkg://evalkit.digits/weights/clip", name="digits_clip", batch_size=50)
    clip.load("cpu")
    source = selfcheck.digit_sources()[0]
    cosines = []
    for start in range(0, len(source), 50):
        rows = range(start, start + 50)
        out = clip(source.read(rows), [str(source.prompts[i]) for i in rows], ["image", "text"])
        cosines.append(torch.nn.functional.cosine_similarity(out["image"].double(), out["text"].double()))
    golden = GOLDEN["clip_score_digits"]
    assert golden.expected == pytest.approx(100 * float(torch.cat(cosines).mean()), abs=golden.tolerance)


def test_all_is_right_here_and_a_wrong_value_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert selfcheck.print_selfcheck("cpu")
    assert "WRONG" not in capsys.readouterr().out
    wrong = selfcheck.Golden("fid_digits", 1e6, 1e-3, "made up")
    monkeypatch.setattr(selfcheck, "DIGITS", (wrong,))
    monkeypatch.setattr(selfcheck, "GAUSSIANS", ())
    assert not selfcheck.print_selfcheck("cpu")
    assert "WRONG" in capsys.readouterr().out
