"""Do the stated 95 % intervals hold where a judge is asked k times about each of several samples per prompt?

A model's prompts differ in how well it follows them, its samples of a prompt too, and a judge that is asked twice about
one sample may answer differently; all three parts are known. Sets are drawn and scored over and over as a run scores
them, of one model and as paired differences of two that share prompts; an interval counts where it holds the truth.
`python tests/helpers/judge_simulation.py [--draws 4000]` prints the table of docs/recipes/judge_calibration.md.
"""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[2])]

import torch

from evalkit.metric import Score, mean_score
from evalkit.numerics.judge_noise import judge_noise
from evalkit.results.stats import Estimate, align, difference, interval, quantile

HEADING = (
    f"{'answers':8s} {'prompts':>7s} {'samples':>7s} {'k':>2s} {'one model %':>13s} {'difference %':>13s}"
    f" {'each answer %':>13s} {'stderr/true':>11s} {'share':>6s} {'true':>6s}"
)
HELD = (0.90, 0.98)


@dataclass(frozen=True)
class Case:
    """What is judged.

    Attributes:
        answers: "binary": yes or no (0, 1), with each sample's own probability; "graded": 1 to 5, rounded.
        prompts, samples: in a set; samples per prompt.
        repeats: k, answers per sample.
        spread: standard deviations of what prompts and samples add, on the scale of logits (binary) or grades, and of
            what the judge adds to a grade (a binary judge's own comes from the probability).
        middle: the same of the typical sample.
        step: how much better the second model is, there.
    """

    answers: str
    prompts: int
    samples: int
    repeats: int
    spread: tuple[float, float, float] = (1.0, 1.0, 0.7)
    middle: float = 0.6
    step: float = 0.3


def expected(case: Case, latent: NDArray[np.float64]) -> NDArray[np.float64]:
    """What the judge answers on average about samples of these latents; of grades the mean of the rounded ones."""
    if case.answers == "binary":
        shares: NDArray[np.float64] = 1 / (1 + np.exp(-latent))
        return shares
    above = [_normal((latent - edge) / case.spread[2]) for edge in (1.5, 2.5, 3.5, 4.5)]
    grades: NDArray[np.float64] = 1 + np.sum(above, axis=0)
    return grades


def _normal(z: NDArray[np.float64]) -> NDArray[np.float64]:
    from scipy.special import ndtr

    below: NDArray[np.float64] = ndtr(z)
    return below


