"""The interface of torchmetrics: its values on the same seeded weights; what differs is refused or told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from whole_path import low_rank_eigenvalues

from evalkit import torchmetrics as ours
from evalkit.errors import EvalkitError

COUNT = 8  # the root of the covariances has a short cut (`whole_path.py`)
CLOSE = 1e-4  # relative: torch-fidelity's network and evalkit's round differently


def pictures(seed: int, count: int = COUNT) -> torch.Tensor:
    """u8 [count,3,40,40]."""
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (count, 3, 40, 40), dtype=np.uint8))


@pytest.fixture(scope="module")
def given(inception_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The weights, and a store by which metrics share features."""
    store = tmp_path_factory.mktemp("store")
    return {"feature_extractor_weights_path": str(inception_weights), "device": "cpu", "store": store}


def test_fid_is_torchmetrics(given: dict[str, Any], inception_weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchmetrics.image.fid import FrechetInceptionDistance

    monkeypatch.setattr(
        torch.linalg, "eigvals", lambda x: torch.from_numpy(low_rank_eigenvalues(x.numpy())).to(torch.complex128)
    )
    theirs = FrechetInceptionDistance(feature_extractor_weights_path=str(inception_weights), normalize=True)
    mine = ours.FrechetInceptionDistance(normalize=True, reset_real_features=False, **given)
    for metric in (theirs, mine):
        for half in range(0, COUNT, 4):
            metric.update((pictures(1) / 255)[half : half + 4], real=True)
            metric.update((pictures(2) / 300)[half : half + 4], real=False)
    expected = float(theirs.compute())
    assert float(mine.compute()) == pytest.approx(expected, rel=CLOSE)
    assert mine.compute().dtype == torch.float32  # again, and nothing is forgotten
    mine.update(pictures(3) / 255, real=False)  # goes on
    assert abs(float(mine.compute()) / expected - 1) > CLOSE
    mine.reset()
    mine.update(pictures(2) / 300, real=False)  # the real ones are there still
    mine.sync()
    assert float(mine.compute()) == pytest.approx(expected, rel=CLOSE)


@pytest.mark.slow
def test_kid_is_torchmetrics(given: dict[str, Any], inception_weights: Path) -> None:
    from torchmetrics.image.fid import NoTrainInceptionV3
    from torchmetrics.image.kid import KernelInceptionDistance

    network = NoTrainInceptionV3("inception-v3-compat", ["2048"], str(inception_weights))
    network.num_features = 2048
    theirs = KernelInceptionDistance(network, subsets=2, subset_size=COUNT)
    mine = ours.KernelInceptionDistance(subsets=2, subset_size=COUNT, **given)  # each subset is all of them
    for metric in (theirs, mine):
        metric.update(pictures(1), real=True)
        metric.update(pictures(2), real=False)
    # Theirs is in float32, whose rounding is all that their spread over equal subsets is.
    assert float(mine.compute()[0]) == pytest.approx(float(theirs.compute()[0]), rel=CLOSE)
    assert float(mine.compute()[1]) == 0


@pytest.mark.slow
def test_is_is_torchmetrics(given: dict[str, Any], inception_weights: Path) -> None:
    from torchmetrics.image.fid import NoTrainInceptionV3
    from torchmetrics.image.inception import InceptionScore

    network = NoTrainInceptionV3("inception-v3-compat", ["logits_unbiased"], str(inception_weights))
    theirs, mine = InceptionScore(network, splits=1), ours.InceptionScore(splits=1, **given)
    for metric in (theirs, mine):
        metric.update(pictures(2))
    assert float(mine.compute()[0]) == pytest.approx(float(theirs.compute()[0]), rel=CLOSE)


def test_what_is_not_there_is_one_line(given: dict[str, Any]) -> None:
    with pytest.raises(EvalkitError, match="feature=64: evalkit has 2048 alone"):
        ours.FrechetInceptionDistance(64)
    with pytest.raises(EvalkitError, match=r"no such model\. Did you mean 'openai/clip-vit-base-patch16'"):
        ours.CLIPScore("openai/clip-vit-base-patch15")
    metric = ours.FrechetInceptionDistance(**given)
    with pytest.raises(EvalkitError, match="floats need a declared range"):
        metric.update(pictures(1) / 255, real=True)
    metric.update(pictures(1), real=False)
    with pytest.raises(EvalkitError, match="at least 2 reference images"):
        metric.compute()
