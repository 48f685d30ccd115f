"""Does a generator copy its training set? AuthPct, C_T, and each sample's nearest training image.

AuthPct: Alaa et al. 2022, arXiv:2102.08921, as in dgm-eval (`authpct.py`). C_T: Meehan et al. 2020, arXiv:2004.05675;
the statistic of casey-meehan/data-copying, in the cells and components of dgm-eval (`ct.py`). Memorised samples: the
criterion of Yoon et al. 2023 and of Gu et al. 2023, arXiv:2310.02664 (sail-sg/DiffMemorize, `mem_ratio.py`).

Standard errors are those of drawing other generated samples; training and held-out images are held fixed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from evalkit.metric import KeepsFeatures, ReferenceMetric, Rows, Score, mean_score, with_error
from evalkit.numerics.blockwise import finite_mean
from evalkit.numerics.neighbours import nearest_in, nearest_others
from evalkit.numerics.threads import gram, one_blas_thread, one_thread, product

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

STARTS = 10  # of k-means, as in dgm-eval; the best is kept
STEPS = 50
BLOCK = 2048  # rows in float64 at a time


@dataclass(eq=False)
class _Training(KeepsFeatures, ReferenceMetric[Rows]):
    """What the three share.

    Args:
        features: the address of the features, f32 [B,D].
    """

    features: str = "inception/pool3"

    needs = (features,)
    on_device = True
    sides: ClassVar[tuple[str, ...]] = ("training",)

    def __post_init__(self) -> None:
        self.needs = (self.features,)


class AuthPct(_Training):
    """0 (all copies) to 100: the percentage of authentic samples, higher is better.

    A sample is authentic if its nearest training image is nearer to another training image than to the sample. Fresh
    draws of the training distribution give 60 (8 dimensions) to 90, so what counts is how far a model is below others.
    """

    title = "AuthPct"
    better = "higher"
    per_sample = True

    def constants(self) -> dict[str, Any]:
        return {"estimator": "100 mean[d(nearest, its own nearest) < d(sample, nearest)]"}

    def score(self, *, generated: Rows, training: Rows) -> Score:
        known = training[self.features]  # f32 [M,D]
        distance, index = nearest_in(generated[self.features], known)  # f64 [N,1], i64 [N,1]
        authentic = nearest_others(known, 1)[0][index[:, 0], 0] < distance[:, 0]
        return mean_score(100 * authentic.double(), generated.clusters)


@dataclass(eq=False)
class NearestTraining(_Training):
    """The share of memorised samples, 0 to 1, lower is better; `nearest` holds the most suspicious pairs.

    A sample is memorised if its distance to the nearest training image is below `ratio` times that to the second
    nearest, or is 0. Pairs are in order of that ratio. An image that the training set holds twice, or nearly so, hides
    its copies from this criterion unless they are exact.

    Args:
        ratio: 0 to 1.
        top: the most pairs to show.
    """

    ratio: float = 1 / 3
    top: int = 32

    title = "memorised"
    better = "lower"
    per_sample = True

    def constants(self) -> dict[str, Any]:
        return {"estimator": "share of d(sample, nearest) < ratio d(sample, second nearest)", "ratio": self.ratio}

    def score(self, *, generated: Rows, training: Rows) -> Score:
        distance, index = nearest_in(generated[self.features], training[self.features], k=2)  # f64, i64 [N,2]
        ratios = distance[:, 0] / distance[:, 1].clamp(min=1e-300)  # 0 where both are 0
        first = ratios.argsort(stable=True)[: self.top].cpu()
        index, distance = index[:, 0].cpu()[first], distance[:, 0].cpu()[first]  # `Rows.index` may lie elsewhere
        columns = (generated.index.cpu()[first], training.index.cpu()[index], distance)
        nearest = tuple(zip(*(column.tolist() for column in columns), strict=True))
        return replace(mean_score((ratios < self.ratio).double(), generated.clusters), nearest=nearest)


@dataclass(frozen=True)
class _Cells:
    """What is made of the training set alone: a projection, a partition, and the training images in it."""

    mean: Tensor  # f64 [D]
    axes: Tensor  # f64 [D,C]
    centres: Tensor  # f64 [K,C]
    x: Tensor  # f64 [M,C], the projected training images
    cell: Tensor  # i64 [M]

    def place(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """f32 [N,D] -> f64 [N,C], and the cell of each, i64 [N]."""
        projected = project(features, self.mean, self.axes)
        return projected, nearest_in(projected, self.centres)[1][:, 0]


@dataclass(eq=False)
class DataCopying(_Training):
    """C_T: below 0 the samples are nearer to the training images than held-out images are (copying), above 0 farther.

    In each cell of a k-means partition of the training set, a Mann-Whitney test of the samples' distances to their
    nearest training image against the held-out images', as a z-score; the mean over cells, weighted by the share of
    held-out images. The reference must be held-out images of the training distribution.

    The standard error holds the cells' numbers of samples fixed. In simulation 0.9 to 1.1 times the true spread where
    C_T is within 5 of 0; too small where nearly all samples are copies, since those numbers alone vary there.

    Args:
        cells: number of cells, 1 upwards.
        components: features of more dimensions are projected on this many principal components of the training set.
        more_than: a cell counts if it holds more generated samples than this.
        seed: of k-means.
    """

    cells: int = 3
    components: int = 64
    more_than: int = 20
    seed: int = 2020

    title = "C_T"
    better = "higher"
    sides = ("reference", "training")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.min_samples, self.min_reference = self.more_than + 1, max(self.cells, 2)
        self._known: tuple[Rows, _Cells] | None = None

    def constants(self) -> dict[str, Any]:
        values = {name: getattr(self, name) for name in ("cells", "components", "more_than", "seed")}
        return {"estimator": "mean z of Mann-Whitney tests in k-means cells", **values}

    def score(self, *, generated: Rows, reference: Rows, training: Rows) -> Score:
        import torch

        if self._known is None or self._known[0] is not training:
            self._known = (training, partition(training[self.features], self.cells, self.components, self.seed))
        cells = self._known[1]
        (g, of_g), (held_out, of_held_out) = (cells.place(s[self.features]) for s in (generated, reference))
        tests: list[tuple[int, float]] = []  # of each cell: held-out images, z
        influence = torch.zeros(len(g), dtype=torch.float64)
        for c in range(self.cells):
            mine, theirs, train = g[of_g == c], held_out[of_held_out == c], cells.x[cells.cell == c]
            if len(mine) <= self.more_than or len(theirs) == 0 or len(train) == 0:
                continue
            distances = (nearest_in(images, train)[0][:, 0] for images in (mine, theirs))
            z, parts = mann_whitney(*distances)
            tests.append((len(theirs), z))
            influence[(of_g == c).cpu()] = len(g) * len(theirs) * parts.cpu()
        if not tests:
            note = f"no cell holds more than {self.more_than} samples, and held-out images: raise num_samples"
            return Score(None, len(g), note=note)
        held_out_images = sum(w for w, _ in tests)
        value = sum(w * z for w, z in tests) / held_out_images
        details = {"cells": float(len(tests)), "lowest": min(z for _, z in tests)}
        return with_error(Score(value, len(g), details=details), influence / held_out_images, generated.clusters)


def mann_whitney(a: Tensor, b: Tensor) -> tuple[float, Tensor]:
    """The z-score of `a` being greater than `b`, f64 [m] and [n], and what each of `a` adds to it, less the mean: [m].

    U counts the pairs with a > b (a tie is half a pair): n times the sum over `a` of the share of `b` that is smaller.
    """
    import torch

    m, n = len(a), len(b)
    b = b.sort().values
    smaller = (torch.searchsorted(b, a) + torch.searchsorted(b, a, right=True)).double() / (2 * n)  # [m]
    spread = (n * m * (n + m + 1) / 12) ** 0.5
    z = (n * float(smaller.sum()) - (n * m / 2 - 0.5)) / spread  # 0.5: the reference's continuity correction
    return z, n * (smaller - smaller.mean()) / spread


def partition(x: Tensor, cells: int, components: int, seed: int) -> _Cells:
    """Principal components of the training features f32 [M,D] where D exceeds their number, and k-means on them."""
    import numpy as np
    import torch

    mean = finite_mean(x)
    axes = torch.eye(x.shape[1], dtype=torch.float64, device=x.device)
    if x.shape[1] > components:
        blocks = (rows.double() - mean for rows in torch.split(x, BLOCK))
        with one_thread():
            axes = torch.linalg.eigh(sum((gram(b) for b in blocks), axes * 0))[1][:, -components:]  # ascending
    projected = project(x, mean, axes)
    data = projected.cpu().numpy()
    rngs = (np.random.default_rng([seed, start]) for start in range(STARTS))
    with one_blas_thread():
        runs = [_clustered(data, cells, rng) for rng in rngs]
    best, _ = min(runs, key=lambda run: float(np.square(data - run[0][run[1]]).sum()))
    centres = torch.from_numpy(best).to(x.device)
    return _Cells(mean, axes, centres, projected, nearest_in(projected, centres)[1][:, 0])


def _clustered(data: NDArray[np.float64], cells: int, rng: np.random.Generator) -> tuple[Any, Any]:
    """`STEPS` steps of k-means on [M,C], the centres and each row's cell; it ends where a further step changes none."""
    import numpy as np
    from scipy.cluster.vq import kmeans2

    few = 5  # divides STEPS
    centres, cell = kmeans2(data, cells, iter=few, minit="++", seed=rng)
    for _ in range(STEPS // few - 1):
        before = centres
        centres, cell = kmeans2(data, before, iter=few, minit="matrix")
        if np.array_equal(before, centres):
            break
    return centres, cell


def project(x: Tensor, mean: Tensor, axes: Tensor) -> Tensor:
    """f32 [N,D] -> f64 [N,C], in blocks: distances are kept, but for what lies outside the axes."""
    import torch

    return torch.cat([product(rows.double() - mean, axes) for rows in torch.split(x, BLOCK)])
