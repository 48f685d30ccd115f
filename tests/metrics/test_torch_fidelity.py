"""torch-fidelity and prdc from image files to the scores: the same files, and one weights file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import peers
import pytest
import torch
from golden import RANDOM, Golden, peer
from options import score_of
from whole_path import fast_eigvals

Features = Callable[[str], tuple[np.ndarray, np.ndarray]]
FIDELITY = f"{peer('torch-fidelity')}, from image files"


@pytest.fixture(scope="module")
def theirs(folders: tuple[Path, Path], inception_weights: Path) -> dict[str, Any]:
    """Its metrics of the two folders, and the layer of sFID on the way, f32 [N,2023] each."""
    from torch_fidelity import calculate_metrics, register_feature_extractor
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    maps: list[torch.Tensor] = []

    class Watched(FeatureExtractorInceptionV3):  # type: ignore[misc]
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            self.Mixed_6d.branch1x1.register_forward_hook(lambda module, x, y: maps.append(y))

    register_feature_extractor("watched", Watched)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(np.linalg, "eigvals", fast_eigvals)
        found: dict[str, Any] = calculate_metrics(
            input1=str(folders[0]),
            input2=str(folders[1]),
            **dict.fromkeys(("isc", "fid", "kid", "prc"), True),
            feature_extractor="watched",
            feature_layer_prc="2048",
            feature_extractor_weights_path=str(inception_weights),
            isc_splits=4,
            kid_subset_size=6,
            batch_size=8,
            cuda=False,
            cache=False,
            save_cpu_ram=True,
            verbose=False,
        )
    spatial = torch.cat(maps).permute(0, 2, 3, 1)[..., :7].reshape(len(torch.cat(maps)), -1)  # as ADM's evaluator.py
    half = len(spatial) // 2
    return found | {"spatial": (spatial[:half].numpy(), spatial[half:].numpy())}


def score(name: str, mine: Features, **changes: Any) -> Any:
    """Of the folder of small images against the large ones."""
    address = {"is": "inception/logits_unbiased", "sfid": "inception/mixed6_conv7"}.get(name, "inception/pool3")
    generated, reference = mine(address)
    return score_of(name, generated, changes, **({} if name == "is" else {"reference": reference}))


def test_fid_is_and_kid(theirs: dict[str, Any], mine: Features, golden: Golden) -> None:
    same: dict[str, Any] = {"weights": RANDOM}
    golden("fid", score("fid", mine).value, theirs["frechet_inception_distance"], rel=1e-5, source=FIDELITY, **same)
    found, source = score("is", mine, splits=4), f"{FIDELITY}, 4 splits"
    golden("is", found.value, theirs["inception_score_mean"], rel=1e-6, source=source, **same)
    golden("is, std", found.details["std"], theirs["inception_score_std"], rel=1e-5, source=source, **same)
    found, source = score("kid", mine, subset_size=6), f"{FIDELITY}, subsets of 6"
    golden("kid", found.value, theirs["kernel_inception_distance_mean"], rel=1e-5, source=source, **same)
    golden("kid, std", found.details["std"], theirs["kernel_inception_distance_std"], rel=1e-5, source=source, **same)


def test_precision_and_recall(theirs: dict[str, Any], mine: Features, golden: Golden) -> None:
    for name in ("precision", "recall"):
        assert 0 < theirs[name] < 1, "all or nothing would prove little"
        golden(name, score(name, mine).value, theirs[name], abs=1e-6, source=FIDELITY, weights=RANDOM)


def test_density_and_coverage(mine: Features, golden: Golden) -> None:
    prdc = pytest.importorskip("prdc", reason="prdc is not installed")
    generated, reference = mine("inception/pool3")
    expected = prdc.compute_prdc(real_features=reference, fake_features=generated, nearest_k=5)
    for name in ("density", "coverage"):
        source = f"{peer('prdc')}, the same features of image files"
        golden(name, score(name, mine).value, expected[name], abs=1e-6, source=source, weights=RANDOM)


def test_sfid(theirs: dict[str, Any], mine: Features, golden: Golden) -> None:
    """mixed_6/conv:0 of the TF graph: torch-fidelity's Mixed_6d.branch1x1, 7 channels, flattened as TF does (NHWC)."""
    source = f"ADM's layer of {peer('torch-fidelity')}'s network, from image files; singular values"
    expected = peers.frechet(*theirs["spatial"])
    golden("sfid", score("sfid", mine).value, expected, rel=1e-5, source=source, weights=RANDOM)


def test_fid_with_bfloat16(theirs: dict[str, Any], mine: Features, golden: Golden) -> None:
    """Convolutions in bfloat16 give another number, that must be near."""
    generated, reference = mine("inception_bf16/pool3")
    found = score_of("fid_bf16", generated, reference=reference).value
    source = f"{FIDELITY}, in float32"
    golden("fid_bf16", found, theirs["frechet_inception_distance"], rel=3e-2, source=source, weights=RANDOM)
