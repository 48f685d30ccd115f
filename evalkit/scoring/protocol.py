"""What a score rests on: what samples are compared with, the protocol of it, and the label that a reader sees."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

from evalkit.data.moments import SPATIAL_LAYER, Moments
from evalkit.extractors.base import Extractor
from evalkit.features.feature_pass import ImageSource
from evalkit.metric import Metric, OwnImage, PairMetric, ReferenceMetric

Side = ImageSource | Moments  # what samples are compared with: images, or published statistics

OWN: tuple[str, ...] = get_args(OwnImage)
MASK = "mask"  # the kind of the images that say where a metric's `region` is

Own = Mapping[str, ImageSource | str]
"""By kind ("target", ...): an image for each sample of a set, in their order; or why there are none."""


@dataclass(frozen=True)
class Against:
    """What samples are compared with.

    Attributes:
        reference: the reference images, or their published statistics; needed where a metric compares with them.
        training: the images that the models were trained on, for metrics of memorisation.
        baseline: the source that metrics of pairs compare with, one of those that are scored.
        baselines: by source, another baseline than that: of sets of several seeds, the one of the same seed.
        own: by source: the images that its samples' own prompts name.
    """

    reference: Side | None = None
    training: Side | None = None
    baseline: ImageSource | None = None
    own: Mapping[str, Own] = field(default_factory=dict)
    baselines: Mapping[str, ImageSource] = field(default_factory=dict)

    @property
    def sides(self) -> dict[str, Side | None]:
        """What `ReferenceMetric.sides` names."""
        return {"reference": self.reference, "training": self.training}


def side_for(given: Side | None, metric: Metric) -> Side | None:
    """What of a side a metric is given: where it holds moments of the metric's layer next to images, these."""
    moments: Moments | None = getattr(given, "moments", None)
    takes = isinstance(metric, ReferenceMetric) and metric.takes_moments and len(metric.needs) == 1
    if moments is None or not takes or not moments.are_of(metric.needs[0]):
        return given
    return moments.spatial if metric.needs[0].endswith(f"/{SPATIAL_LAYER}") else moments


def label_scheme(source: ImageSource) -> str:
    """How the classes of a set's samples were chosen: "equal", as many of each but for one; "random"; "unknown"."""
    classes = getattr(source, "class_ids", None) or getattr(source, "categories", None) or ()
    counts = Counter(classes)
    if not counts or None in counts:
        return "unknown"
    return "equal" if max(counts.values()) - min(counts.values()) <= 1 else "random"


def column_label(metric: Metric, extractors: Mapping[str, Extractor]) -> str:
    """The metric's title; with the extractor's label where it is not the one that the bare title stands for.

    The bare title needs the addresses of the metric's class, and the published weights behind them. Metrics of pairs
    with a prompt's own images say with which: "PSNR (target)".
    """
    title = metric.title
    if isinstance(metric, PairMetric) and metric.pairs in OWN:
        title = f"{title} ({metric.pairs})"
    tags = []
    for address in metric.needs:
        name, _, layer = address.partition("/")
        extractor = extractors[name]
        titled = metric.title != type(metric).title  # a title of its own names the features too
        if not extractor.canonical():
            tags.append(extractor.label())
        elif address not in type(metric).needs and not titled:
            tags.append(f"{extractor.label()}/{layer}")
    return f"{title} [{', '.join(dict.fromkeys(tags))}]" if tags else title


def make_protocol(
    metric: Metric, extractors: Mapping[str, Extractor], n: int, against: Against, own: Own, labels: str | None = None
) -> dict[str, Any]:
    """All that must agree for scores to be compared, as JSON. A metric whose numbers change raises its `revision`.

    Args:
        metric: which, on `n` samples.
        extractors: by name.
        against, own: what the samples are compared with, and the images that their own prompts name.
        labels: how their classes were chosen, where that belongs to the protocol (`label_scheme`).
    """
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
        sides = {side: side_for(against.sides[side], metric) for side in metric.sides}
        protocol |= {side: _describe(given) for side, given in sides.items() if given is not None}
    if isinstance(metric, PairMetric):
        protocol |= _describe_pairs(metric, against.baseline, own)
        masks = own.get(MASK)
        if metric.region is not None and masks is not None and not isinstance(masks, str):
            protocol |= {"region": metric.region, MASK: _describe(masks)}
    return protocol if labels is None else {**protocol, "labels": labels}


def error_kind(clusters: Sequence[int]) -> str:
    """What standard errors go by: "by prompt" where samples share clusters, else "by sample"."""
    return "by prompt" if len(set(clusters)) < len(clusters) else "by sample"


def _describe_pairs(metric: PairMetric, baseline: ImageSource | None, own: Own) -> dict[str, Any]:
    if metric.pairs == "baseline":
        compared = {"baseline": _describe(baseline)} if baseline is not None else {}
        return {"pairs": {"of": metric.pairs}, **compared}
    if metric.pairs in OWN:
        images = own.get(metric.pairs)
        compared = {metric.pairs: _describe(images)} if images is not None and not isinstance(images, str) else {}
        return {"pairs": {"of": metric.pairs} | ({"resized": True} if metric.resize_own else {}), **compared}
    return {"pairs": {"of": metric.pairs, "max_pairs": metric.max_pairs, "seed": metric.seed}}


def _describe(given: Side) -> dict[str, Any]:
    n = given.n if isinstance(given, Moments) else len(given)
    conversion = getattr(given, "conversion", None)
    profiles = {"profiles": conversion} if conversion else {}
    return {"digest": given.digest, "n": n} | profiles | ({"statistics": True} if isinstance(given, Moments) else {})
