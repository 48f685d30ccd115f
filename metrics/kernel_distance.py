"""Kernel distance between two sets of features: KID on Inception's pool3.

Binkowski et al. 2018, arXiv:1801.01401. Conventions of torch-fidelity 0.4.0 (`metric_kid.py`): the mean over 100
subsets of 1000, drawn without replacement by RandomState(2020), generated before reference, of the unbiased squared MMD
with the kernel (x.y/d + 1)^3; spread over subsets with ddof=0. Equal to it to 1e-6 on the same features. With `clamp`,
a subset is no larger than the smaller set, as in clean-fid and stylegan3 (which draw without a seed).

Standard error: of drawing other generated samples and other subsets, the reference held fixed. The variance of the full
U-statistic (`evalkit.numerics.kernels.mmd_spread`) plus the observed variance of the subsets over their number: given
the samples, they are independent draws whose mean is the full U-statistic. In simulation 0.9 to 1.1 times the true
spread, also where both sets have the same distribution. Samples of one prompt count as one cluster in it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from evalkit.metric import KeepsFeatures, ReferenceMetric, Rows, Score
from evalkit.numerics.blockwise import full_float32
from evalkit.numerics.kernels import kernel_diagonal, kernel_product, mmd_spread
from evalkit.numerics.threads import in_parallel

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(eq=False)
class KernelDistance(KeepsFeatures, ReferenceMetric[Rows]):
    """Unbiased, so it may fall a little below 0 for equal distributions; lower is better.

    Args:
        features: the address of the features, f32 [B,D].
        subsets: number of subsets, 1 upwards.
        subset_size: samples of each set in a subset, 2 upwards.
        seed: of the drawing of subsets.
        clamp: whether smaller sets make smaller subsets; if not, they are refused.
    """

    features: str = "inception/pool3"
    subsets: int = 100
    subset_size: int = 1000
    seed: int = 2020
    clamp: bool = False

    title = "KID"
    better = "lower"
    needs = (features,)
    on_device = True

    def __post_init__(self) -> None:
        if self.subsets < 1 or self.subset_size < 2:
            raise ValueError(f"subsets={self.subsets}, subset_size={self.subset_size}: must be at least 1 and 2")
        self.needs = (self.features,)
        self.min_samples = self.min_reference = 4 if self.clamp else self.subset_size

    def constants(self) -> dict[str, Any]:
        estimator = {"estimator": "unbiased squared MMD, mean over subsets", "kernel": "(x.y/d + 1)^3"}
        values = {"subsets": self.subsets, "subset_size": self.subset_size, "clamp": self.clamp}
        return {**estimator, **values, "draws": f"RandomState({self.seed})"}

    def score(self, *, generated: Rows, reference: Rows) -> Score:
        import numpy as np
        import torch

        x, y = generated[self.features], reference[self.features]  # f32 [N,D], [M,D]
        n, size = len(x), min(self.subset_size, len(x), len(y))
        rng = np.random.RandomState(self.seed)
        picks = [[rng.choice(len(s), size, replace=False) for s in (x, y)] for _ in range(self.subsets)]
        of_x, of_y = ([torch.from_numpy(pick[side]).to(x.device) for pick in picks] for side in (0, 1))
        within = sum(
            subset_sums(s, s, of, of) - torch.stack([diagonal[i].sum() for i in of])
            for s, of, diagonal in ((x, of_x, kernel_diagonal(x, cubic)), (y, of_y, kernel_diagonal(y, cubic)))
        )  # f64 [subsets]
        across = subset_sums(x, y, of_x, of_y)
        values = within / (size * (size - 1)) - 2 * across / size**2
        std = float(values.std(correction=0))
        spread = mmd_spread(x, y, cubic, self.seed, clusters=generated.clusters)
        stderr = None if spread.variance is None else (spread.variance + std**2 / self.subsets) ** 0.5
        share = torch.cat(of_x).bincount(minlength=n) * (n / (size * self.subsets))  # [N], 1 on average
        influence = share * (spread.influence - spread.influence.mean())  # a sample that no subset drew moves nothing
        details = {"std": std, "subsets": float(self.subsets), "subset_size": float(size)}
        return Score(float(values.mean()), n, stderr, tuple(influence.tolist()), details, clusters=spread.clusters)


def cubic(a: Tensor, b: Tensor) -> Tensor:
    """(a.b/d + 1)^3 of f32 [A,D] and f32 [B,D]: f32 [A,B]."""
    return (a @ b.T).div_(a.shape[1]).add_(1).pow_(3)


def subset_sums(x: Tensor, y: Tensor, of_x: list[Tensor], of_y: list[Tensor]) -> Tensor:
    """Sums of the kernel over all pairs of each subset, f64 [S].

    Where all pairs are fewer than those of all subsets together, each is computed once, and added up by a product with
    the subsets' indicators.

    Args:
        x: f32 [N,D].
        y: f32 [M,D], or x itself.
        of_x, of_y: the subsets, each i64 [size], rows of x and of y.
    """
    import torch

    if len(x) * len(y) < len(of_x) * len(of_x[0]) ** 2:
        sums: Tensor = (kernel_product(x, y, cubic, _indicators(of_y, y)) * _indicators(of_x, x)).sum(0)
        return sums
    pairs = zip(of_x, of_y, strict=True)
    if x.device.type != "cpu":
        return torch.stack([kernel_product(x[i], y[j], cubic).sum() for i, j in pairs])
    with full_float32():  # a setting of the process, which no piece may put back before the others
        return torch.stack(list(in_parallel(lambda at: kernel_product(x[at[0]], y[at[1]], cubic).sum(), pairs)))


def _indicators(subsets: list[Tensor], x: Tensor) -> Tensor:
    """f32 [N,S]: 1 where a row belongs to a subset."""
    import torch

    marks = torch.zeros((len(x), len(subsets)), device=x.device)
    for s, rows in enumerate(subsets):
        marks[rows, s] = 1
    return marks
