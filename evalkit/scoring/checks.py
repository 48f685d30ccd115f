"""Refuses what cannot be scored: before any work, and where only the data shows it."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, get_args

from evalkit.data.moments import Moments, moments_for
from evalkit.errors import ConfigError, EvalkitError, UnsuitedError, nearest
from evalkit.extractors.base import Extractor
from evalkit.metric import Metric, ModelMetric, Pairing, PairMetric, ReferenceMetric
from evalkit.scoring.protocol import OWN, Own, Side, side_for
from evalkit.utils import devices
from evalkit.utils.text import one_line

log = logging.getLogger(__name__)

Failures = dict[str, str]
"""By metric why it cannot score: in the words of a note under the table."""

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
        ConfigError: names the metric, the set, both numbers and how to fix it; or a missing side.
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


def check_texts(
    metrics: Mapping[str, Metric], texts: Mapping[str, Sequence[str | None]], extractors: Mapping[str, Extractor]
) -> None:
    """Lets each metric refuse prompts and extractors that it could not score (`Metric.check`): ConfigError."""
    for name, metric in metrics.items():
        try:
            metric.check(texts, extractors)
        except ValueError as error:
            raise ConfigError(f"metric.{name}: {one_line(error)}") from error


def check_pairs(metrics: Mapping[str, Metric], baseline: str | None, own: Mapping[str, Own]) -> None:
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
        if metric.pairs in OWN and all(isinstance(images.get(metric.pairs, ""), str) for images in own.values()):
            raise ConfigError(
                f"metric '{name}' compares each sample with its prompt's {metric.pairs} image, but no cell has any: "
                f"give a prompt set that names them (prompts.table.{metric.pairs}=COLUMN)"
            )


def check_models(metrics: Mapping[str, Metric], extractors: Mapping[str, Extractor]) -> None:
    """Refuses metrics of models whose extractor takes rounded images alone (ConfigError)."""
    for name, metric in metrics.items():
        for address in metric.needs if isinstance(metric, ModelMetric) else ():
            extractor = extractors[address.partition("/")[0]]
            if not extractor.embeds:
                raise ConfigError(
                    f"metric.{name} needs '{address}' of images that are not rounded, and that extractor takes 8-bit "
                    "images alone: use lpips_vgg/phi, lpips_alex/phi or digits/features"
                )


def _check_side(name: str, metric: ReferenceMetric[Any], side: str, given: Side | None) -> None:
    given = side_for(given, metric)
    fix = f"give {_GIVE[side]}, or leave '{name}' out of metric=[...]"
    if given is None:
        raise ConfigError(f"metric '{name}' compares with {side} images, but there are none: {fix}")
    if isinstance(given, Moments):
        if not metric.takes_moments:
            holds = f"{given.name} holds statistics (mean and covariance) alone"
            raise ConfigError(f"metric '{name}' needs the {side} images themselves, but {holds}: {fix}")
    elif len(given) < metric.min_reference:
        counts = f"at least {metric.min_reference} {side} images, but there are {len(given)}"
        raise ConfigError(f"metric '{name}' needs {counts}")


def check_moments(
    metrics: Mapping[str, Metric], extractors: Mapping[str, Extractor], sides: Mapping[str, Side | None]
) -> None:
    """Refuses published statistics that are not of the layer and extractor that a metric uses (ConfigError)."""
    for metric in metrics.values():
        for side in metric.sides if isinstance(metric, ReferenceMetric) else ():
            given = side_for(sides.get(side), metric)
            if isinstance(given, Moments):
                select_moments(given, metric, extractors)


def select_moments(given: Moments, metric: Metric, extractors: Mapping[str, Extractor]) -> Moments:
    """The pair of moments that belongs to a metric's features, checked to be of the extractor in use."""
    address = metric.needs[0]
    name, _, layer = address.partition("/")
    return moments_for(given, address, extractors[name].identity(), extractors[name].layers[layer])


@contextmanager
def guarded(name: str, failed: Failures) -> Iterator[None]:
    """A metric that fails here goes into `failed`, with the reason in one line, and the others go on.

    What is wrong with the images, the store or the configuration itself still ends the run.
    """
    try:
        yield
    except UnsuitedError as error:
        failed[name] = str(error)
    except EvalkitError:
        raise
    except Exception as error:
        log.debug("metric '%s' failed", name, exc_info=True)
        if devices.is_out_of_memory(error):
            failed[name] = "it ran out of memory: give it smaller batches (batch_size), or fewer samples"
        elif isinstance(error, ValueError):  # the metric's own words: images too small, say
            failed[name] = one_line(error)
        else:
            failed[name] = f"{type(error).__name__.lstrip('_')}: {one_line(error)}"