def draw(case: Case, rng: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The answers about both models' samples, f64 [2,N,k], and their expected values, f64 [2,N]; N = prompts x samples.

    A prompt is as hard for both models; a sample of it is drawn by the same seed for both, so that half of what it adds
    is common too.
    """
    of_prompt = case.spread[0] * rng.standard_normal((1, case.prompts, 1))
    common, own = (rng.standard_normal((models, case.prompts, case.samples)) for models in (1, 2))
    latent = of_prompt + case.spread[1] * (common + own) / math.sqrt(2)
    latent = (latent + np.array([0.0, case.step])[:, None, None] + _middle(case)).reshape(2, -1)
    means = expected(case, latent)
    size = (*latent.shape, case.repeats)
    if case.answers == "binary":
        return (rng.random(size) < means[..., None]).astype(np.float64), means
    noisy = latent[..., None] + case.spread[2] * rng.standard_normal(size)
    return np.clip(np.round(noisy), 1, 5), means


def _middle(case: Case) -> float:
    return case.middle if case.answers == "binary" else 3.0 + case.middle


def truth(case: Case) -> NDArray[np.float64]:
    """Both models' true scores, f64 [2]: by quadrature over prompts and samples, which add one normal value."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    width = math.hypot(case.spread[0], case.spread[1])
    steps = np.array([0.0, case.step])[:, None]
    scores: NDArray[np.float64] = expected(case, _middle(case) + steps + width * nodes) @ (weights / weights.sum())
    return scores


@dataclass(frozen=True)
class Held:
    """What was seen over all draws.

    Attributes:
        one, difference: shares of the intervals that hold the truth.
        naive: the same of one model, were each answer taken for a sample of its own.
        ratio: mean standard error over the true spread of the scores.
        share, true_share: the judge's share of the variance as it is told (mean), and as it is; none of one answer.
    """

    one: float
    difference: float
    naive: float
    ratio: float
    share: float | None
    true_share: float


def simulate(case: Case, draws: int, seed: int = 1) -> Held:
    """Draws, scores, counts."""
    rng = np.random.default_rng(seed)
    true = truth(case)
    gap = float(true[1] - true[0])
    clusters = torch.arange(case.prompts).repeat_interleave(case.samples)
    held, values, errors, shares, judges = [0, 0, 0], [], [], [], []
    for _ in range(draws):
        answers, means = draw(case, rng)
        first, second = (_estimate(each, clusters) for each in answers)
        low, high = interval(first) or (first.value, first.value)
        held[0] += low <= true[0] <= high
        paired = difference((second.value, second.stderr), (first.value, first.stderr), align(second, first, same=True))
        held[1] += (paired.low or -math.inf) <= gap <= (paired.high or math.inf)
        each = answers[0].ravel()
        held[2] += abs(each.mean() - true[0]) <= quantile(len(each) - 1) * each.std(ddof=1) / math.sqrt(len(each))
        values.append(first.value)
        errors.append(first.stderr or 0.0)
        judges.append(first.value - float(means[0].mean()))
        noise = judge_noise(answers[0], first.stderr or 0.0)
        if noise is not None:
            shares.append(noise.share())
    spread = float(np.std(values, ddof=1))
    return Held(
        held[0] / draws,
        held[1] / draws,
        held[2] / draws,
        float(np.mean(errors)) / spread,
        float(np.mean(shares)) if shares else None,
        float(np.var(judges, ddof=1)) / spread**2,
    )


def _estimate(answers: NDArray[np.float64], clusters: torch.Tensor) -> Estimate:
    """The score of answers, f64 [N,k], as the metric and the scoring stage form it."""
    score: Score = mean_score(torch.from_numpy(answers.mean(1)), clusters)
    assert score.value is not None
    return Estimate(score.value, score.stderr, score.n, score.influence, clusters.tolist(), score.clusters)


def cases() -> list[Case]:
    """k in 1, 3, 5; few prompts and many, yes or no and grades; easy prompts; a judge as noisy as all else."""
    plain = [
        Case(answers, prompts, samples, k)
        for answers in ("binary", "graded")
        for prompts, samples in ((30, 4), (100, 4), (200, 1))
        for k in (1, 3, 5)
    ]
    easy = [Case("binary", 100, 4, k, middle=2.0) for k in (1, 3, 5)]
    noisy = [Case("graded", 50, 2, k, spread=(0.3, 0.3, 1.5)) for k in (1, 3, 5)]
    return plain + easy + noisy


def line(case: Case, held: Held, draws: int) -> str:
    """A line of the table: coverage in % with two binomial errors."""
    all_held = (held.one, held.difference, held.naive)
    shown = "".join(f"{f'{100 * p:.1f} ± {196 * math.sqrt(p * (1 - p) / draws):3.1f}':>14s}" for p in all_held)
    share = "     -" if held.share is None else f"{held.share:6.2f}"
    counts = f"{case.answers:8s} {case.prompts:7d} {case.samples:7d} {case.repeats:2d}"
    return f"{counts}{shown} {held.ratio:11.2f} {share} {held.true_share:6.2f}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=4000)
    options = parser.parse_args()
    print(HEADING)
    worst = []
    for case in cases():
        held = simulate(case, options.draws)
        worst += [held.one, held.difference]
        print(line(case, held, options.draws), flush=True)
    print(f"lowest {100 * min(worst):.1f} %, highest {100 * max(worst):.1f} %")
    sys.exit(not HELD[0] <= min(worst) <= max(worst) <= HELD[1])
