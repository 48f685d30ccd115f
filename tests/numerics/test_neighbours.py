"""Blockwise distances and kernels: float64 brute force, duplicates and ties, any block size, bounded work space."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from evalkit.numerics import blockwise, distances, neighbours
from evalkit.numerics.balls import meet
from evalkit.numerics.kernels import kernel_product
from evalkit.numerics.neighbours import knn_radii, nearest_in, nearest_others


def features(n: int, d: int, seed: int, shift: float = 0.0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed)) + shift


def brute(x: Tensor, y: Tensor) -> Tensor:
    """Distances f64 [N,M], from differences."""
    return (x.double()[:, None] - y.double()[None]).square().sum(2).sqrt()


def brute_others(x: Tensor) -> Tensor:
    return brute(x, x).fill_diagonal_(float("inf"))


@pytest.fixture(params=[16 * 2**20, 3000])
def block_bytes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """The whole set in one block, and blocks of a few rows with a shorter last one."""
    monkeypatch.setattr(blockwise, "BLOCK_BYTES", request.param)
    return int(request.param)


@pytest.mark.parametrize("shift", [0.0, 5000.0])
def test_nearest_equals_brute_force(block_bytes: int, shift: float) -> None:
    """A common offset of 5000 would leave nothing of a distance, were the mean not taken off first."""
    x, y = features(83, 12, 1, shift), features(61, 12, 2, shift)
    distance, index = nearest_others(x, 5)
    expected = brute_others(x).topk(5, largest=False)
    torch.testing.assert_close(distance, expected.values, rtol=1e-12, atol=0)
    assert torch.equal(index, expected.indices)
    distance, index = nearest_in(x, y, 3)
    expected = brute(x, y).topk(3, largest=False)
    torch.testing.assert_close(distance, expected.values, rtol=1e-12, atol=0)
    assert torch.equal(index, expected.indices)


def test_neighbours_are_kept_while_the_set_lives_and_only_of_that_set() -> None:
    x, y = features(60, 5, 1, 0.0), features(60, 5, 2, 0.0)
    few, many = nearest_others(x, 3), nearest_others(x, 20)
    assert torch.equal(few[0], many[0][:, :3])
    assert not torch.equal(nearest_others(y, 3)[0], few[0])
    x.mul_(2)  # changed in place: what was kept is another set's
    torch.testing.assert_close(nearest_others(x, 3)[0], 2 * few[0], rtol=1e-6, atol=0)
    before = len(neighbours._neighbours)
    del x, y
    nearest_others(features(20, 5, 3, 0.0), 2)
    assert len(neighbours._neighbours) < before


def test_duplicates_count_and_oneself_does_not(block_bytes: int) -> None:
    x = features(40, 6, 3)
    x[7] = x[30]
    distance, index = nearest_others(x, 1)
    assert distance[7] == 0 == distance[30]
    assert index[7] == 30
    assert index[30] == 7
    assert (distance[torch.arange(40) != 7] > 0).sum() == 38
    assert not (index[:, 0] == torch.arange(40)).any()


def test_a_copy_is_at_distance_zero(block_bytes: int) -> None:
    x = features(50, 33, 4, shift=1000.0)
    distance, index = nearest_in(x[[3, 44, 9]], x, 1)
    assert distance[:, 0].tolist() == [0.0, 0.0, 0.0]
    assert index[:, 0].tolist() == [3, 44, 9]


def test_more_neighbours_than_rows() -> None:
    x = features(4, 3, 5)
    assert knn_radii(x, 3).shape == (4,)
    with pytest.raises(ValueError, match="4 nearest others of 4 rows"):
        nearest_others(x, 4)
    with pytest.raises(ValueError, match="5 nearest of 4 rows"):
        nearest_in(x, x, 5)


@pytest.mark.parametrize("scale", [1.0, 1e25, 1e-25])
@pytest.mark.parametrize("gap", [0.0, 1e3, 1e4, 1e6])
def test_tight_clusters_far_from_one_another(block_bytes: int, gap: float, scale: float) -> None:
    """Float32 products leave little of a distance within a cluster, and squares of 1e25 overflow."""
    g = torch.Generator().manual_seed(20)
    x, y = (
        (torch.randn(n, 8, generator=g) + (2 * torch.randint(2, (n, 1), generator=g) - 1) * gap) * scale
        for n in (90, 70)
    )
    distance, index = nearest_others(x, 4)
    expected = brute_others(x).topk(4, largest=False)
    torch.testing.assert_close(distance, expected.values, rtol=1e-12, atol=0)
    torch.testing.assert_close(brute_others(x).gather(1, index), distance, rtol=1e-12, atol=0)  # at 1e6 there are ties
    torch.testing.assert_close(nearest_in(x, y, 3)[0], brute(x, y).topk(3, largest=False).values, rtol=1e-12, atol=0)


def test_features_that_are_not_finite() -> None:
    x, y = features(30, 4, 21), features(30, 4, 22)
    y[7, 2] = y[9, 1] = float("nan")
    for call in (lambda: nearest_in(x, y), lambda: nearest_in(y, x), lambda: knn_radii(y, 3)):
        with pytest.raises(ValueError, match="features of 2 of 30 samples are NaN or infinite \\(the first: row 7\\)"):
            call()


def cubic(a: Tensor, b: Tensor) -> Tensor:
    return (a @ b.T / a.shape[1] + 1) ** 3


def test_kernel_product_equals_brute_force(block_bytes: int) -> None:
    x, y = features(70, 9, 11), features(55, 9, 12)
    weights = (features(55, 4, 13) > 0).float()
    whole = cubic(x.double(), y.double())
    torch.testing.assert_close(kernel_product(x, y, cubic), whole.sum(1), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(kernel_product(x, y, cubic, weights), whole @ weights.double(), rtol=1e-5, atol=1e-5)
    own = cubic(x.double(), x.double())
    torch.testing.assert_close(kernel_product(x, x, cubic), own.sum(1), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(kernel_product(x, x, cubic, x), own @ x.double(), rtol=1e-4, atol=1e-4)


@settings(max_examples=30, deadline=None)
@given(
    n=st.integers(6, 60), m=st.integers(6, 60), d=st.integers(1, 20), k=st.integers(1, 5), size=st.integers(64, 20000)
)
def test_results_do_not_depend_on_the_block_size(n: int, m: int, d: int, k: int, size: int) -> None:
    """Whole numbers from -3 to 3: many duplicates and ties."""
    rng = np.random.default_rng(n * 61 + m)
    x, y = (torch.from_numpy(rng.integers(-3, 4, (r, d)).astype(np.float32)) for r in (n, m))

    def everything() -> list[Tensor]:
        radii = knn_radii(y, k)
        return [
            radii,
            nearest_in(x, y, k)[0],
            meet(x, y, k, closed=False).x_in_y.balls,  # type: ignore[union-attr]
            kernel_product(x, y, lambda a, b: (a @ b.T).square()),
        ]

    whole = everything()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blockwise, "BLOCK_BYTES", size)
        for got, expected in zip(everything(), whole, strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-6, atol=0)  # all are sums of positive terms


class Largest(TorchDispatchMode):
    """The number of bytes of the largest tensor that any operation gives."""

    size = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, Tensor) and tensor._base is None:  # a view takes no memory
                self.size = max(self.size, tensor.untyped_storage().nbytes())
        return result


def test_no_temporary_grows_with_both_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    """3,000 x 3,000 f32 distances would take 36 MB. Blocks are set to 256 kB; a row's few results are larger."""
    monkeypatch.setattr(blockwise, "BLOCK_BYTES", 2**18)
    monkeypatch.setattr(distances, "PAIR_BYTES", 2**18)
    n, k = 3000, 5
    x, y = features(n, 16, 14), features(n, 16, 15)
    with Largest() as largest:
        meet(x, y, k, closed=False)
        nearest_in(x, y, 2)
        kernel_product(x, y, cubic)
    per_row = n * (k + neighbours.SPARE) * 8
    assert 2**17 < largest.size <= max(2**18, per_row)


def test_precision_setting_is_put_back() -> None:
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        x = features(300, 64, 16)
        expected = brute_others(x).topk(2, largest=False).values
        torch.testing.assert_close(nearest_others(x, 2)[0], expected, rtol=1e-12, atol=0)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_same_on_the_gpu() -> None:
    x, y = features(500, 32, 17), features(400, 32, 18)
    radii = knn_radii(y, 3)
    torch.testing.assert_close(knn_radii(y.cuda(), 3).cpu(), radii, rtol=1e-12, atol=0)
    theirs, ours = (meet(a, b, 3, closed=True).x_in_y for a, b in ((x.cuda(), y.cuda()), (x, y)))
    assert theirs is not None
    assert ours is not None
    assert torch.equal(theirs.balls.cpu(), ours.balls)
