"""What a score rests on: its protocol, the label that a reader sees, and the checks that come before any work."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

from evalkit.data.moments import Moments, moments_for
from evalkit.errors import DataError
from evalkit.extractors.base import Extractor
from evalkit.features.feature_pass import ImageSource
from evalkit.metric import Metric, OwnImage, PairMetric, ReferenceMetric
from evalkit.utils.files import sha256_file, sha256_json

Side = ImageSource | Moments  # what samples are compared with: images, or published statistics


@contextmanager
def metric_errors(name: str) -> Iterator[None]:
    """A metric says by ValueError what only the data shows (images too small, features too wide): one line of it."""
    try:
        yield
    except ValueError as error:
        raise DataError(f"metric '{name}': {' '.join(str(error).split())}") from error


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
    here = Path(__file__)
    shared = [*sorted((here.parents[1] / "numerics").glob("*.py")), here.with_name("pairs.py")]
    return sha256_json([*digests, *map(sha256_file, shared)])
