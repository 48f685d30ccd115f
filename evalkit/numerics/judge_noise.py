"""How much of a score's error is the judge's own: k answers per sample, samples clustered by prompt.

The score is the mean over samples of each one's mean over its answers. Its clustered standard error (Liang and Zeger
1986) holds all three sources already: prompts differ, samples of a prompt differ, and a judge that is asked again
answers differently; the answers to one sample are independent of those to others. From the answers within samples
comes the judge's part, without bias, whether or not it is as large for all samples:

    judge^2 = sum_i s_i^2 / k / N^2        s_i^2: variance of sample i's answers (ddof 1)

What is left of stderr^2 is the prompts' and samples'. More answers per sample shrink the first part alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SMALL = 0.1  # a judge's share of the variance that is not worth more answers


@dataclass(frozen=True)
class JudgeNoise:
    """The two parts of a score's variance.

    Attributes:
        samples: N.
        repeats: k, answers per sample.
        answer: variance of one answer about what the judge answers to that sample on average, the mean over samples.
        rest: variance of the score that any number of answers leaves: the prompts' and the samples'; not below 0.
    """

    samples: int
    repeats: int
    answer: float
    rest: float

    def stderr(self, repeats: int | None = None) -> float:
        """The score's standard error with as many answers per sample (none: as many as there were)."""
        return math.sqrt(self.rest + self._judge(repeats))

    def share(self, repeats: int | None = None) -> float:
        """The judge's share of the score's variance, 0 to 1; 0 where nothing varies."""
        judge = self._judge(repeats)
        return judge / (self.rest + judge) if judge else 0.0

    def enough(self, share: float = SMALL) -> int | None:
        """The fewest answers per sample with which the judge's share is at most that; none: no number is enough."""
        if not self.answer:
            return 1
        if not self.rest:
            return None
        return max(1, math.ceil(self.answer / self.samples * (1 - share) / (share * self.rest) - 1e-9))

    def cheapest(self, cost: float) -> int | None:
        """How many answers per sample give the smallest error for what samples and answers cost together.

        The rule of two-stage sampling (Cochran 1977, 10.6): sqrt(cost x judge's variance / the rest's), where more
        samples means more prompts. None: samples do not differ, so that one with many answers is best.

        Args:
            cost: of a sample, in answers: 10 where making one takes as long as ten answers.
        """
        if not self.answer:
            return 1
        if not self.rest:
            return None
        best = math.sqrt(cost * self.answer / (self.samples * self.rest))
        low = max(1, math.floor(best))

        def price(k: int) -> float:  # variance x cost, up to a constant
            return (self.samples * self.rest + self.answer / k) * (cost + k)

        return low if price(low) <= price(low + 1) else low + 1

    def _judge(self, repeats: int | None) -> float:
        return self.answer / (self.samples * (repeats or self.repeats))


def judge_noise(answers: NDArray[np.float64], stderr: float) -> JudgeNoise | None:
    """Both parts of the variance; none where each sample has one answer: they cannot be told apart then.

    Args:
        answers: f64 [N,k], of each sample its answers, on the score's scale; none of them NaN.
        stderr: the standard error of their mean, clustered by prompt (`evalkit.metric.standard_error` of the means
            by sample).
    """
    import numpy as np

    n, k = answers.shape
    if np.isnan(answers).any():
        raise ValueError(f"{int(np.isnan(answers).sum())} of {answers.size} answers are NaN")
    if k < 2 or not n:
        return None
    answer = float(answers.var(axis=1, ddof=1).mean())
    return JudgeNoise(n, k, answer, max(0.0, stderr**2 - answer / (n * k)))
