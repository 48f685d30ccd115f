"""Metrics of pairs of images: forms the pairs, reads both images of each, extracts what is needed, keeps nothing.

Pairs are of samples of one set, of a sample with the baseline's, or of a sample with the image that its prompt names.

Features of pairs may be wide (LPIPS compares whole maps), so they are not stored; each pair is read once for all
metrics that pair in the same way.
"""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import replace
from statistics import fmean
from typing import TYPE_CHECKING, Any

from evalkit.errors import UnsuitedError
from evalkit.features.feature_pass import FeaturePass, ImageSource, stacked
from evalkit.metric import Batch, PairMetric, Score, cluster_ids, with_error
from evalkit.scoring.checks import Failures, guarded
from evalkit.scoring.protocol import OWN, Own
from evalkit.utils import devices

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    Images = Sequence[NDArray[np.uint8]]  # u8 [H,W,3] each

BLOCK = 32  # pairs at a time, fewer where features are wide:
BLOCK_VALUES = 64_000_000  # LPIPS-VGG at 512 px has 28 million values per image
DEVICE_VALUES = 4 * BLOCK_VALUES  # on CUDA: 1 GB per side
BLOCKS_AHEAD = 2  # that are decoded while the network works,
READERS = min(16, os.cpu_count() or 1)  # by so many threads


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


def score_pairs(
    metrics: Mapping[str, PairMetric],
    source: ImageSource,
    baseline: ImageSource | None,
    features: FeaturePass,
    own: Own,
    failed: Failures,
    clusters: Sequence[int] | None = None,
) -> dict[str, Score]:
    """Scores a set by metrics of pairs.

    Args:
        metrics: by name.
        source: the samples.
        baseline: what they are compared with by metrics that pair with the baseline, or none.
        own: the images that the samples' own prompts name.
        failed: takes the metrics that cannot score, with the reason.
        clusters: the samples' (`evalkit.metric.cluster_ids`); none: those of one prompt.

    Returns:
        By metric that can score. The mean over the pairs and its standard error, which allows for pairs that share a
        cluster; for pairs with the baseline or a prompt's image also each sample's value.
    """
    ids = clusters if clusters is not None else cluster_ids(source.prompts)
    scores: dict[str, Score] = {}
    ways: dict[tuple[Any, ...], dict[str, PairMetric]] = {}
    for name, metric in metrics.items():
        ways.setdefault((metric.pairs, metric.max_pairs, metric.seed, metric.resize_own), {})[name] = metric
    for same in ways.values():
        formed = form_pairs(next(iter(same.values())), source, baseline, own)
        if isinstance(formed, str):
            scores |= {name: Score(None, len(source), note=formed) for name in same}
            continue
        values_by_metric: dict[str, list[float]] = {}
        try:
            values_by_metric = _distances(same, source, *formed, features, failed)
        except UnsuitedError as error:
            failed |= dict.fromkeys(same, str(error))
        for name, values in values_by_metric.items():
            details = {"pairs": float(len(values))}
            score = Score(fmean(values), len(source), details=details)
            if formed[1] is source:
                stderr, count = error_within([(ids[i], ids[j]) for i, j in formed[0]], values)
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


