"""Metrics of pairs of images: which pairs there are, and the score of their values.

Pairs are of samples of one set, of a sample with the baseline's, or of a sample with the image that its prompt names.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any

from evalkit.features.feature_pass import ImageSource
from evalkit.metric import PairMetric, Score, cluster_ids, with_error
from evalkit.scoring.checks import Failures
from evalkit.scoring.pair_pass import Paired, PairPass
from evalkit.scoring.protocol import MASK, OWN, Own


def form_pairs(
    metric: PairMetric, source: ImageSource, baseline: ImageSource | None, own: Own
) -> tuple[list[tuple[int, int]], ImageSource] | str:
    """The pairs of indices that a metric compares and where the second image of each is; or why there are none.

    With the baseline or the prompts' images: sample i with image i. Within a set: disjoint pairs, drawn with the
    metric's seed.
    """
    n = len(source)
    if metric.pairs in OWN:
        images = own.get(metric.pairs, f"the samples have no prompts that name {metric.pairs} images")
        if isinstance(images, str):
            return images
        if len(images) != n:
            raise ValueError(f"{images.name}: {len(images)} {metric.pairs} images for {n} samples")
        return [(i, i) for i in range(n)], images
    if metric.pairs == "baseline":
        if baseline is None:
            return "no baseline is chosen: give baseline=CELL"
        if baseline is source:
            return "this is the baseline"
        if len(baseline) != n or list(baseline.prompts) != list(source.prompts):
            return "the baseline has other prompts, or another number of samples"
        return [(i, i) for i in range(n)], baseline
    groups: dict[str | None, list[int]] = {}
    for i, prompt in enumerate(source.prompts):
        groups.setdefault(prompt if metric.pairs == "prompt" else None, []).append(i)
    pairs = _draw(list(groups.values()), metric.seed)
    if not pairs:
        return "no prompt has two samples: raise samples_per_prompt"
    return pairs[: metric.max_pairs], source


def _draw(groups: Sequence[Sequence[int]], seed: int) -> list[tuple[int, int]]:
    """Disjoint random pairs within each group, in random order."""
    import numpy as np

    rng = np.random.default_rng(seed)
    pairs: list[tuple[int, int]] = []
    for group in groups:
        order = rng.permutation(group).tolist()
        pairs += list(zip(order[0::2], order[1::2], strict=False))  # an odd one stays alone
    return [pairs[i] for i in rng.permutation(len(pairs))] if pairs else []


def pairings(
    metrics: Mapping[str, PairMetric], source: ImageSource, baseline: ImageSource | None, own: Own
) -> tuple[list[Paired], dict[str, str]]:
    """What some metrics compare of a set, those together that pair in the same way; and by metric why it has no pairs.

    Arguments: see `score_pairs`.
    """
    ways: dict[tuple[Any, ...], dict[str, PairMetric]] = {}
    for name, metric in metrics.items():
        way = (metric.pairs, metric.max_pairs, metric.seed, metric.resize_own, metric.region)
        ways.setdefault(way, {})[name] = metric
    paired: list[Paired] = []
    without: dict[str, str] = {}
    for same in ways.values():
        formed = form_pairs(next(iter(same.values())), source, baseline, own)
        masks = None
        if next(iter(same.values())).region is not None:
            masks = own.get(MASK, "the samples have no prompts that name mask images")
            formed = masks if isinstance(masks, str) else formed
        if isinstance(formed, str):
            without |= dict.fromkeys(same, formed)
        else:
            pairs, other = formed
            paired.append(Paired(same, source, other, pairs, None if isinstance(masks, str) else masks))
    return paired, without


def score_pairs(
    metrics: Mapping[str, PairMetric],
    source: ImageSource,
    baseline: ImageSource | None,
    compared: PairPass,
    own: Own,
    failed: Failures,
    clusters: Sequence[int] | None = None,
) -> dict[str, Score]:
    """Scores a set by metrics of pairs.

    Args:
        metrics: by name.
        source: the samples.
        baseline: what they are compared with by metrics that pair with the baseline, or none.
        compared: gives each pair's values.
        own: the images that the samples' own prompts name.
        failed: takes the metrics that cannot score, with the reason.
        clusters: the samples' (`evalkit.metric.cluster_ids`); none: those of one prompt.

    Returns:
        By metric that can score. The mean over the pairs and its standard error, which allows for pairs that share a
        cluster; for pairs with the baseline or a prompt's image also each sample's value.
    """
    ids = clusters if clusters is not None else cluster_ids(source.prompts)
    paired, without = pairings(metrics, source, baseline, own)
    scores = {name: Score(None, len(source), note=why) for name, why in without.items()}
    for each in paired:
        for name, values in compared.values(each, failed).items():
            score = Score(fmean(values), len(source), details={"pairs": float(len(values))})
            if each.other is source:
                stderr, count = error_within([(ids[i], ids[j]) for i, j in each.pairs], values)
                scores[name] = replace(score, stderr=stderr, clusters=count)
            else:
                scores[name] = with_error(score, values, ids)
    return scores


def error_within(pairs: Sequence[tuple[int, int]], values: Sequence[float]) -> tuple[float | None, int]:
    """The standard error of the mean over disjoint pairs of one set, and the number of clusters behind it.

    Pairs that share a cluster vary together (Aronow, Samii and Assenova 2015): with x a pair's deviation from the mean,
    the variance sums x x' over all such pairs. It is the sum over clusters of the squared sum of their pairs' x, less
    the x^2 of the pairs of two clusters, which that counts twice.

    Args:
        pairs: by pair the clusters of its two samples.
        values: of the pairs.

    Returns:
        The standard error, none of a single cluster or pair; the clusters. Where each sample is of a cluster of its own
        it is std / sqrt(pairs), and each pair counts as one.
    """
    mean, n = fmean(values), len(values)
    sums: dict[int, float] = {}
    twice = 0.0
    for (first, second), value in zip(pairs, values, strict=True):
        for cluster in {first, second}:
            sums[cluster] = sums.get(cluster, 0.0) + value - mean
        twice += (value - mean) ** 2 * (first != second)
    apart = len(sums) == sum(len(set(pair)) for pair in pairs)  # no two pairs share a cluster
    count = n if apart else len(sums)
    if count < 2:
        return None, count
    variance = max(math.fsum(total**2 for total in sums.values()) - twice, 0.0)
    return math.sqrt(variance * count / (count - 1)) / n, count
