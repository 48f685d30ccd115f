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
    import torch

    n, mean = sums["n"], sums["sum"] / sums["n"]
    cov = torch.addr(sums["outer"], mean, mean, alpha=-float(n))  # one matrix: at D = 2048 each takes 34 MB
    return mean, cov.div_(n - ddof)


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


def transport_root(cov1: Tensor, cov2: Tensor) -> tuple[Tensor, Tensor]:
    """The optimal transport map T from N(0, S1) to N(0, S2), as f64 W [D,K] with T = W W', and Tr(T S1).

    T S1 T = S2, where S1 is not zero. With S1 = A A' and A' S2 A = Q E Q', it is T = A^-T Q E^(1/2) Q' A^-1, and
    Tr(T S1) the sum of E^(1/2); directions in which S1 has nothing but rounding are left out. W is enough for y'Ty, and
    made in place: few matrices of D x D stand at a time.
    """
    import torch

    values, basis = torch.linalg.eigh(cov1)  # ascending
    kept = values > values[-1] * len(values) * torch.finfo(values.dtype).eps
    values = values[kept]
    basis = basis[:, kept].mul_(values.sqrt())  # [D,K]: A
    middle = basis.T @ (cov2 @ basis)  # [K,K]
    inner, rotation = torch.linalg.eigh(middle)
    inner = inner.clamp_(min=0).sqrt_()
    back = basis.div_(values)  # [D,K]: A^-T
    return back @ rotation.mul_(inner.sqrt()), inner.sum()