def _distances(
    metrics: Mapping[str, PairMetric],
    source: ImageSource,
    pairs: Sequence[tuple[int, int]],
    other: ImageSource,
    features: FeaturePass,
    failed: Failures,
) -> dict[str, list[float]]:
    addresses = list(dict.fromkeys(address for metric in metrics.values() for address in metric.needs))
    resize = next(iter(metrics.values())).resize_own
    device = devices.for_scores(features.device)
    values: dict[str, list[float]] = {name: [] for name in metrics}
    done, size = 0, 1  # the first pair shows how wide the features are
    with ThreadPoolExecutor(READERS, thread_name_prefix="decode") as pool:
        while done < len(pairs) and values:
            part = pairs[done : done + 1] if done == 0 else pairs[done:]
            for block, images in _read_ahead(pool, source, other, part, size):
                first = _batch(source, [i for i, _ in block], images[0], addresses, features)
                theirs = _resized(images[1], _size(first)) if resize else images[1]
                second = _batch(other, [j for _, j in block], theirs, addresses, features)
                if _size(first) != _size(second):
                    sizes = " and ".join("{1}x{0}".format(*_size(batch)) for batch in (first, second))
                    fix = "resize one of them to the other"
                    raise UnsuitedError(f"{source.name} and {other.name}: images of {sizes} cannot be paired: {fix}")
                _measure(metrics, values, (first, second), device, failed)
                values = {name: each for name, each in values.items() if name not in failed}
                if not values:
                    break
                done += len(block)
                if features.progress is not None:
                    features.progress(f"{source.name} (pairs)", done, len(pairs))
            most = BLOCK_VALUES if device == "cpu" else DEVICE_VALUES
            size = max(1, min(BLOCK, most // max(sum(value.shape[1] for value in first.features.values()), 1)))
    return values


def _measure(
    metrics: Mapping[str, PairMetric],
    values: Mapping[str, list[float]],
    pair: tuple[Batch, Batch],
    device: str,
    failed: Failures,
) -> None:
    """Adds a block's distances to the values of each metric: all that comes back from the device."""
    for on_device, where in ((True, device), (False, "cpu")):
        chosen = [name for name in values if metrics[name].on_device == on_device]
        if not chosen:
            continue
        first, second = (batch.to(where) for batch in pair)
        for name in chosen:
            with guarded(name, failed):
                values[name].extend(metrics[name].distance(first, second).tolist())


def _read_ahead(
    pool: Executor, source: ImageSource, other: ImageSource, pairs: Sequence[tuple[int, int]], size: int
) -> Iterator[tuple[Sequence[tuple[int, int]], tuple[Images, Images]]]:
    """Blocks of pairs and their decoded images, in order; a few blocks are read ahead."""
    waiting: deque[tuple[Sequence[tuple[int, int]], list[list[Future[Images]]]]] = deque()
    try:
        for start in range(0, len(pairs), size):
            block = pairs[start : start + size]
            sides = ((source, [i for i, _ in block]), (other, [j for _, j in block]))
            waiting.append((block, [[pool.submit(of.read, part) for part in _runs(where)] for of, where in sides]))
            if len(waiting) > BLOCKS_AHEAD:
                yield _arrived(*waiting.popleft())
        while waiting:
            yield _arrived(*waiting.popleft())
    finally:
        for _, sides_read in waiting:
            for future in (future for side in sides_read for future in side):
                future.cancel()


def _arrived(
    block: Sequence[tuple[int, int]], sides: Sequence[Sequence[Future[Images]]]
) -> tuple[Sequence[tuple[int, int]], tuple[Images, Images]]:
    first, second = ([image for future in side for image in future.result()] for side in sides)
    return block, (first, second)


def _runs(indices: Sequence[int]) -> list[range]:
    """Consecutive indices as one range, others one by one."""
    whole = range(indices[0], indices[0] + len(indices))
    return [whole] if list(indices) == list(whole) else [range(i, i + 1) for i in indices]


def _resized(images: Images, size: tuple[int, int]) -> Images:
    """Images at a size (height, width); one of that size stays as it is."""
    import numpy as np
    from PIL import Image

    return [np.asarray(Image.fromarray(x).resize(size[::-1], Image.Resampling.LANCZOS)) for x in images]


def _batch(
    source: ImageSource, indices: Sequence[int], images: Images, addresses: Sequence[str], features: FeaturePass
) -> Batch:
    """The images and features at some indices."""
    import torch

    extracted: dict[str, Tensor] = features.extract(source, images, addresses)
    prompts = [source.prompts[i] for i in indices]
    return Batch(stacked(source, images), torch.tensor(list(indices)), len(source), prompts, extracted)


def _size(batch: Batch) -> tuple[int, int]:
    """Height and width of its images."""
    assert batch.images is not None
    return batch.images.shape[2], batch.images.shape[3]
