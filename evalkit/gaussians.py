"""Gaussians that stand for sets of features: their moments, from sums, and the root term of their Frechet distance.

A leaf that metric plugins may import. Conventions of TTUR and torch-fidelity 0.4.0 (`metric_fid.py`), in float64.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor


class NamedSums(Protocol):
    """`evalkit.metric.Sums`, or any mapping of tensors."""

    def __getitem__(self, name: str, /) -> Tensor: ...


def moments(sums: NamedSums, ddof: int = 1) -> tuple[Tensor, Tensor]:
    """Mean f64 [D] and covariance f64 [D,D] of the sums n, sum [D] and outer [D,D]; ddof=1 divides by n - 1."""
    n, mean = sums["n"], sums["sum"] / sums["n"]
    return mean, (sums["outer"] - n * mean.outer(mean)) / (n - ddof)


def root_trace(cov1: Tensor, cov2: Tensor, rank1: int, rank2: int) -> Tensor:
    """Tr((S1 S2)^(1/2)) of two positive semi-definite matrices f64 [D,D] of at most these ranks.

    With S1 = A A', it is the sum of the square roots of the eigenvalues of A' S2 A: A from Cholesky (against the peers'
    ways: tests/bench/bench_frechet.py), or from the eigenvectors where S1 is singular. Eigenvalues beyond the rank are
    rounding alone, and count as zero.
    """
    import torch

    factor, failed = torch.linalg.cholesky_ex(cov1)
    if failed or rank1 < len(cov1):
        values, vectors = torch.linalg.eigh(cov1)  # ascending
        factor = (vectors * values.clamp(min=0).sqrt())[:, -rank1:]  # [D,min(D,rank1)]
    spectrum: Tensor = torch.linalg.eigvalsh(factor.T @ cov2 @ factor)
    return spectrum[-rank2:].clamp(min=0).sqrt().sum()


def transport(cov1: Tensor, cov2: Tensor) -> Tensor:
    """The optimal transport map T from N(0, S1) to N(0, S2), f64 [D,D]: T S1 T = S2, where S1 is not zero.

    With S1 = A A', it is A^-T (A' S2 A)^(1/2) A^-1; directions in which S1 has nothing but rounding are left out.
    """
    import torch

    values, vectors = torch.linalg.eigh(cov1)  # ascending
    kept = values > values[-1] * len(values) * torch.finfo(values.dtype).eps
    spread, basis = values[kept].sqrt(), vectors[:, kept]  # [K], [D,K]
    inner, rotation = torch.linalg.eigh((basis * spread).T @ cov2 @ (basis * spread))
    root = (rotation * inner.clamp(min=0).sqrt()) @ rotation.T  # [K,K]
    back = basis / spread  # [D,K]: A^-T
    found: Tensor = back @ root @ back.T
    return found
