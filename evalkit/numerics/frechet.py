"""The Frechet distance of two sets under a Gaussian each, and how much each sample moves it.

Conventions of TTUR and torch-fidelity 0.4.0 (`metric_fid.py`), in float64; exact where N <= D as well.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from evalkit.metric import Score, Sums, widest_of, with_error
from evalkit.numerics.blockwise import finite_mean
from evalkit.numerics.gaussians import Scatter, Seen, moments, root_trace, scatter_of

if TYPE_CHECKING:
    from torch import Tensor

BLOCK = 4096  # rows in float64 at a time


def distance(first: Sums, second: Sums, ddof: int = 1) -> float:
    """`|mu1-mu2|^2 + Tr(S1) + Tr(S2) - 2 Tr((S1 S2)^(1/2))` of two `Scatter`s, 0 upwards.

    `ddof`: 1: covariances divide by N - 1; 0: by N.
    """
    mean1, cov1 = moments(first, ddof)
    mean2, cov2 = (part.to(mean1.device) for part in moments(second, ddof))
    n1, n2 = int(first["n"]), int(second["n"])
    spread = (mean1 - mean2).square().sum() + cov1.trace() + cov2.trace()
    value = float(spread - 2 * root_trace(cov1, cov2, n1 - 1, n2 - 1))
    return max(value, 0.0)  # rounding may put equal sets a little below zero


def influence(generated: Sums, reference: Sums, ddof: int = 1) -> Callable[[Tensor], Tensor] | str:
    """N - 1 times what the distance loses without a sample (the jackknife), and the delta method's.

    The delta method's is `2 y'(mu1-mu2) + y'Gy - Tr(G S1)` with y = x - mu1, G = I - T, T the map from S1 to S2:
    the slope. Where N is a few times D, a sample that lies far out in a direction that few others span changes the
    root term by twice that and more, so that of heavy-tailed features the slope's spread is a fifth too small.
    Where a few samples share one large factor, in all directions, it is the other way round. Of two approximations
    that both err downward the wider one counts.

    Args:
        generated, reference: `Scatter`s; the reference counts as fixed.
        ddof: as of `distance`.

    Returns:
        What takes features [B,D] of the generated samples and gives f64 [B,2]; or why there is no standard error.
    """
    n, dimension = int(generated["n"]), len(generated["mean"])
    if n < 2 * dimension:
        return f"no standard error: N = {n} is below 2 d = {2 * dimension}"
    mean1, cov1 = moments(generated, ddof)
    mean2, cov2 = (part.to(mean1.device) for part in moments(reference, ddof))
    trace = float(cov1.trace())
    seen = Seen.of(cov1, cov2, int(reference["n"]) - 1)
    overlap, shift = float(seen.values.sqrt().sum()), mean1 - mean2
    grown = (n - ddof) / (n - 1 - ddof)  # S1 without a sample is grown (S1 - share yy')
    share = n / ((n - 1) * (n - ddof))

    def each(features: Tensor) -> Tensor:
        import torch

        y = features.to(mean1.device).double() - mean1  # f64 [B,D]
        along, length = y @ shift, y.square().sum(1)  # f64 [B] each
        slope, change = seen.without(y, share)
        delta = 2 * along + length - slope - (trace - overlap)
        means = (2 * along - length / (n - 1)) / (n - 1)
        roots = 2 * (grown**0.5 * (overlap + change) - overlap)
        without = (n - 1) * (means + trace - grown * (trace - share * length) + roots)
        return torch.stack([without, delta], 1)

    return each


def score_of_rows(x: Tensor, y: Tensor, clusters: Tensor | None) -> Score:
    """The distance with its influences, for metrics that keep their features: of f32 [N,D] to f32 [M,D].

    Raises:
        ValueError: features that are not finite.
    """
    import torch

    generated, reference = scatter_of_rows(x), scatter_of_rows(y)
    value, by_sample = distance(generated, reference), influence(generated, reference)
    if isinstance(by_sample, str):
        return Score(value, len(x), note=by_sample)
    influences = torch.cat([by_sample(rows) for rows in torch.split(x, BLOCK)])
    return with_error(Score(value, len(x)), widest_of(influences, clusters), clusters)


def scatter_of_rows(x: Tensor) -> Scatter:
    """`scatter_of` f32 [N,D], in blocks. ValueError: features that are not finite."""
    import torch

    finite_mean(x)
    first, *more = torch.split(x, BLOCK)
    total = scatter_of(first)
    for rows in more:
        total = total + scatter_of(rows)
    return total
