"""MiFID: torchmetrics' penalty, copies, the step at tau."""

from __future__ import annotations

import numpy as np
import peers
import pytest
import torch
from golden import Golden, peer
from options import metric_of, score_of
from torchmetrics.image.mifid import _compute_cosine_distance

from evalkit.errors import ConfigError
from evalkit.numerics.frechet import score_of_rows


def positive(n: int, d: int, seed: int, spread: float = 0.5) -> np.ndarray:
    """Like features after a ReLU: in one corner, so that cosines are high."""
    return np.abs(1 + spread * np.random.default_rng(seed).standard_normal((n, d))).astype(np.float32)


def test_golden(golden: Golden) -> None:
    """torchmetrics finds the nearest sample of each training image: exchanged, its penalty is the definition's."""
    x, y = positive(120, 10, 1, 0.3), positive(150, 10, 2, 0.3)
    penalty = float(_compute_cosine_distance(torch.from_numpy(x), torch.from_numpy(y), 0.1))
    assert 0 < penalty < 0.1
    found = score_of("mifid", x, training=y)
    source = f"{peer('torchmetrics')}'s penalty, sets exchanged; FID in float64, features"
    golden("mifid", found.value, peers.frechet(x, y) / penalty, rel=1e-4, source=source)
    assert found.details["distance"] == pytest.approx(penalty, rel=1e-4)
    golden("mifid", found.value, peers.mifid(x, y), rel=1e-4, source="the definition in float64, features")


def test_far_samples_are_not_punished() -> None:
    x, y = (np.random.default_rng(seed).standard_normal((100, 16)).astype(np.float32) for seed in (3, 4))
    found = score_of("mifid", x, text=None, training=y)
    assert found.details["distance"] > 0.1
    assert found.value == pytest.approx(peers.frechet(x, y), rel=1e-6)
    assert found.stderr is not None
    assert found.influence is not None
    assert found.influence == pytest.approx(score_of_rows(torch.from_numpy(x), torch.from_numpy(y), None).influence)


def test_copies_are_the_worst() -> None:
    y = positive(200, 10, 5)
    values = [
        score_of("mifid", np.where(np.arange(100)[:, None] < share, y[:100], positive(100, 10, 6)), training=y).value
        for share in (0, 60, 100)
    ]
    assert values[0] < values[1] < values[2]
    assert values[2] > 1e5 * values[0]


def test_the_standard_error_is_that_of_redrawing() -> None:
    y = positive(400, 6, 7)
    found = [score_of("mifid", 1.1 * positive(200, 6, 100 + i), text=None, training=y) for i in range(60)]
    spread = np.std([score.value for score in found], ddof=1)
    assert np.mean([score.stderr for score in found]) == pytest.approx(spread, rel=0.3)


def test_few_samples_have_no_error_and_options_are_looked_at() -> None:
    found = score_of("mifid", positive(15, 10, 8), text=None, training=positive(40, 10, 9))
    assert (found.stderr, found.note) == (None, "no standard error: N = 15 is below 2 d = 20")
    with pytest.raises(ConfigError, match="tau=2: must be 0 to 1"):
        metric_of("mifid", tau=2)
