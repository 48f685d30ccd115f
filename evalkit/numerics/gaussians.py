"""Gaussians that stand for sets of features: their moments, from sums, and the root term of their Frechet distance.

Conventions of TTUR and torch-fidelity 0.4.0 (`metric_fid.py`), in float64.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from evalkit.metric import Sums


def moments(sums: Sums | Mapping[str, Tensor], ddof: int = 1) -> tuple[Tensor, Tensor]:
    """Mean f64 [D] and covariance f64 [D,D] of the sums n, sum [D] and outer [D,D]; ddof=1 divides by n - 1."""
    import torch

    n, mean = sums["n"], sums["sum"] / sums["n"]
    cov = torch.addr(sums["outer"], mean, mean, alpha=-float(n))  # one matrix: at D = 2048 each takes 34 MB
    return mean, cov.div_(n - ddof)


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
        whole, failed = torch.linalg.cholesky_ex(cov)
        if not failed:
            return whole
    packed, order, found, _ = lapack.dpstrf(cov.numpy(), lower=1, tol=0.0)  # S[order,order] = L L'; order from 1
    factor = torch.empty(len(cov), min(rank, found), dtype=cov.dtype)
    factor[torch.from_numpy(order).long() - 1] = torch.from_numpy(packed)[:, : factor.shape[1]].tril()
    return factor


def transport_root(cov1: Tensor, cov2: Tensor) -> tuple[Tensor, Tensor]:
    """The optimal transport map T from N(0, S1) to N(0, S2), as f64 W [D,K] with T = W W', and Tr(T S1).

    T S1 T = S2, where S1 is not zero. With S1 = A A' and A' S2 A = Q E Q', it is T = A^-T Q E^(1/2) Q' A^-1, and
    Tr(T S1) the sum of E^(1/2); directions in which S1 has nothing but rounding are left out. W is enough for y'Ty.
    Both matrices are overwritten.
    """
    import torch

    values, basis = _eigen(cov1)
    first = int((values <= values[-1] * len(values) * torch.finfo(values.dtype).eps).sum())
    values, basis = values[first:], basis[:, first:]
    basis.mul_(values.sqrt())  # [D,K]: A
    inner, rotation = _eigen(_seen_from(basis, cov2))
    inner = inner.clamp_(min=0).sqrt_()
    back = basis.div_(values)  # [D,K]: A^-T
    return back @ rotation.mul_(inner.sqrt()), inner.sum()


def _seen_from(factor: Tensor, cov2: Tensor) -> Tensor:
    """A' S2 A f64 [K,K] of A [D,K], in the memory of S2: at D = 2048 a matrix takes 34 MB, and few stand at a time."""
    import torch

    rank = factor.shape[1]
    middle: Tensor = cov2.contiguous().view(-1)[: rank * rank].view(rank, rank)
    return torch.mm(factor.T, cov2 @ factor, out=middle)


def _eigen(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues, ascending, and eigenvectors of a symmetric matrix, in its own memory (torch's eigh makes a copy)."""
    import torch
    from scipy.linalg import eigh

    values, vectors = eigh(matrix.numpy().T, driver="evd", overwrite_a=True, check_finite=False)
    return torch.from_numpy(values), torch.from_numpy(vectors)
