"""FLD: the authors' values; copies, shifts and fresh draws; a feature that never changes."""

from __future__ import annotations

import numpy as np
import pytest
from golden import Golden
from options import metric_of, score_of

from evalkit.metric import Score

SOURCE = "marcojira/fld ffbbf20, run beforehand, features"


def normal(n: int, seed: int, shift: float = 0.0) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((n, 12)) * np.linspace(0.5, 2, 12) + shift
    return rows.astype(np.float32)


def score(x: np.ndarray) -> Score:
    return score_of("fld", x, reference=normal(300, 2), training=normal(400, 1))


def test_golden(golden: Golden) -> None:
    """Fresh draws, shifted ones, and copies of training images: where half of the training set is at 0."""
    fresh, shifted = score(normal(200, 3)), score(normal(200, 3, 0.5))
    golden("fld", fresh.value, -0.23757219, abs=1e-3, source=SOURCE)
    golden("fld", shifted.value, 9.8689675, rel=1e-4, source=SOURCE)
    golden("fld, gap", fresh.details["gap"], -2.3732305, rel=1e-3, source=SOURCE)
    golden("fld, gap", shifted.details["gap"], -1.7433763, rel=1e-3, source=SOURCE)
    copies = score(normal(400, 1)[:200])
    golden("fld", copies.value, 1.2567876e8, rel=1e-4, source=SOURCE)
    assert copies.stderr is None


def test_a_feature_that_is_always_the_same_tells_nothing() -> None:
    sides = {"reference": normal(80, 2), "training": normal(90, 1)}
    plain = score_of("fld", normal(40, 3), **sides)
    wide = {side: np.concatenate([rows, np.ones((len(rows), 1), np.float32)], 1) for side, rows in sides.items()}
    found = score_of("fld", np.concatenate([normal(40, 3), np.ones((40, 1), np.float32)], 1), **wide)
    assert found.value == pytest.approx(float(plain.value or 0), abs=2.0)


def test_its_protocol() -> None:
    assert metric_of("fld").constants()["steps"] == 50
