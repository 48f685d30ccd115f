"""SWD: SciPy's filters and distances, identity, textures, spread, sizes that it does not take."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from golden import Golden, peer
from options import metric_of
from scipy.ndimage import convolve
from scipy.stats import wasserstein_distance

from evalkit.metric import Batch, Rows, Score
from evalkit.metrics import swd
from evalkit.metrics.swd import DIRECTIONS, laplacian_pyramid, patches, scaled


def images(n: int, side: int, seed: int, levels: int = 256) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, levels, (n, 3, side, side), dtype=np.uint8))


def state(x: torch.Tensor) -> Rows:
    found: Rows = metric_of("swd").observe(Batch(x, torch.arange(len(x)), len(x), [None] * len(x), {}))
    return found


def score(x: torch.Tensor, y: torch.Tensor) -> Score:
    found: Score = metric_of("swd").score(generated=state(x), reference=state(y))
    return found


def pyramid(x: np.ndarray) -> list[np.ndarray]:
    """As the authors build it, by SciPy's convolution with mirrored edges."""
    kernel = np.outer([1, 4, 6, 4, 1], [1, 4, 6, 4, 1])[None, None] / 256
    levels = [x.astype(np.float64)]
    while levels[-1].shape[-1] > 16:
        small = convolve(levels[-1], kernel, mode="mirror")[:, :, ::2, ::2]
        spread = np.zeros_like(levels[-1])
        spread[:, :, ::2, ::2] = small
        levels[-1] = levels[-1] - convolve(spread, 4 * kernel, mode="mirror")
        levels.append(small)
    return levels


def test_golden(golden: Golden) -> None:
    x, y = images(4, 32, 1), images(4, 32, 2, 200)
    for mine, theirs in zip(laplacian_pyramid(x.float(), 32), pyramid(x.numpy()), strict=True):
        assert mine.numpy() == pytest.approx(theirs, abs=1e-3)
    drawn = torch.randn(DIRECTIONS, 147, generator=torch.Generator().manual_seed(2020)).double()
    directions = (drawn / drawn.norm(dim=1, keepdim=True)).numpy()[:]
    values = []
    for levels in zip(pyramid(x.numpy()), pyramid(y.numpy()), strict=True):
        a, b = (
            scaled(patches(torch.from_numpy(level).float(), list(range(4)), 2020)).double().numpy() @ directions.T
            for level in levels
        )
        values.append(1000 * np.mean([wasserstein_distance(a[:, k], b[:, k]) for k in range(DIRECTIONS)]))
    source = f"{peer('scipy')}: convolve and wasserstein_distance, images"
    found = score(x, y)
    golden("swd", found.value, float(np.mean(values)), rel=1e-4, source=source)
    assert list(found.details.values()) == pytest.approx(values, rel=1e-4)
    assert list(found.details) == ["32 px", "16 px"]


def test_equal_sets_and_order() -> None:
    """Patches go by a sample's index, so that a set is at 0 from itself; batches may come in any order."""
    x = images(6, 16, 3)
    assert score(x, x).value == pytest.approx(0, abs=1e-2)
    metric = metric_of("swd")
    parts = [
        metric.observe(Batch(x[part], torch.arange(6)[part], 6, [None] * 3, {})) for part in (slice(3, 6), slice(0, 3))
    ]
    assert torch.equal((parts[0] + parts[1])["16"], state(x)["16"])


def test_smoother_images_are_farther() -> None:
    """A texture that is lost shows at the finest level: the more, the farther."""
    x = images(8, 16, 4)
    flat = x.float().mean((2, 3), keepdim=True)
    values = [score((x * (1 - share) + flat * share).round().byte(), x).details["16 px"] for share in (0, 0.5, 0.95)]
    assert all(a <= b for a, b in pairwise(values))


def test_the_standard_error_is_that_of_redrawing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(swd, "DIRECTIONS", 32)
    rng = np.random.default_rng(5)

    def drawn(n: int, gain: float) -> torch.Tensor:
        ramp = np.linspace(0, 100, 16)[None, None, None, :] * rng.uniform(0, gain, (n, 1, 1, 1))
        return torch.from_numpy((80 + ramp + rng.integers(0, 20, (n, 3, 16, 16))).clip(0, 255).astype(np.uint8))

    reference = drawn(48, 1.0)
    found = [score(drawn(48, 0.6), reference) for _ in range(15)]
    spread = np.std([each.value for each in found], ddof=1)
    assert 0.6 < np.mean([each.stderr for each in found]) / spread < 2


def test_what_it_does_not_take() -> None:
    with pytest.raises(ValueError, match="images of 24 x 24: SWD takes squares of 16, 32, 64"):
        state(images(2, 24, 1))
    with pytest.raises(ValueError, match="samples have 16 pixels on a side, the reference 32"):
        score(images(2, 16, 1), images(2, 32, 1))
