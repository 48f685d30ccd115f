"""VGG16: torch-fidelity's features, precision and recall on the same weights, and files that are not its weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from golden import RANDOM, Golden, peer
from options import extractor_of, features_of, score_of
from whole_path import pixels, write_folders

from evalkit.errors import ConfigError
from evalkit.extractors.vgg16 import WEIGHTS, Vgg16
from evalkit.utils.files import sha256_file


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A seeded random weights file in torchvision's format (0.5 GB)."""
    from torchvision.models import vgg16

    path = tmp_path_factory.mktemp("vgg16") / "seeded.pth"
    net = vgg16(init_weights=False)
    g = torch.Generator().manual_seed(0)
    for value in net.state_dict().values():
        fan = value[0].numel() if value.ndim > 1 else 1e4
        value.copy_(torch.empty_like(value).uniform_(-1, 1, generator=g) * (6 / fan) ** 0.5)
    torch.save(net.state_dict(), path)
    return path


def test_equals_torch_fidelity(weights: Path, tmp_path: Path, golden: Golden) -> None:
    """Features, and precision and recall of them, of small and of large images."""
    from torch_fidelity.feature_extractor_vgg16 import FeatureExtractorVGG16
    from torch_fidelity.metric_prc import prc_features_to_metric

    network = FeatureExtractorVGG16("theirs", ["fc2", "fc2_relu"], feature_extractor_weights_path=str(weights))
    extractor = extractor_of("vgg16", weights=str(weights))
    mine, theirs = [], []
    for folder in write_folders(tmp_path, 6):
        images = pixels(folder)
        mine.append(features_of(extractor, images, "fc2", "fc2_relu"))
        theirs.append(network(torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)))
        for layer, expected in zip(("fc2", "fc2_relu"), theirs[-1], strict=True):
            assert expected.abs().max() > 1e-3
            error = (mine[-1][layer] - expected).abs().max() / expected.abs().max()
            assert error < 1e-5, f"{layer}: {float(error):.1e}"
        assert bool((mine[-1]["fc2"] < 0).any())
        assert bool((mine[-1]["fc2_relu"] >= 0).all())
    relu = [features[1] for features in theirs]
    found = prc_features_to_metric(*relu, verbose=False)
    for name in ("precision", "recall"):
        assert 0 < found[name] < 1, "all or nothing would prove little"
        got = score_of(f"{name}_vgg", mine[0]["fc2_relu"], reference=mine[1]["fc2_relu"]).value
        source = f"{peer('torch-fidelity')}, from images"
        golden(f"{name}_vgg", got, found[name], abs=1e-6, source=source, weights=RANDOM)


def test_identity_and_label(weights: Path) -> None:
    extractor = Vgg16(weights=str(weights))
    digest = sha256_file(weights)
    assert extractor.identity()["weights"] == digest
    assert extractor.label() == f"vgg16:{digest[:8]}"
    assert not extractor.canonical()
    assert extractor.layers == {"fc2_relu": 4096, "fc2": 4096}


def test_the_published_file_is_torchvisions() -> None:
    from torchvision.models import VGG16_Weights

    assert VGG16_Weights.IMAGENET1K_V1.url == WEIGHTS.url
    assert WEIGHTS.sha256 in WEIGHTS.file


def test_missing_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(ConfigError, match=r"extractor\.vgg16\.download=false.*extractor\.vgg16\.weights=FILE"):
        Vgg16(download=False).check()


def test_a_file_of_another_network(tmp_path: Path) -> None:
    torch.save({"fc.weight": torch.zeros(2, 2)}, tmp_path / "w.pth")
    with pytest.raises(ConfigError, match="does not hold torchvision's VGG16") as caught:
        Vgg16(weights=str(tmp_path / "w.pth")).load("cpu")
    assert "\n" not in str(caught.value)
