"""Inception Score: exp(E KL(p(y|x) || p(y))) over a classifier's logits, mean over splits.

Salimans et al. 2016, arXiv:1606.03498. Conventions of torch-fidelity 0.4.0 (`metric_isc.py`): Inception's logits
without bias, shuffled by RandomState(2020), 10 splits [iN/10, (i+1)N/10), float64, spread over splits with ddof=0.
Those of ADM (`evaluations/evaluator.py`): in order, splits of 5000, the last one as long as what is left.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from evalkit.metric import KeepsFeatures, Rows, SampleMetric, Score, with_error

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(eq=False)
class InceptionScore(KeepsFeatures, SampleMetric[Rows]):
    """1 (one class, or no certainty) to the number of classes; higher is better.

    The standard error is the delta method's: with KL_i = KL(p(y|x_i) || p(y)), a sample of a split of n_s has the
    influence I_s (KL_i - mean KL) on that split's score I_s; the marginal's own change cancels. It does not see the
    bias of O(classes / n_s), so only equal N are to be compared. None is given where a split has fewer samples than
    classes: in simulations it was 0.85 to 1.1 of the true spread above that, 0.7 to 0.8 below.

    Args:
        features: address of the logits.
        splits: number of splits; of fewer samples than that, half as many as there are samples. Has no effect where
            `split_size` is given.
        split_size: samples per split; none: N / splits.
        shuffle: whether the samples are shuffled before they are split.
        seed: of the shuffle.
    """

    features: str = "inception/logits_unbiased"
    splits: int = 10
    split_size: int | None = None
    shuffle: bool = True
    seed: int = 2020

    title = "IS"
    better = "higher"
    needs = (features,)
    on_device = True

    def __post_init__(self) -> None:
        if self.splits < 1 or (self.split_size is not None and self.split_size < 2):
            given = f"splits={self.splits}, split_size={self.split_size}"
            raise ValueError(f"{given}: give 1 split or more, of 2 samples or more")
        self.needs = (self.features,)

    def constants(self) -> dict[str, Any]:
        size = {"splits": self.splits} if self.split_size is None else {"split_size": self.split_size}
        order = f"RandomState({self.seed})" if self.shuffle else None
        return {"estimator": "inception score", **size, "shuffle": order}

    def score(self, *, generated: Rows) -> Score:
        import numpy as np
        import torch

        n = len(generated)
        order = np.random.RandomState(self.seed).permutation(n) if self.shuffle else np.arange(n)
        logits = generated[self.features][order].double()  # f64 [N,C]
        influence = torch.zeros(n).double()
        scores, enough = [], True
        splits = self.splits if n >= self.splits else max(1, n // 2)  # torch-fidelity's score is NaN there
        size, edges = self.split_size, [i * n // splits for i in range(splits + 1)]
        parts = [slice(*ends) for ends in pairwise(edges if size is None else [*range(0, n, size), n])]
        for part in parts:
            value, each, classes = split_score(logits[part])
            scores.append(value)
            enough &= len(each) >= classes
            influence[order[part]] = (
                each * (n / (len(each) * len(parts)))
            ).cpu()  # in the order of the samples' indices
        details = {"std": float(np.std(scores)), "splits": float(len(parts))}
        mean = float(np.mean(scores))
        if not enough:
            return Score(mean, n, details=details, note="no standard error: a split has fewer samples than classes")
        return with_error(Score(mean, n, details=details), influence, generated.clusters)


def split_score(logits: Tensor) -> tuple[float, Tensor, float]:
    """The score of one split.

    Args:
        logits: f64 [n,C].

    Returns:
        The score; each sample's influence on it, f64 [n], mean 0; the exponential of the marginal's entropy, which
        says how many classes the split holds.
    """
    import torch

    p = logits.softmax(1)
    marginal = p[0] + (p - p[0]).mean(0)  # of equal rows exactly their own
    kl = (torch.xlogy(p, p) - torch.xlogy(p, marginal)).sum(1)  # [n]; a class that no sample has adds nothing
    value = float(kl.mean().clamp(min=0).exp())  # rounding aside it is 1 at least
    classes = float(torch.xlogy(marginal, marginal).sum().neg().exp())
    return value, value * (kl - kl.mean()), classes
