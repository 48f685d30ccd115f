"""The presets of FID and KID against the packages that they are named after: same files, same weights.

Their matrix roots take 25 to 90 s at D = 2048. Here the covariances come from 8 images each, so that the trace of the
root has an exact short cut (`whole_path.py`), which stands in for SciPy's sqrtm and torch's eigvals. The roots
themselves are compared in test_frechet.py.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from golden import RANDOM, Golden, peer
from options import metric_of, score_of
from whole_path import fast_sqrtm, low_rank_eigenvalues, pixels

Features = Callable[[str], tuple[np.ndarray, np.ndarray]]


def ours(name: str, mine: Features) -> float | None:
    """The preset as its two YAMLs describe it, with the seeded weights: the small images against the large ones."""
    generated, reference = mine(metric_of(name).needs[0])
    return score_of(name, generated, reference=reference).value


@pytest.fixture
def pytorch_fid_network(inception_weights: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """pytorch-fid's network class, which fetches its weights: here they come from the seeded file."""
    network = pytest.importorskip("pytorch_fid.inception", reason="pytorch-fid is not installed")

    def load(url: str, **_: Any) -> Any:
        return torch.load(inception_weights, weights_only=True)

    monkeypatch.setattr(network, "load_state_dict_from_url", load)
    found: Callable[..., Any] = network.InceptionV3
    return found


def test_pytorch_fid(
    folders: tuple[Path, Path],
    mine: Features,
    pytorch_fid_network: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    golden: Golden,
) -> None:
    from pytorch_fid import fid_score

    monkeypatch.setattr(fid_score.linalg, "sqrtm", fast_sqrtm)
    paths = [str(folder) for folder in folders]
    theirs = fid_score.calculate_fid_given_paths(paths, 8, "cpu", 2048, num_workers=0)
    source = f"{peer('pytorch-fid')}, from image files"
    golden("fid_pytorch_fid", ours("fid_pytorch_fid", mine), theirs, rel=1e-5, source=source, weights=RANDOM)


def test_clean_fid(
    folders: tuple[Path, Path],
    mine: Features,
    pytorch_fid_network: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    golden: Golden,
) -> None:
    """clean-fid's files, resize, FID and KID around the network, whose TorchScript file is not here.

    Both folders hold as many images as its KID's subsets, so that its unseeded draws are all the same sets.
    """
    fid = pytest.importorskip("cleanfid.fid", reason="clean-fid is not installed")
    network = pytorch_fid_network(resize_input=False, normalize_input=False).eval()

    def extract(x: torch.Tensor) -> torch.Tensor:  # f32 [B,3,299,299], 0 to 255; as InceptionV3W.forward
        found: torch.Tensor = network((x - 128) / 128)[0][:, :, 0, 0]
        return found

    monkeypatch.setattr(fid.linalg, "sqrtm", fast_sqrtm)
    options: dict[str, Any] = {"mode": "clean", "num_workers": 0, "device": torch.device("cpu"), "verbose": False}
    features = [fid.get_folder_features(str(f), extract, **options) for f in folders]
    same: dict[str, Any] = {"source": f"{peer('clean-fid')}, from image files", "weights": RANDOM}
    golden("fid_clean", ours("fid_clean", mine), fid.fid_from_feats(*features), rel=1e-5, **same)
    golden("kid_clean", ours("kid_clean", mine), fid.kernel_distance(*features, num_subsets=2), rel=1e-5, **same)


def test_torchmetrics(
    folders: tuple[Path, Path],
    mine: Features,
    inception_weights: Path,
    monkeypatch: pytest.MonkeyPatch,
    golden: Golden,
) -> None:
    from torchmetrics.image.fid import FrechetInceptionDistance

    def eigvals(product: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(low_rank_eigenvalues(product.numpy())).to(torch.complex128)

    monkeypatch.setattr(torch.linalg, "eigvals", eigvals)
    theirs = FrechetInceptionDistance(2048, feature_extractor_weights_path=str(inception_weights))
    for folder, real in zip(folders, (False, True), strict=True):
        images = pixels(folder)
        for start in range(0, len(images), 8):
            theirs.update(torch.from_numpy(np.stack(images[start : start + 8])).permute(0, 3, 1, 2), real=real)
    source = f"{peer('torchmetrics')}, from image files"
    expected = float(theirs.compute())
    golden("fid_torchmetrics", ours("fid_torchmetrics", mine), expected, rel=1e-5, source=source, weights=RANDOM)


def test_presets_differ(mine: Features) -> None:
    """They would not be worth a name, and the comparisons above no comparisons, otherwise."""
    names = ("inception", "inception_pytorch_fid", "inception_clean", "inception_torchmetrics")
    found = [np.concatenate(mine(f"{name}/pool3")) for name in names]
    for i, a in enumerate(found):
        for b in found[:i]:
            assert np.linalg.norm(a - b) / np.linalg.norm(a) > 1e-3


def test_stylegan3(golden: Golden) -> None:
    """stylegan3, metrics/frechet_inception_distance.py and metric_utils.py, written out: covariances divide by N."""
    from scipy.linalg import sqrtm

    rng = np.random.default_rng(1)
    sets = [rng.standard_normal((n, 24)).astype(np.float32) * s + m for n, s, m in ((60, 1, 0), (80, 1.3, 0.2))]
    stats = []
    for x in sets:
        raw_mean, raw_cov = x.astype(np.float64).sum(0), x.astype(np.float64).T @ x.astype(np.float64)
        mean = raw_mean / len(x)
        stats.append((mean, raw_cov / len(x) - np.outer(mean, mean)))
    (mu_gen, sigma_gen), (mu_real, sigma_real) = stats
    s = sqrtm(np.dot(sigma_gen, sigma_real))
    theirs = float(np.real(np.square(mu_gen - mu_real).sum() + np.trace(sigma_gen + sigma_real - s * 2)))
    found = score_of("fid_stylegan3", sets[0], reference=sets[1]).value
    golden("fid_stylegan3", found, theirs, rel=1e-9, source="stylegan3's code written out, Gaussian features")
    metric = metric_of("fid_stylegan3")
    assert metric.constants()["ddof"] == 0
    assert metric.title == "FID (ddof 0)"
