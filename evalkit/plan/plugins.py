"""The metrics, extractors and engine that a configuration names, built and looked at before any work."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from evalkit.config.build import build, factory_of
from evalkit.config.schema import RunConfig
from evalkit.engines.base import Engine
from evalkit.engines.factory import choose as choose_engine
from evalkit.errors import ConfigError, nearest
from evalkit.extractors.base import Extractor
from evalkit.metric import Metric
from evalkit.plan.grid import Missing

if TYPE_CHECKING:
    from evalkit.judges.place import AnswerPlace


def build_metrics(config: RunConfig) -> dict[str, Metric]:
    """The chosen metrics, by name."""
    return {name: build(option, f"metric.{name}", Metric) for name, option in config.metric.items()}


def build_engine(config: RunConfig) -> Engine:
    """The run's engine; a process of a gang takes its part of the machine here, before torch is asked for devices."""
    engine: Engine | None = None
    for name, option in config.engine.items():
        where = f"engine.{name}"
        if not callable(getattr(factory_of(option, where, object), "map", None)):  # Engine is a protocol: no base class
            raise ConfigError(f"{where}: {option['_target_']} has no map(work): see evalkit.engines.base.Engine")
        engine = build(option, where)
    return choose_engine(engine, config.device)


def build_extractors(
    config: RunConfig, metrics: Mapping[str, Metric], missing: Missing, answers: AnswerPlace | None = None
) -> dict[str, Extractor]:
    """The extractors that metrics need, by name, whose weights are there. ConfigError: no such extractor or layer.

    `answers`: where the run's store holds judges' answers; none: there is no store.
    """
    extractors: dict[str, Extractor] = {}
    for metric_name, metric in metrics.items():
        for address in metric.needs:
            name, _, layer = address.partition("/")
            if name not in config.extractor:
                raise ConfigError(
                    f"metric.{metric_name} needs '{address}', but there is no extractor '{name}'. "
                    + nearest(name, config.extractor)
                )
            if name not in extractors:
                extractors[name] = build(config.extractor[name], f"extractor.{name}", Extractor)
            if layer not in extractors[name].layers:
                raise ConfigError(
                    f"metric.{metric_name} needs '{address}', but extractor '{name}' has no layer '{layer}'. "
                    + nearest(layer, extractors[name].layers)
                )
    for name, extractor in extractors.items():
        if answers is not None:
            extractor.keep_in(answers)
        with missing.noted(f"extractor.{name}"):
            extractor.check(fetch=not missing.dry)
    return extractors
