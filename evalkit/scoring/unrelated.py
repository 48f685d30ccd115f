"""Whether pairs with the baseline are any closer than pairs of images that have nothing to do with one another.

Two engines that were given other noise, or prompts in another order, give pairs of unrelated images, whose PSNR is a
number like any other. So each metric is measured on some shuffled pairs too, sample i with the baseline's sample
j != i of the same prompt. If the baseline's images were unrelated to the samples, which of a prompt's images stands
at which place would be chance: every order of them would be as likely as the one that is there. That is a permutation
test, exact at any number of pairs and for any metric. Pairs are called unrelated where it does not tell them from
shuffled ones at `LEVEL`.

Error rates, of 1,000 simulated cells each (`python tests/bench/bench_unrelated.py --runs 1000`): 99 % of cells with
unrelated pairs are warned, as the level says. Of 64 samples of one prompt whose pairs are closer than shuffled ones by
half a standard deviation 11 % are, by one or more none; of 8 samples 77 %, by one 17 %, by two none. docs/metrics.md
has the table.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from evalkit.data.source import chunks_of
from evalkit.metric import PairMetric, Score
from evalkit.numerics.statistics import statistic
from evalkit.scoring.pair_pass import Paired

LEVEL = 0.01  # unrelated pairs go unnoticed in at most so many of the cases
MOST = 64  # shuffled pairs per cell
ORDERS = 9999  # random orders that the one in question is compared with
SEED = 2020

Pair = tuple[int, int]


class ShuffledPairs(Paired):
    """Pairs of samples with others of the baseline's: any number of them."""

    @property
    def blocks(self) -> list[range]:
        return chunks_of(len(self.pairs))


@dataclass(frozen=True)
class Shuffle:
    """Which samples are compared with which others of the baseline.

    Attributes:
        blocks: indices of samples that are shuffled among themselves; each is compared with all others of its block.
        alike: what those of a block share: "prompt", "category", or nothing; "all" where there are no prompts.
    """

    blocks: tuple[tuple[int, ...], ...]
    alike: str = ""

    @property
    def pairs(self) -> list[Pair]:
        return [(i, j) for block in self.blocks for i in block for j in block if i != j]

    @property
    def where(self) -> str:
        """What the shuffled pairs are, in words."""
        return {
            "prompt": "shuffled pairs of the same prompts",
            "category": "shuffled pairs of the same categories",
            "all": "shuffled pairs",
        }.get(self.alike, "shuffled pairs of other prompts")


def shuffle(prompts: Sequence[str | None], categories: Sequence[str | None]) -> Shuffle | None:
    """How a set is shuffled against its baseline: within prompts; none where there are too few samples to tell.

    Where no prompt has several samples, within categories, else among all: matched pairs then share a prompt and
    shuffled ones do not, so that other noise may hide behind what the prompt makes alike. A warning is as sure as
    ever; silence tells that prompts and order agree, and less of the noise.

    Args:
        prompts: of the samples. Those without a prompt at all are alike: they are shuffled among all.
        categories: of the samples.
    """
    n = len(prompts)
    anything: Sequence[str | None] = [""] * n
    ways = [("prompt", prompts), ("category", categories), ("", anything)] if any(prompts) else [("all", anything)]
    for alike, labels in ways:
        drawn = Shuffle(_blocks(labels), alike)
        if sum(math.lgamma(len(block) + 1) for block in drawn.blocks) >= math.log(1 / LEVEL):
            return drawn
    return None


def _blocks(labels: Sequence[str | None]) -> tuple[tuple[int, ...], ...]:
    """Disjoint blocks of samples of one label, drawn with `SEED`, of `MOST` shuffled pairs about.

    Small blocks are spread over more samples, large ones give more orders of few: they are as large as is needed.
    """
    import numpy as np

    groups: dict[str, list[int]] = {}
    for i, label in enumerate(labels):
        if label is not None:
            groups.setdefault(label, []).append(i)
    several = [group for group in groups.values() if len(group) > 1]
    count = sum(map(len, several))
    if not count:
        return ()
    size = 1 + max(1, MOST // min(count, MOST))
    rng = np.random.default_rng(SEED)
    blocks: list[tuple[int, ...]] = []
    for group in several:
        order = rng.permutation(group).tolist()
        starts = range(0, len(order) - 1, size)
        blocks += [tuple(order[start : start + size]) for start in starts]
    chosen, left = [], MOST
    for k in rng.permutation(len(blocks)).tolist():
        cost = len(blocks[k]) * (len(blocks[k]) - 1)
        if cost <= left:
            chosen.append(blocks[k])
            left -= cost
    return tuple(chosen)


def p_value(
    drawn: Shuffle, matched: Mapping[int, float], shuffled: Mapping[Pair, float], *, higher: bool
) -> float | None:
    """One-sided p of "the pairs are no closer than shuffled ones"; none where no order differs from another.

    (1 + orders that are as close) / (1 + orders), over the matched order and `ORDERS` random ones (Phipson and Smyth
    2010): where it is true, p <= LEVEL comes about in at most LEVEL of the cases.

    Args:
        drawn: the blocks.
        matched: by sample in a block, its value with its partner.
        shuffled: by pair, its value.
        higher: whether higher is closer.
    """
    import numpy as np

    rng = np.random.default_rng(SEED)
    total, there, spread = np.zeros(ORDERS), 0.0, 0.0
    for block in drawn.blocks:
        size = len(block)
        values = np.array([[matched[i] if i == j else shuffled[i, j] for j in block] for i in block])
        values = values if higher else -values
        orders = rng.permuted(np.tile(np.arange(size), (ORDERS, 1)), axis=1)  # [ORDERS, size]
        total += values[np.arange(size), orders].sum(1)
        there += float(values.trace())
        spread = max(spread, float(np.ptp(values)))
    if spread == 0:
        return None
    close = total >= there - 1e-9 * spread  # sums of the same values in another order
    return float((1 + close.sum()) / (1 + ORDERS))


def with_warning(
    metric: PairMetric, score: Score, drawn: Shuffle, shuffled: Sequence[float], same: Sequence[bool] | None
) -> Score:
    """A score with what its shuffled pairs say: `unrelated` (0 or 1), `unrelated_p`, `shuffled_mean`, `shuffled_pairs`.

    And a note, where the pairs look unrelated. Nothing is said where all pairs are identical, or nothing differs.

    Args:
        score: of matched pairs, with a value per sample.
        drawn: the blocks.
        shuffled: the values of `drawn.pairs`.
        same: by sample whether both images are identical.
    """
    assert score.influence is not None
    if same is not None and all(same):
        return score
    matched = {i: score.influence[i] for block in drawn.blocks for i in block}
    p = p_value(drawn, matched, dict(zip(drawn.pairs, shuffled, strict=True)), higher=metric.better == "higher")
    if p is None:
        return score
    unrelated = p > LEVEL
    details: dict[str, Any] = {
        "unrelated": float(unrelated),
        "unrelated_p": p,
        "shuffled_mean": statistic("mean", shuffled),
        "shuffled_pairs": float(len(shuffled)),
    }
    score = replace(score, details={**score.details, **details})
    if not unrelated:
        return score
    why = "different noise?" if drawn.alike in ("prompt", "all") else "different noise, or prompts in another order?"
    note = f"pairs look unrelated: {why} They are no closer than {drawn.where}"
    return replace(score, note="; ".join(filter(None, (score.note, note))))
