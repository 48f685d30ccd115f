"""Gaussians that stand for sets of features: their moments, and the root term of their Frechet distance.

Conventions of TTUR and torch-fidelity 0.4.0 (`metric_fid.py`), in float64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from evalkit.metric import Sums
from evalkit.numerics.blockwise import finite_mean
from evalkit.numerics.threads import gram, one_blas_thread, one_thread, product

if TYPE_CHECKING:
    from torch import Tensor

LOG_RANGE = (-30.0, 14.0)  # of the nodes, in units of the largest eigenvalue: the rest is below 1e-6 of the integral
NODES = 45  # one apart: the rule errs by exp(-2 pi^2)


class Scatter(Sums):
    """Of n rows, their mean f64 [D] and scatter f64 [D,D], the sum of (x - mean)(x - mean)'.

    `a + b` is exact in any order (Chan, Golub and LeVeque 1983). Plain sums of xx' would cancel where a mean is many
    times its spread: at 1e6 times, of a Frechet distance three digits are left.
    """

    def __add__(self, other: Sums) -> Scatter:
        n, m = self["n"], other["n"]
        step = other["mean"] - self["mean"]
        scatter = self["scatter"] + other["scatter"]
        scatter.addr_(step, step, alpha=float(n * m / (n + m)))  # in place: at D = 2048 a matrix takes 34 MB
        return Scatter({"n": n + m, "mean": self["mean"] + step * (m / (n + m)), "scatter": scatter})


def scatter_of(x: Tensor) -> Scatter:
    """Of features f32 or f64 [N,D], N of 1 or more.

    Raises:
        ValueError: features that are not finite.
    """
    import torch

    finite_mean(x)
    y = x.double()  # f64 [N,D]
    mean = y.mean(0)
    y = y - mean
    return Scatter({"n": torch.tensor(float(len(x))).double(), "mean": mean, "scatter": gram(y)})


def moments(sums: Sums, ddof: int = 1) -> tuple[Tensor, Tensor]:
    """Mean f64 [D] and covariance f64 [D,D] of a `Scatter`; ddof=1 divides by n - 1."""
    return sums["mean"], sums["scatter"] / (sums["n"] - ddof)


def root_trace(cov1: Tensor, cov2: Tensor, rank1: int, rank2: int) -> Tensor:
    """Tr((S1 S2)^(1/2)) of two positive semi-definite matrices f64 [D,D] of at most these ranks.

    With S1 = A A', it is the sum of the square roots of the eigenvalues of A' S2 A, the smaller the lower the rank of
    S1: so the two change places where S2's is lower. A comes from Cholesky (against the peers' ways:
    tests/bench/bench_frechet.py). Eigenvalues beyond the other's rank are rounding alone, and count as zero.
    Both matrices may be overwritten.
    """
    import torch

    if rank2 < rank1:
        cov1, cov2, rank1, rank2 = cov2, cov1, rank2, rank1
    factor = _factor(cov1, rank1)
    with one_thread():
        spectrum: Tensor = torch.linalg.eigvalsh(_seen_from(factor, cov2))
    return spectrum[-rank2:].clamp(min=0).sqrt().sum()


def _factor(cov: Tensor, rank: int) -> Tensor:
    """A f64 [D,K] with A A' = S and K <= rank; of a singular S by pivots, so that rounding stays small.

    Eigenvectors times the roots of eigenvalues would cost more, and be off where the spectrum is steep: the error of a
    small eigenvalue is that of the largest (tests/metrics/test_frechet.py has such spectra).
    """
    import torch
    from scipy.linalg import lapack

    if rank >= len(cov):
        whole: Tensor
        with one_thread():
            whole, failed = torch.linalg.cholesky_ex(cov)
        if not failed:
            return whole
    with one_blas_thread():  # S[order,order] = L L', from 1 on
        packed, order, found, _ = lapack.dpstrf(cov.cpu().numpy(), lower=1, tol=0.0)
    factor = torch.empty(len(cov), min(rank, found), dtype=cov.dtype)
    factor[torch.from_numpy(order).long() - 1] = torch.from_numpy(packed)[:, : factor.shape[1]].tril()
    return factor.to(cov.device)


@dataclass(frozen=True)
class Seen:
    """A covariance S1 as another one, S2, sees it: with S2 = B B', B'S1 B is diagonal.

    Attributes:
        values: f64 [K], that diagonal L; the sum of its roots is Tr((S1 S2)^(1/2)).
        basis: f64 [D,K], B. The optimal transport map from N(0, S1) to N(0, S2) is B L^(-1/2) B'.
    """

    values: Tensor
    basis: Tensor

    @classmethod
    def of(cls, cov1: Tensor, cov2: Tensor, rank2: int) -> Seen:
        """Of covariances f64 [D,D], the second one of at most this rank; both are overwritten."""
        factor = _factor(cov2, rank2)
        values, rotation = _eigen(_seen_from(factor, cov1))
        return cls(values.clamp_(min=0), product(factor, rotation))

    def without(self, y: Tensor, share: float) -> tuple[Tensor, Tensor]:
        """How the root term Tr((S1 S2)^(1/2)) changes with single samples: the slope, and what it is without one.

        With z = B'y, the eigenvalues of L - share zz' are wanted for each sample alone: the sum of their roots is an
        integral of the determinant, whose change a rank of one makes simple,
            Tr (L - s zz')^(1/2) - Tr L^(1/2) = 1/(2 pi) integral over t of t^(-1/2) log(1 - s sum z^2 / (L + t)).
        By the trapezoidal rule in log t it is good to 1e-7: as many products again as `NODES`.

        Args:
            y: f64 [B,D], samples less the mean.
            share: what a sample's yy' has in S1: without it, S1 is S1 - share yy', up to a factor.

        Returns:
            y'Ty, f64 [B], T the transport map; the change of the root term, f64 [B], not above 0.
        """
        import torch

        top = float(self.values[-1])
        kept = self.values > top * len(self.values) * torch.finfo(self.values.dtype).eps  # rounding alone elsewhere
        values = self.values.where(kept, torch.ones_like(self.values))
        steps = torch.linspace(*LOG_RANGE, NODES, dtype=values.dtype, device=values.device)
        nodes = top * steps.exp()  # f64 [T]
        table = torch.cat([values.rsqrt()[:, None], 1 / (values[:, None] + nodes)], 1)  # f64 [K,1+T]
        sums = product(y, self.basis).square_() @ table.mul_(kept[:, None])  # f64 [B,1+T]
        slope, inner = sums[:, 0], sums[:, 1:].mul_(share)
        curved = torch.log1p(-inner.clamp(max=1 - 1e-12)).add_(inner)  # its linear part is -share/2 y'Ty
        change = curved @ nodes.sqrt() * float(steps[1] - steps[0]) / (2 * math.pi)
        return slope, change.sub_(slope, alpha=share / 2)


def _seen_from(factor: Tensor, cov2: Tensor) -> Tensor:
    """A' S2 A f64 [K,K] of A [D,K], in the memory of S2: at D = 2048 a matrix takes 34 MB, and few stand at a time."""
    rank = factor.shape[1]
    middle: Tensor = cov2.contiguous().view(-1)[: rank * rank].view(rank, rank)
    return product(factor.T, product(cov2, factor), out=middle)


def _eigen(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues, ascending, and eigenvectors of a symmetric matrix, in its own memory (torch's eigh makes a copy)."""
    import torch
    from scipy.linalg import eigh

    if matrix.is_cuda:
        whole: tuple[Tensor, Tensor] = torch.linalg.eigh(matrix)
        return whole
    with one_blas_thread():
        values, vectors = eigh(matrix.numpy().T, driver="evd", overwrite_a=True, check_finite=False)
    return torch.from_numpy(values), torch.from_numpy(vectors)
