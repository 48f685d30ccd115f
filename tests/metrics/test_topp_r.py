"""TopP and TopR: the authors' package, outliers, spread."""

from __future__ import annotations

import numpy as np
import peers
import pytest
from golden import Golden
from options import metric_of, score_of

from evalkit.errors import ConfigError

SOURCE = "top-pr 0.2.1, run beforehand, features"


def normal(n: int, d: int, seed: int, shift: float = 0.0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal((n, d)) + shift).astype(np.float32)


@pytest.mark.parametrize(
    ("real", "fake", "precision", "recall"),
    [
        ((500, 64, 1), (450, 64, 2, 0.2), 0.9300699300699301, 0.9746300211416491),
        ((400, 48, 3), (400, 48, 4, 0.5), 0.8863636363636364, 0.8743589743589744),
        ((300, 8, 1), (300, 8, 2, 0.5), 0.8146551724137931, 0.7901234567901234),  # not projected; NumPy's seed 42
    ],
)
def test_golden(golden: Golden, real: tuple[int, ...], fake: tuple[int, ...], precision: float, recall: float) -> None:
    y, x = normal(*real), normal(*fake)
    golden("top_precision", score_of("top_precision", x, reference=y).value, precision, rel=1e-9, source=SOURCE)
    golden("top_recall", score_of("top_recall", x, reference=y).value, recall, rel=1e-9, source=SOURCE)


def test_by_its_formula() -> None:
    y, x = normal(120, 6, 5), normal(100, 6, 6, 0.3)
    found = [score_of(name, x, reference=y).value for name in ("top_precision", "top_recall")]
    assert found == pytest.approx(peers.top_pr(y, x), abs=1e-9)


def test_outliers_are_in_no_support() -> None:
    """Of the reference: k-nearest-neighbour precision rises with them, TopP does not."""
    x, y = normal(200, 6, 7, 3.0), normal(200, 6, 8)
    with_outliers = np.concatenate([y[:-6], normal(6, 6, 9, 3.0)])
    plain, held = (score_of("top_precision", x, reference=s).value for s in (y, with_outliers))
    assert plain is not None
    assert held is not None
    assert held <= plain + 0.02
    knn = [score_of("precision", x, reference=s).value for s in (y, with_outliers)]
    assert knn[1] > knn[0] + 0.2


def test_the_error_and_the_notes() -> None:
    y = normal(200, 6, 10)
    found = score_of("top_precision", normal(200, 6, 11, 0.5), text=None, reference=y)
    assert found.stderr is not None
    assert 0.005 < found.stderr < 0.06
    assert 0.5 < found.details["sure"] <= 1
    recall = score_of("top_recall", normal(200, 6, 11, 0.5), reference=y)
    assert recall.stderr is None
    assert "no standard error" in str(recall.note)


def test_options() -> None:
    with pytest.raises(ConfigError, match="alpha=1: must be between 0 and 1"):
        metric_of("top_recall", alpha=1)
    with pytest.raises(ValueError, match="features of 3 dimensions"):
        score_of("top_recall", normal(20, 3, 1), reference=normal(20, 3, 2))
    copies = np.tile(normal(1, 6, 1), (30, 1))
    assert score_of("top_precision", copies, reference=copies).value == pytest.approx(1)
