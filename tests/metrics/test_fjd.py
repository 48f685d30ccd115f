"""FJD: FID of joined features, alpha, images that show what others were asked for."""

from __future__ import annotations

import numpy as np
import peers
import pytest
from golden import Golden
from options import metric_of, score_of

from evalkit.errors import ConfigError


def sides(seed: int, n: int, shift: float = 0.0) -> dict[str, np.ndarray]:
    """Images that follow their conditions."""
    rng = np.random.default_rng(seed)
    condition = rng.standard_normal((n, 3)).astype(np.float32)
    image = np.concatenate([condition, 0.5 * rng.standard_normal((n, 2))], 1) + 1 + shift
    return {"inception/pool3": image.astype(np.float32), "clip_vit_l14/text": condition}


def joined(x: dict[str, np.ndarray], alpha: float) -> np.ndarray:
    return np.concatenate([x["inception/pool3"], alpha * x["clip_vit_l14/text"]], 1)


def test_golden(golden: Golden) -> None:
    x, y = sides(1, 90, 0.2), sides(2, 80)
    lengths = [np.linalg.norm(side, axis=1).mean() for side in y.values()]
    found = score_of("fjd", x, reference=y)
    source = "facebookresearch/fjd's formula in float64, features"
    alpha = float(lengths[0] / lengths[1])
    golden("fjd", found.value, peers.frechet(joined(x, alpha), joined(y, alpha)), rel=1e-5, source=source)
    assert found.details["alpha"] == pytest.approx(alpha)
    given = score_of("fjd", x, {"alpha": 0.7}, reference=y)
    golden("fjd", given.value, peers.frechet(joined(x, 0.7), joined(y, 0.7)), rel=1e-5, source=source)


def test_at_0_it_is_fid() -> None:
    x, y = sides(3, 60), sides(4, 70)
    plain = score_of("fid", x["inception/pool3"], reference=y["inception/pool3"])
    assert score_of("fjd", x, {"alpha": 0}, reference=y).value == pytest.approx(plain.value, abs=1e-5)


def test_swapped_images_are_far() -> None:
    """The images as a set are the same; each shows what another was asked for."""
    x, y = sides(5, 200), sides(6, 200)
    swapped = x | {"inception/pool3": np.roll(x["inception/pool3"], 1, axis=0)}
    right, wrong = (score_of("fjd", side, text=None, reference=y) for side in (x, swapped))
    assert right.value is not None
    assert wrong.value is not None
    assert wrong.value > 10 * right.value
    assert right.stderr is not None


def test_options() -> None:
    assert metric_of("fjd").needs_prompts
    with pytest.raises(ConfigError, match="alpha=-1: must be 0 or more"):
        metric_of("fjd", alpha=-1)
