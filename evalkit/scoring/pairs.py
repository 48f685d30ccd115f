"""Metrics of pairs of images: forms the pairs, reads both images of each, extracts what is needed, keeps nothing.

Pairs are of samples of one set, of a sample with the baseline's, or of a sample with the image that its prompt names.

Features of pairs may be wide (LPIPS compares whole maps), so they are not stored; each pair is read once for all
metrics that pair in the same way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from evalkit.errors import DataError
from evalkit.features.feature_pass import FeaturePass, ImageSource
from evalkit.metric import Batch, PairMetric, Score
from evalkit.scoring.checks import metric_errors
from evalkit.scoring.protocol import OWN, Own

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

BLOCK = 32  # pairs at a time, fewer where features are wide:
BLOCK_VALUES = 64_000_000  # LPIPS-VGG at 512 px has 28 million values per image


def form_pairs(
    metric: PairMetric, source: ImageSource, baseline: ImageSource | None, own: Own
) -> list[tuple[int, int]] | str:
    """The pairs of indices that a metric compares, or the reason why there are none.

    With the baseline or the prompts' images: sample i with image i. Within a set: disjoint pairs, drawn with the
    metric's seed.
    """
    n = len(source)
    if metric.pairs in OWN:
        images = own.get(metric.pairs, f"the samples have no prompts that name {metric.pairs} images")
        return images if isinstance(images, str) else [(i, i) for i in range(n)]
    if metric.pairs == "baseline":
        if baseline is None:
            return "no baseline is chosen: give baseline=CELL"
        if baseline is source:
            return "this is the baseline"
        if len(baseline) != n or list(baseline.prompts) != list(source.prompts):
            return "the baseline has other prompts, or another number of samples"
        return [(i, i) for i in range(n)]
    groups: dict[str | None, list[int]] = {}
    for i, prompt in enumerate(source.prompts):
        groups.setdefault(prompt if metric.pairs == "prompt" else None, []).append(i)
    pairs = _draw(list(groups.values()), metric.seed)
    if not pairs:
        return "no prompt has two samples: raise samples_per_prompt"
    return pairs[: metric.max_pairs]


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
) -> dict[str, Score]:
    """Scores a set by metrics of pairs.

    Args:
        metrics: by name.
        source: the samples.
        baseline: what they are compared with by metrics that pair with the baseline, or none.
        features: extracts what the metrics need.
        own: the images that the samples' own prompts name.

    Returns:
        By metric. The mean over the pairs and its standard error, std / sqrt(pairs), since pairs are disjoint; for
        pairs with the baseline or a prompt's image also each sample's value.
    """
    scores: dict[str, Score] = {}
    ways: dict[tuple[Any, ...], dict[str, PairMetric]] = {}
    for name, metric in metrics.items():
        ways.setdefault((metric.pairs, metric.max_pairs, metric.seed, metric.resize_own), {})[name] = metric
    for same in ways.values():
        way = next(iter(same.values()))
        pairs = form_pairs(way, source, baseline, own)
        if isinstance(pairs, str):
            scores |= {name: Score(None, len(source), note=pairs) for name in same}
            continue
        other = _other(way, source, baseline, own)
        for name, values in _distances(same, source, other, pairs, features).items():
            scores[name] = _mean(values, len(source), within=other is source)
    return scores


def _other(way: PairMetric, source: ImageSource, baseline: ImageSource | None, own: Own) -> ImageSource:
    """Where the second image of each pair comes from."""
    if way.pairs in OWN:
        images = own[way.pairs]
        assert not isinstance(images, str)  # form_pairs gives the reason, and no pairs
        if len(images) != len(source):
            raise ValueError(f"{images.name}: {len(images)} {way.pairs} images for {len(source)} samples")
        return images
    return baseline if way.pairs == "baseline" and baseline is not None else source


def _mean(values: Sequence[float], n: int, within: bool) -> Score:
    import numpy as np

    each = np.asarray(values)
    stderr = float(each.std(ddof=1) / len(each) ** 0.5) if len(each) > 1 else None
    influence = None if within else tuple(each.tolist())
    return Score(float(each.mean()), n, stderr, influence, details={"pairs": float(len(each))})


def _distances(
    metrics: Mapping[str, PairMetric],
    source: ImageSource,
    other: ImageSource,
    pairs: Sequence[tuple[int, int]],
    features: FeaturePass,
) -> dict[str, list[float]]:
    addresses = list(dict.fromkeys(address for metric in metrics.values() for address in metric.needs))
    resize = next(iter(metrics.values())).resize_own
    values: dict[str, list[float]] = {name: [] for name in metrics}
    start, size = 0, 1  # the first pair shows how wide the features are
    while start < len(pairs):
        block = pairs[start : start + size]
        first = _batch(source, [i for i, _ in block], addresses, features)
        assert first.images is not None
        size_of_first = tuple(first.images.shape[2:]) if resize else None
        second = _batch(other, [j for _, j in block], addresses, features, size_of_first)
        assert second.images is not None
        if first.images.shape != second.images.shape:
            sizes = ["{1}x{0}".format(*batch.shape[2:]) for batch in (first.images, second.images)]
            raise DataError(
                f"{source.name} and {other.name}: images of {sizes[0]} and {sizes[1]} cannot be paired: "
                "resize one of them to the other"
            )
        for name, metric in metrics.items():
            with metric_errors(name):
                values[name] += metric.distance(first, second).tolist()
        start += len(block)
        width = sum(value.shape[1] for value in first.features.values())
        size = max(1, min(BLOCK, BLOCK_VALUES // max(width, 1)))
        if features.progress is not None:
            features.progress(f"{source.name} (pairs)", start, len(pairs))
    return values


def _batch(
    source: ImageSource,
    indices: Sequence[int],
    addresses: Sequence[str],
    features: FeaturePass,
    size: tuple[int, ...] | None = None,
) -> Batch:
    """The images and features at some indices; with `size` (height, width) other images are resized to it."""
    import torch

    images = _read(source, indices)
    if size is not None:
        images = [image if image.shape[:2] == size else _resized(image, size) for image in images]
    extracted: dict[str, Tensor] = features.extract(source, images, addresses)
    prompts = [source.prompts[i] for i in indices]
    return Batch(_stack(source, images), torch.tensor(list(indices)), len(source), prompts, extracted)


def _read(source: ImageSource, indices: Sequence[int]) -> list[NDArray[np.uint8]]:
    if list(indices) == list(range(indices[0], indices[0] + len(indices))):
        return source.read(range(indices[0], indices[0] + len(indices)))
    return [source.read(range(i, i + 1))[0] for i in indices]


def _resized(image: NDArray[np.uint8], size: tuple[int, ...]) -> NDArray[np.uint8]:
    import numpy as np
    from PIL import Image

    return np.asarray(Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.LANCZOS))


def _stack(source: ImageSource, images: Sequence[NDArray[np.uint8]]) -> Tensor:
    """u8 [H,W,3] each -> u8 [B,3,H,W]."""
    import numpy as np
    import torch

    sizes = {image.shape for image in images}
    if len(sizes) > 1:
        raise DataError(f"{source.name}: metrics of pairs need images of one size, but there are {sorted(sizes)[:3]}")
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)  # NHWC -> NCHW
