"""From the answers to a prompt's questions to its score: the means that benchmarks take.

What depends on what is settled before (`evalkit.judges.questions.with_parents`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence


def mean(answers: Sequence[float], weights: Sequence[float]) -> float:
    """The weighted mean: Soft-TIFA AM, TIFA, DPG, checklists; WiScore with its weights."""
    return math.fsum(a * w for a, w in zip(answers, weights, strict=True)) / math.fsum(weights)


def geometric(answers: Sequence[float], weights: Sequence[float]) -> float:
    """The weighted geometric mean, 0 where an answer is 0: Soft-TIFA GM, and sqrt(SC PQ) of two questions."""
    if min(answers) <= 0:
        return 0.0
    return math.exp(math.fsum(w * math.log(a) for a, w in zip(answers, weights, strict=True)) / math.fsum(weights))


def product(answers: Sequence[float], weights: Sequence[float]) -> float:
    """The product, whatever the weights: of the probabilities of noun phrases (T2I-CompBench's BLIP-VQA)."""
    return math.prod(answers)


def least(answers: Sequence[float], weights: Sequence[float]) -> float:
    """The smallest, whatever the weights."""
    return min(answers)


def every(answers: Sequence[float], weights: Sequence[float]) -> float:
    """1 where no answer is below 1, else 0: prompts of which all is right."""
    return float(all(answer >= 1 for answer in answers))


COMBINE: Mapping[str, Callable[[Sequence[float], Sequence[float]], float]] = {
    "mean": mean,
    "geometric": geometric,
    "product": product,
    "min": least,
    "all": every,
}
"""How the answers of one image become its score: `combine` of `evalkit.judges.score.BenchmarkScore`."""
