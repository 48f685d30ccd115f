"""DISTS: torchmetrics' own numbers with the same trunk, equal images, sizes that are odd, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from golden import RANDOM, Golden, peer
from lpips_weights import seeded_trunk, torchvision_features
from options import extractor_of, metric_of, pair_score

from evalkit.errors import ConfigError, DataError
from evalkit.extractors.base import Extractor
from evalkit.extractors.dists import Dists


@pytest.fixture(scope="module")
def extractor(tmp_path_factory: pytest.TempPathFactory) -> Extractor:
    path = tmp_path_factory.mktemp("vgg") / "vgg16.pth"
    torch.save(seeded_trunk("vgg"), path)
    return extractor_of("dists", weights=str(path))


def images(n: int, seed: int, height: int = 20, width: int = 37) -> list[np.ndarray]:
    return list(np.random.default_rng(seed).integers(0, 256, (n, height, width, 3), dtype=np.uint8))


def test_equals_torchmetrics(
    extractor: Extractor, golden: Golden, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images of odd sizes, on seeded weights; alpha and beta are the published ones, which torchmetrics ships."""
    from torchmetrics.functional.image import dists as theirs

    class Whole(torch.nn.Module):
        features = torchvision_features("vgg")

    monkeypatch.setattr(theirs, "vgg16", lambda weights: Whole())
    a, b = images(3, 0), images(3, 1)
    tensors = (torch.from_numpy(np.stack(side)).permute(0, 3, 1, 2).float() / 255 for side in (a, b))
    expected = theirs.deep_image_structure_and_texture_similarity(*tensors).detach()
    found = pair_score("dists", tmp_path, a, b, extractor)
    assert found.influence == pytest.approx(expected.tolist(), abs=2e-6)
    source = f"{peer('torchmetrics')}, on seeded VGG16 and published alpha, beta"
    golden("dists", found.value, float(expected.mean()), abs=2e-6, source=source, weights=RANDOM)


def test_equal_images_have_none_and_order_does_not_matter(extractor: Extractor, tmp_path: Path) -> None:
    a = images(2, 0, 16, 16)
    near = [np.clip(image.astype(int) + 20, 0, 255).astype(np.uint8) for image in a]
    found = pair_score("dists", tmp_path, [*a, *near], [*a, *a], extractor).influence
    back = pair_score("dists", tmp_path, [*a, *a], [*a, *near], extractor).influence
    assert found is not None
    assert found[:2] == pytest.approx((0, 0), abs=1e-12)
    assert 0 < found[2] < 1
    assert back == pytest.approx(found, abs=1e-12)


def test_what_is_refused(extractor: Extractor, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"16 pixels or more, not 8x9: give extractor\.dists\.resize=SIZE"):
        extractor(images(1, 0, 8, 9), [], ["maps"])
    with pytest.raises(DataError, match="of one size"):
        extractor([*images(1, 0), *images(1, 0, 16, 16)], [], ["maps"])
    with pytest.raises(ConfigError, match=r"resize=8: must be 16 pixels or more"):
        Dists(resize=8)
    with pytest.raises(ConfigError, match=r"alpha and beta: there is no .*none\.pt"):
        metric_of("dists", weights=str(tmp_path / "none.pt"))
    torch.save({"features.0.weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(ConfigError, match=r"'features\.0\.weight' has shape \(3,\)"):
        extractor_of("dists", weights=str(tmp_path / "other.pth"))


def test_missing_weights_are_named_with_their_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(ConfigError, match=r"vgg16-397923af\.pth"):
        extractor_of("dists")


def test_resized_to_one_size(extractor: Extractor, tmp_path: Path) -> None:
    resized = Dists(weights=extractor.weights.file, resize=16, download=False)  # type: ignore[attr-defined]
    resized.load("cpu")
    maps = resized([*images(1, 0), *images(1, 0, 16, 18)], [], ["maps"])["maps"]
    assert maps[:, :2].tolist() == [[16, 16]] * 2
    assert resized.label() != extractor.label() or not resized.canonical()
