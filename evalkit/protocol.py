"""What a score rests on: its protocol, the label that a reader sees, and the checks that come before any work."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

from evalkit.errors import ConfigError, DataError, nearest
from evalkit.extractors.base import Extractor
from evalkit.features import ImageSource
from evalkit.metric import Metric, ModelMetric, OwnImage, Pairing, PairMetric, ReferenceMetric
from evalkit.moments import Moments, moments_for
from evalkit.paths import sha256_file, sha256_json

Side = ImageSource | Moments  # what samples are compared with: images, or published statistics

SHARED_NUMERICS = ("blocks", "edges", "gaussians", "pairs")

_GIVE = {
    "reference": "reference=folder reference.folder.path=DIR",
    "training": "reference@training=folder training.folder.path=DIR",
}


def check_counts(metrics: Mapping[str, Metric], counts: Mapping[str, int], sides: Mapping[str, Side | None]) -> None:
    """Refuses sets that are too small for a metric, and sides that are missing, before any work.

    Args:
        metrics: by name.
        counts: number of samples of each set, by name.
        sides: "reference" and "training": what the samples are compared with, or none.

    Raises:
        ConfigError: names the metric, the set, both numbers and how to mend it; or a missing side.
    """
    for name, metric in metrics.items():
        for cell, count in counts.items():
            if count < metric.min_samples:
                raise ConfigError(
                    f"metric '{name}' needs at least {metric.min_samples} samples, but {cell} has {count}: "
                    f"raise num_samples, or leave '{name}' out of metric=[...]"
                )
        if isinstance(metric, ReferenceMetric):
            for side in metric.sides:
                _check_side(name, metric, side, sides.get(side))


def check_pairs(metrics: Mapping[str, Metric], baseline: str | None, own: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuses metrics of pairs that pair in no known way, or with images that no cell has (ConfigError).

    Args:
        metrics: by name.
        baseline: the baseline cell, or none.
        own: by cell and kind: the images that the prompts name, or the reason why there are none.
    """
    for name, metric in metrics.items():
        if not isinstance(metric, PairMetric):
            continue
        if metric.pairs not in get_args(Pairing):
            raise ConfigError(f"metric.{name}.pairs={metric.pairs}: {nearest(str(metric.pairs), get_args(Pairing))}")
        if metric.pairs == "baseline" and baseline is None:
            raise ConfigError(f"metric '{name}' compares each cell with the baseline: give baseline=CELL")
        if metric.pairs in get_args(OwnImage) and all(isinstance(o.get(metric.pairs, ""), str) for o in own.values()):
            raise ConfigError(
                f"metric '{name}' compares each sample with its prompt's {metric.pairs} image, but no cell has any: "
                f"give a prompt set that names them (prompts.table.{metric.pairs}=COLUMN)"
            )


def check_models(metrics: Mapping[str, Metric], extractors: Mapping[str, Extractor]) -> None:
    """Refuses metrics of models whose extractor takes rounded images alone (ConfigError)."""
    for name, metric in metrics.items():
        for address in metric.needs if isinstance(metric, ModelMetric) else ():
            extractor = extractors[address.partition("/")[0]]
            if type(extractor).embed is Extractor.embed:
                raise ConfigError(
                    f"metric.{name} needs '{address}' of images that are not rounded, and that extractor takes 8-bit "
                    "images alone: use lpips_vgg/phi, lpips_alex/phi or digits/features"
                )


@contextmanager
def metric_errors(name: str) -> Iterator[None]:
    """A metric says by ValueError what only the data shows (images too small, features too wide): one line of it."""
    try:
        yield
    except ValueError as error:
        raise DataError(f"metric '{name}': {' '.join(str(error).split())}") from error


def _check_side(name: str, metric: ReferenceMetric, side: str, given: Side | None) -> None:
    if given is None:
        raise ConfigError(
            f"metric '{name}' compares with {side} images, but there are none: give {_GIVE[side]}, "
            f"or leave '{name}' out of metric=[...]"
        )
    if isinstance(given, Moments):
        if type(metric).from_moments is ReferenceMetric.from_moments:
            raise ConfigError(
                f"metric '{name}' needs the {side} images themselves, but {given.name} holds statistics (mean and "
                f"covariance) alone: give {_GIVE[side]}, or leave '{name}' out of metric=[...]"
            )
    elif len(given) < metric.min_reference:
        raise ConfigError(
            f"metric '{name}' needs at least {metric.min_reference} {side} images, but there are {len(given)}"
        )


