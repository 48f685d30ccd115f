"""RKE-MC: modes by hand, the authors' double loop, spread by redrawing."""

from __future__ import annotations

import numpy as np
import peers
import pytest
from golden import Golden
from options import metric_of, score_of

from evalkit.errors import ConfigError


def normal(n: int, d: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, d)).astype(np.float32)


def test_golden(golden: Golden) -> None:
    x = 5 * normal(90, 6, 1)
    source = "the authors' mean over all pairs in float64, features"
    golden("rke", score_of("rke", x).value, peers.rke(x, 10.0), rel=1e-5, source=source)


def test_by_hand(golden: Golden) -> None:
    """Four far points, 1, 1, 1 and 3 times: 1 / (3 (1/6)^2 + (3/6)^2) = 3 modes."""
    x = 1000 * np.eye(4)[[0, 1, 2, 3, 3, 3]]
    golden("rke", score_of("rke", x).value, 3.0, rel=1e-6, source="by hand: four points, one of them three times")
    assert score_of("rke", np.tile([[1.0, 2.0]], (20, 1))).value == pytest.approx(1)
    assert score_of("rke", 1000 * np.eye(12)).value == pytest.approx(12)


def test_features_far_from_the_origin() -> None:
    x = normal(60, 6, 2)
    assert score_of("rke", x + 1e4, {"width": 1.0}).value == pytest.approx(peers.rke(x + 1e4, 1.0), rel=1e-3)


def test_the_standard_error_is_that_of_redrawing() -> None:
    found = [score_of("rke", normal(150, 4, 100 + i), {"width": 2.0}, None) for i in range(80)]
    spread = np.std([score.value for score in found], ddof=1)
    assert np.mean([score.stderr for score in found]) == pytest.approx(spread, rel=0.25)


def test_options() -> None:
    with pytest.raises(ConfigError, match="width=0: must be above 0"):
        metric_of("rke", width=0)
