"""Do the stated 95 % intervals of ratings hold? Repeated elections among cells of known strengths.

    python tests/helpers/vote_simulation.py [elections]

Votes are Davidson's, nu = 0.6, on strengths that each prompt and each voter moves by an amount of its own per cell, so
that votes on one prompt, and votes of one voter, are alike. The truth is what infinitely many votes of infinitely many
prompts and voters would give. Ratings, differences from the first cell and the simultaneous intervals of all pairs are
made by the very functions that a run uses; next to them stands what independent votes would have been given.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from evalkit.numerics import bradley_terry
from evalkit.results.stats import Estimate, align, difference, interval, quantile
from evalkit.votes.groups import gaps
from evalkit.votes.ratings import Ratings, rate, scores
from evalkit.votes.records import Vote

NU = 0.6
HEADING = f"{'design':44s} {'ratings':>8s} {'differences':>12s} {'all pairs':>10s} {'as if independent':>18s}"


@dataclass(frozen=True)
class Design:
    """An election: strengths (natural logarithms), and how far prompts and voters move each cell."""

    name: str
    strengths: tuple[float, ...]
    prompts: int
    voters: int
    votes: int
    by_prompt: float = 0.7
    by_voter: float = 0.0


SPREAD = (0.6, 0.2, -0.1, -0.7)
DESIGNS = [
    Design("4 cells, 100 prompts, 1 voter, 400 votes", SPREAD, 100, 1, 400),
    Design("4 cells, 100 prompts, 5 alike, 400 votes", SPREAD, 100, 5, 400),
    Design("4 cells, 100 prompts, 3 unlike, 400 votes", SPREAD, 100, 3, 400, by_voter=0.4),
    Design("4 cells, 100 prompts, 8 unlike, 400 votes", SPREAD, 100, 8, 400, by_voter=0.4),
    Design("4 cells, 100 prompts, 30 unlike, 600 votes", SPREAD, 100, 30, 600, by_voter=0.4),
    Design("8 cells, 200 prompts, 20 unlike, 800 votes", tuple(np.linspace(1, -1, 8)), 200, 20, 800, by_voter=0.3),
    Design("2 cells, 20 prompts, 1 voter, 60 votes", (0.2, -0.2), 20, 1, 60),
    Design("3 cells far apart, 60 prompts, 1 voter, 150", (2.0, 0.0, -2.0), 60, 1, 150),
]


@dataclass(frozen=True)
class Coverage:
    """Shares of intervals that hold the truth; `pairs`: of elections in which all pairs' intervals do."""

    ratings: float
    differences: float
    pairs: float
    independent: float

    def line(self, design: Design) -> str:
        shown = (f"{100 * share:.1f}" for share in (self.ratings, self.differences, self.pairs, self.independent))
        return "{:44s} {:>8s} {:>12s} {:>10s} {:>18s}".format(design.name, *shown)


def truth(design: Design) -> NDArray[np.float64]:
    """The ratings that infinitely many votes would give, f64 [K]."""
    strengths = np.array(design.strengths)
    pairs = np.array(list(combinations(range(len(strengths)), 2)))
    sd = (2 * (design.by_prompt**2 + design.by_voter**2)) ** 0.5
    moved = sd * np.random.default_rng(0).standard_normal(100_000)
    gap = (strengths[pairs[:, 0]] - strengths[pairs[:, 1]])[:, None] + np.concatenate([moved, -moved])
    odds = np.stack([np.exp(gap / 2), np.exp(-gap / 2), np.full_like(gap, NU)], -1)
    chances = (odds / odds.sum(-1, keepdims=True)).mean(1)
    return bradley_terry.elo(bradley_terry.fit(pairs, chances[None], len(strengths)).strengths[0])


def elect(design: Design, rng: np.random.Generator) -> list[Vote]:
    count = len(design.strengths)
    per_prompt = design.by_prompt * rng.standard_normal((design.prompts, count))
    per_voter = design.by_voter * rng.standard_normal((design.voters, count))
    votes = []
    for number in range(design.votes):
        first, second = rng.choice(count, 2, replace=False)
        prompt, voter = int(rng.integers(design.prompts)), number % design.voters
        moved = np.array(design.strengths) + per_prompt[prompt] + per_voter[voter]
        half = (moved[first] - moved[second]) / 2
        odds = np.array([np.exp(half), np.exp(-half), NU])
        outcome = rng.choice(("a", "b", "tie"), p=odds / odds.sum())
        votes.append(
            Vote(time="2026-01-01", voter=f"v{voter}", cell_a=f"c{first}", cell_b=f"c{second}", index=prompt, prompt="",
                 outcome=str(outcome))
        )  # fmt: skip
    return votes


def simulate(design: Design, elections: int, seed: int = 0) -> Coverage:
    rng, right = np.random.default_rng(seed), truth(design)
    cells = [f"c{number}" for number in range(len(right))]
    held: dict[str, list[bool]] = {"ratings": [], "differences": [], "pairs": [], "independent": []}
    for _ in range(elections):
        found = rate(elect(design, rng), cells, lambda cell, index: -1 - index)
        if found is None or len(found.cells) < len(cells):
            continue
        for name, values in zip(held, _held(found, right, design.prompts), strict=True):
            held[name] += values
    return Coverage(**{name: float(np.mean(values)) for name, values in held.items()})


def _held(found: Ratings, right: NDArray[np.float64], samples: int) -> Iterator[list[bool]]:
    """Whether each interval holds what it should: of ratings, of differences, of all pairs, as if independent."""
    ids = [-1 - index for index in range(samples)]
    given = scores(found, dict.fromkeys(found.cells, ids))
    all_of = [
        Estimate(score.value or 0.0, score.stderr, score.n, score.influence, ids, score.clusters, together=True)
        for score in given.values()
    ]
    ends = [interval(one) for one in all_of]
    yield [end is not None and end[0] <= value <= end[1] for end, value in zip(ends, right, strict=True)]
    base = all_of[0]
    differences = [
        difference((one.value, one.stderr), (base.value, base.stderr), align(one, base, same=True), most=one.groups)
        for one in all_of[1:]
    ]
    wanted = right[1:] - right[0]
    yield [
        d.low is not None and d.high is not None and d.low <= value <= d.high
        for d, value in zip(differences, wanted, strict=True)
    ]
    yield [all(gap.low <= right[gap.better] - right[gap.worse] <= gap.high for gap in gaps(found))]
    plain = bradley_terry.covariance(found.fit, found.arrays.pairs, found.arrays.counts, found.arrays.prior)
    errors = np.sqrt(np.diag(plain)) * bradley_terry.ELO / np.log(10)
    yield (np.abs(found.values - right) <= quantile(float("inf")) * errors).tolist()


if __name__ == "__main__":
    print(HEADING)
    for design in DESIGNS:
        print(simulate(design, int(sys.argv[1]) if len(sys.argv) > 1 else 400).line(design), flush=True)