def check_moments(
    metrics: Mapping[str, Metric], extractors: Mapping[str, Extractor], sides: Mapping[str, Side | None]
) -> None:
    """Refuses published statistics that are not of the layer and extractor that a metric uses (ConfigError)."""
    for metric in metrics.values():
        for side in metric.sides if isinstance(metric, ReferenceMetric) else ():
            given = sides.get(side)
            if isinstance(given, Moments):
                select_moments(given, metric, extractors)


def select_moments(given: Moments, metric: Metric, extractors: Mapping[str, Extractor]) -> Moments:
    """The pair of moments that belongs to a metric's features, checked to be of the extractor in use."""
    address = metric.needs[0]
    name, _, layer = address.partition("/")
    return moments_for(given, address, extractors[name].identity(), extractors[name].layers[layer])


def column_label(metric: Metric, extractors: Mapping[str, Extractor]) -> str:
    """The metric's title; with the extractor's label where it is not the one that the bare title stands for.

    The bare title needs the addresses that the metric has by default, and the published weights behind them. Metrics
    of pairs with a prompt's own images say with which: "PSNR (target)".
    """
    title = metric.title
    if isinstance(metric, PairMetric) and metric.pairs in get_args(OwnImage):
        title = f"{title} ({metric.pairs})"
    usual = [p.default for p in inspect.signature(type(metric)).parameters.values()]
    tags = []
    for address in metric.needs:
        name, _, layer = address.partition("/")
        extractor = extractors[name]
        if not extractor.canonical():
            tags.append(extractor.label())
        elif address not in usual and metric.title == type(metric).title:  # a title of its own names the features too
            tags.append(f"{extractor.label()}/{layer}")
    return f"{title} [{', '.join(dict.fromkeys(tags))}]" if tags else title


def make_protocol(
    metric: Metric,
    extractors: Mapping[str, Extractor],
    n: int,
    sides: Mapping[str, Side | None],
    baseline: ImageSource | None = None,
    own: Mapping[str, ImageSource | str] | None = None,
) -> dict[str, Any]:
    """All that must agree for scores to be compared. A metric whose numbers change raises its class's `revision`."""
    kind = type(metric)
    protocol: dict[str, Any] = {
        "metric": f"{kind.__module__}.{kind.__qualname__}",
        "revision": getattr(kind, "revision", 1),
        "constants": metric.constants(),
        "features": {address: extractors[address.partition("/")[0]].identity() for address in metric.needs},
        "n": n,
        "reference": None,
    }
    if isinstance(metric, ReferenceMetric):
        protocol |= {side: _describe(given) for side in metric.sides if (given := sides.get(side)) is not None}
    if isinstance(metric, PairMetric):
        protocol |= _describe_pairs(metric, baseline, own or {})
    return protocol


def _describe_pairs(
    metric: PairMetric, baseline: ImageSource | None, own: Mapping[str, ImageSource | str]
) -> dict[str, Any]:
    if metric.pairs == "baseline":
        compared = {"baseline": _describe(baseline)} if baseline is not None else {}
        return {"pairs": {"of": metric.pairs}, **compared}
    if metric.pairs in get_args(OwnImage):
        images = own.get(metric.pairs)
        compared = {metric.pairs: _describe(images)} if images is not None and not isinstance(images, str) else {}
        return {"pairs": {"of": metric.pairs} | ({"resized": True} if metric.resize_own else {}), **compared}
    return {"pairs": {"of": metric.pairs, "max_pairs": metric.max_pairs, "seed": metric.seed}}


def _describe(given: Side) -> dict[str, Any]:
    n = given.n if isinstance(given, Moments) else len(given)
    return {"digest": given.digest, "n": n} | ({"statistics": True} if isinstance(given, Moments) else {})


def code_digest(metric: Metric) -> str:
    """Digest of the sources of the metric's class, of its bases and of what plugins share: an edited metric is new."""
    digests = []
    for kind in type(metric).__mro__:
        if kind.__module__ in ("builtins", "abc", "typing"):
            continue
        try:
            digests.append(sha256_file(Path(inspect.getfile(kind))))
        except (OSError, TypeError):  # a class of an interactive session has no file
            digests.append(kind.__qualname__)
    leaves = (*SHARED_NUMERICS, "interpolation") if isinstance(metric, ModelMetric) else SHARED_NUMERICS
    return sha256_json([*digests, *(sha256_file(Path(__file__).with_name(f"{leaf}.py")) for leaf in leaves)])
