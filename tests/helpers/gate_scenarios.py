"""Candidates of known truth for the gate's rules, drawn over and over by `gate_simulation`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evalkit.metric import by_cluster
from evalkit.results.stats import stderr_of_mean

Each = NDArray[np.float64]
Drawn = tuple[float, float, Each | None]  # value, standard error, influences
Draw = Callable[
    [np.random.Generator, float], dict[str, Drawn]
]  # (random numbers, how far beyond the margin) -> by cell


@dataclass(frozen=True)
class Scenario:
    """A metric, a rule on it, and draws of it.

    Attributes:
        name, n: for the table.
        better: the metric's direction.
        rule: on the metric "m" of the cell "new"; the other cell is "old".
        draw: one set of scores; its second argument moves the truth away from the margin, in standard errors: above 0
            to the worse.
        paired: whether the cells share prompts and seeds.
        per_prompt: samples of each prompt, one after the other: the cluster of sample i is i // per_prompt.
    """

    name: str
    n: int
    better: str
    rule: Mapping[str, Any]
    draw: Draw
    paired: bool = True
    per_prompt: int = 1


def of_mean(each: Each, *, known: bool = True) -> Drawn:
    stderr = float(each.std(ddof=1) / math.sqrt(len(each)))
    return float(each.mean()), stderr, each if known else None


def mean_scenarios(n: int) -> Iterator[Scenario]:
    """CLIP-like scores: 30 +- 5, most of it shared by the cells; the candidate is 0.5 (or 5 %) worse."""
    spread = 0.8 / math.sqrt(n)

    def paired(rng: np.random.Generator, beyond: float) -> dict[str, Drawn]:
        old = rng.normal(30, 5, n)
        return {"old": of_mean(old), "new": of_mean(old - 0.5 - beyond * spread + rng.normal(0, 0.8, n))}

    def skewed(rng: np.random.Generator, beyond: float) -> dict[str, Drawn]:
        old = rng.normal(30, 5, n)
        drop = 0.8 * (rng.exponential(1, n) - 1)
        return {"old": of_mean(old), "new": of_mean(old - 0.5 - beyond * spread - drop)}

    def relative(rng: np.random.Generator, beyond: float) -> dict[str, Drawn]:
        old = rng.normal(30, 5, n)
        new = 0.95 * old + rng.normal(0, 0.8, n) - beyond * spread
        return {"old": of_mean(old), "new": of_mean(new)}

    def unpaired(rng: np.random.Generator, beyond: float) -> dict[str, Drawn]:
        wide = beyond * 5 * math.sqrt(2 / n)
        return {"old": of_mean(rng.normal(30, 5, n)), "new": of_mean(rng.normal(29.5 - wide, 5, n))}

    def absolute(rng: np.random.Generator, beyond: float) -> dict[str, Drawn]:
        return {"new": of_mean(rng.normal(12 + beyond * 5 / math.sqrt(n), 5, n), known=False)}

    half = {"no_worse_than": {"baseline": "old", "margin": 0.5}}
    part = {"no_worse_than": {"baseline": "old", "margin": "5%"}}
    yield Scenario("mean, max", n, "lower", {"max": 12}, absolute)
    yield Scenario("mean, no worse than, paired", n, "higher", half, paired)
    yield Scenario("  of skewed differences", n, "higher", half, skewed)
    yield Scenario("  margin 5 %", n, "higher", part, relative)
    yield Scenario("  unpaired", n, "higher", half, unpaired, paired=False)


def prompt_scenarios(prompts: int, per_prompt: int) -> Iterator[Scenario]:
    """CLIP-like scores of several samples per prompt: half of what varies is the prompt's.

    Counted as independent samples, 8 of each prompt passed 16 % of what stood at the margin (`min`; paired likewise).
    """
    n = prompts * per_prompt
    wide = math.sqrt((0.5 + 0.5 / per_prompt) / prompts)  # the standard error of the mean, in standard deviations

    def spread(rng: np.random.Generator, sd: float) -> Each:
        return sd * math.sqrt(0.5) * (np.repeat(rng.normal(size=prompts), per_prompt) + rng.normal(size=n))

    def scored(each: Each) -> Drawn:
        return float(each.mean()), stderr_of_mean(by_cluster(each, np.arange(n) // per_prompt).tolist()), each

    def absolute(rng: np.random.Generator, beyond: float) -> dict[str, Drawn]:
        return {"new": scored(30 - beyond * 5 * wide + spread(rng, 5))}

    def paired(rng: np.random.Generator, beyond: float) -> dict[str, Drawn]:
        old = 30 + spread(rng, 5)
        return {"old": scored(old), "new": scored(old - 0.5 - beyond * 0.8 * wide + spread(rng, 0.8))}

    text = f"mean, {per_prompt} per prompt"
    yield Scenario(f"{text}, min", n, "higher", {"min": 30}, absolute, per_prompt=per_prompt)
    half = {"no_worse_than": {"baseline": "old", "margin": 0.5}}
    yield Scenario(f"{text}, no worse than", n, "higher", half, paired, per_prompt=per_prompt)


def share_scenarios(n: int) -> Iterator[Scenario]:
    """Precision-like scores: each sample counts as 0 or 1; at 0.98, where the plain standard error is at its worst."""

    def absolute(rng: np.random.Generator, beyond: float) -> dict[str, Drawn]:
        p = min(max(0.98 - beyond * math.sqrt(0.98 * 0.02 / n), 0), 1)
        return {"new": of_mean((rng.random(n) < p).astype(float))}

    def paired(rng: np.random.Generator, beyond: float) -> dict[str, Drawn]:
        u = rng.random(n)  # a sample that is hard for the one is hard for the other
        p = 0.93 - beyond * math.sqrt(0.05 * 0.95 / n)
        return {"old": of_mean((u < 0.98).astype(float)), "new": of_mean((u < p).astype(float))}

    yield Scenario("share, min 0.98", n, "higher", {"min": 0.98}, absolute)
    margin = {"no_worse_than": {"baseline": "old", "margin": 0.05}}
    yield Scenario("share, no worse than, paired", n, "higher", margin, paired)


def within_scenarios(n: int, per_prompt: int = 1) -> Iterator[Scenario]:
    """CLIP-like scores that must lie within six standard errors of the baseline's; the candidate is on the one edge.

    Six standard errors of so many samples: a candidate that is truly the same then passes nearly always.
    """
    prompts = n // per_prompt
    wide = math.sqrt((0.5 + 0.5 / per_prompt) / prompts)

    def spread(rng: np.random.Generator, sd: float) -> Each:
        shared = np.repeat(rng.normal(size=prompts), per_prompt)
        return sd * math.sqrt(0.5) * (shared + rng.normal(size=n))

    def scored(each: Each) -> Drawn:
        clusters = np.arange(n) // per_prompt
        return float(each.mean()), stderr_of_mean(by_cluster(each, clusters).tolist()), each

    def paired(rng: np.random.Generator, beyond: float) -> dict[str, Drawn]:
        old = 30 + spread(rng, 5)
        return {"old": scored(old), "new": scored(old - (6 + beyond) * 0.8 * wide + spread(rng, 0.8))}

    def better(rng: np.random.Generator, beyond: float) -> dict[str, Drawn]:
        old = 30 + spread(rng, 5)
        return {"old": scored(old), "new": scored(old + (6 + beyond) * 0.8 * wide + spread(rng, 0.8))}

    def skewed(rng: np.random.Generator, beyond: float) -> dict[str, Drawn]:
        old = rng.normal(30, 5, n)
        drop = 0.8 * (rng.exponential(1, n) - 1)
        return {"old": scored(old), "new": scored(old - (6 + beyond) * 0.8 * wide - drop)}

    def relative(rng: np.random.Generator, beyond: float) -> dict[str, Drawn]:
        old = rng.normal(30, 5, n)
        return {"old": scored(old), "new": scored((1 - 0.2 * wide) * old - beyond * 0.8 * wide + rng.normal(0, 0.8, n))}

    def unpaired(rng: np.random.Generator, beyond: float) -> dict[str, Drawn]:
        gap = (6 + beyond) * 5 * math.sqrt(2) * wide
        return {"old": scored(rng.normal(30, 5, n)), "new": scored(rng.normal(30 - gap, 5, n))}

    def rule(margin: float | str) -> dict[str, Any]:
        return {"within": {"baseline": "old", "margin": margin}}

    about = f", {per_prompt} per prompt" if per_prompt > 1 else ""
    margin = rule(6 * 0.8 * wide)
    yield Scenario(f"within, worse side{about}", n, "higher", margin, paired, per_prompt=per_prompt)
    yield Scenario(f"within, better side{about}", n, "higher", margin, better, per_prompt=per_prompt)
    if per_prompt == 1:
        yield Scenario("within, of skewed differences", n, "higher", margin, skewed)
        yield Scenario("within, a part of the baseline", n, "higher", rule(f"{20 * wide:.6f}%"), relative)
        unpaired_margin = rule(6 * 5 * math.sqrt(2) * wide)
        yield Scenario("within, unpaired", n, "higher", unpaired_margin, unpaired, paired=False)


def statistic_scenarios(n: int, per_prompt: int = 1) -> Iterator[Scenario]:
    """PSNR-like values: 30 +- 4 dB, and another's exponential tails; the limit is the true statistic.

    Of several samples per prompt half of what varies is the prompt's. How far a candidate is moved is in standard
    errors of the statistic, were the samples independent.
    """
    from scipy.stats import norm

    prompts = n // per_prompt

    def normal(rng: np.random.Generator) -> Each:
        if per_prompt == 1:
            return rng.normal(size=n)
        shared = np.repeat(rng.normal(size=prompts), per_prompt)
        return math.sqrt(0.5) * (shared + rng.normal(size=n))

    def drawn(each: Each) -> dict[str, Drawn]:
        return {"new": (float(each.mean()), float(each.std() / math.sqrt(n)), each)}

    def of_normal(q: float) -> tuple[float, Draw]:
        z = float(norm.ppf(q))
        error = 4 * math.sqrt(q * (1 - q) / n) / float(norm.pdf(z))
        return 30 + 4 * z, lambda rng, beyond: drawn(30 + 4 * normal(rng) - beyond * error)

    def of_exponential(q: float) -> tuple[float, Draw]:
        x = -math.log(1 - q)
        error = math.sqrt(q * (1 - q) / n) / (1 - q)
        return x, lambda rng, beyond: drawn(rng.exponential(1, n) + beyond * error)

    def below(p: float) -> Draw:
        def draw(rng: np.random.Generator, beyond: float) -> dict[str, Drawn]:
            share = min(max(p + beyond * math.sqrt(p * (1 - p) / n), 1e-9), 1 - 1e-9)
            return drawn(normal(rng) - float(norm.ppf(share)))  # so many below 0

        return draw

    about = f", {per_prompt} per prompt" if per_prompt > 1 else ""

    def made(name: str, rule: dict[str, Any], draw: Draw) -> Scenario:
        return Scenario(f"{name}{about}", n, "higher", rule, draw, per_prompt=per_prompt)

    for name, q in (("median", 0.5), ("p1", 0.01)):
        limit, draw = of_normal(q)
        yield made(f"{name}, min", {"statistic": name, "min": limit}, draw)
    if per_prompt == 1:
        limit, draw = of_exponential(0.99)
        yield made("p99 of exponentials, max", {"statistic": "p99", "max": limit}, draw)
    yield made("share_below 5 %, max", {"statistic": "share_below(0)", "max": 0.05}, below(0.05))


def frechet_scenarios(d: int, n: int, draws: int = 300) -> Iterator[Scenario]:
    """A real Frechet distance with its delta-method influences, of Gaussian features.

    Two generators from one latent; the truth is the distance's (or the difference's) expectation at this N, taken over
    `draws` other draws: its bias at finite N is shared by what it is compared with, and no interval sees it. How far a
    candidate is moved beyond the margin is put into the rule: its truth is fixed.
    """
    import torch
    from coverage_simulation import FRECHET, batch, scored

    rng = np.random.default_rng(d)

    def mix(scale: float) -> Each:
        return np.eye(d) + scale * rng.normal(size=(d, d)) / math.sqrt(d)

    one, two = mix(0.4), mix(0.4)
    reference = FRECHET.observe(batch({"x/y": torch.from_numpy(rng.normal(size=(20_000, d)) @ mix(0.3)).float()}))

    def draw(rng: np.random.Generator, beyond: float = 0.0) -> dict[str, Drawn]:
        latent = rng.normal(size=(n, d))
        sides = {"old": latent @ one + 0.2, "new": latent @ (0.8 * one + 0.2 * two) + 0.3}
        found = {}
        for name, features in sides.items():
            value, stderr, each = scored(FRECHET, batch({"x/y": torch.from_numpy(features).float()}), reference)
            found[name] = (value, stderr, each.numpy())
        return found

    known = [draw(rng) for _ in range(draws)]
    new = np.array([found["new"][0] for found in known])
    gap = new - np.array([found["old"][0] for found in known])

    def shifted(spread: float) -> Draw:
        def moved(rng: np.random.Generator, beyond: float) -> dict[str, Drawn]:
            found = draw(rng)
            value, stderr, each = found["new"]
            return {**found, "new": (value + beyond * spread, stderr, each)}

        return moved

    yield Scenario(f"Frechet d = {d}, max", n, "lower", {"max": float(new.mean())}, shifted(float(new.std(ddof=1))))
    # The candidate's mean difference is the margin: moved up by a constant where it is below 0.
    raised = float(max(0.0, 0.1 - gap.mean()))
    margin = {"no_worse_than": {"baseline": "old", "margin": float(gap.mean()) + raised}}
    inner = shifted(float(gap.std(ddof=1)))

    def against(rng: np.random.Generator, beyond: float) -> dict[str, Drawn]:
        found = inner(rng, beyond)
        value, stderr, each = found["new"]
        return {**found, "new": (value + raised, stderr, each)}

    yield Scenario(f"Frechet d = {d}, no worse than, paired", n, "lower", margin, against)
    apart = 6 * float(gap.std(ddof=1))
    lifted = apart - float(gap.mean())

    def edge(rng: np.random.Generator, beyond: float) -> dict[str, Drawn]:
        found = inner(rng, beyond)
        value, stderr, each = found["new"]
        return {**found, "new": (value + lifted, stderr, each)}

    within = {"within": {"baseline": "old", "margin": apart}}
    yield Scenario(f"Frechet d = {d}, within, paired", n, "lower", within, edge)
