"""The configuration of a command line's words, and of a call from Python: metrics by name, the rest as there."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

from evalkit.config.compose import compose, default_extractors, group_options
from evalkit.config.overrides import METRICS, leaves_metrics_open
from evalkit.config.words import read_words
from evalkit.errors import ConfigError, nearest

Place = str | os.PathLike[str] | Mapping[str, Any]
"""Where images are: a path or a URL, or an option with its `_target_`."""


def compose_words(
    words: Sequence[str],
    reference: str | None = None,
    config_dir: str | None = None,
    *,
    commands: Sequence[str] = (),
    config_name: str = "eval",
) -> tuple[DictConfig, bool]:
    """Composes the words of a run.

    Args:
        words: folders and overrides, as on the command line.
        reference: that of `--reference`.
        config_dir: a folder with YAMLs of the user's own.
        commands: names that a misspelt word may have meant.
        config_name: the root's YAML.

    Returns:
        The configuration, and whether its metrics are candidates of which the plan chooses (`make_plan`).

    Raises:
        ConfigError: a word, a key or an option that is not there (the nearest is offered).
    """
    read = read_words(words, reference, commands, group_options("model", config_dir))
    choose = leaves_metrics_open(read.overrides, bool(read.folders))
    overrides = [*read.overrides, *([f"metric=[{','.join(METRICS)}]"] if choose else [])]
    config = compose(overrides, config_dir, folders=read.folders, reference=read.reference, config_name=config_name)
    return config, choose


def compose_call(
    metrics: Sequence[str],
    values: Mapping[str, Any],
    settings: Mapping[str, Any] | None = None,
    *,
    folders: Mapping[str, Place] | None = None,
    reference: Place | None = None,
) -> DictConfig:
    """Composes what a function was called with.

    Args:
        metrics: names of the metrics' YAML files.
        values: of the root's keys.
        settings: further configuration by dotted key, such as {"extractor.inception.weights": "FILE"}; a key of another
            extractor ({"extractor.timm.model": "resnet18"}) chooses it.
        folders: by name the places of images, or options of models; none: there are none, and the grid has no model.
        reference: the place of the reference, an option's name, or an option.

    Raises:
        ConfigError: a metric, a key or a place that is not there (the nearest is offered).
    """
    if isinstance(metrics, str):
        raise ConfigError(f"metrics={metrics!r}: give a list, [{metrics!r}]")
    settings = dict(settings or {})
    extractors = dict.fromkeys(key.split(".")[1] for key in settings if re.match(r"extractor\.[^.]+\.", key))
    added = [name for name in extractors if name not in default_extractors() and name in group_options("extractor")]
    overrides = [f"metric=[{','.join(metrics)}]", *([f"+extractor=[{','.join(added)}]"] if added else [])]
    config = compose(
        overrides if folders else ["~experiment", *overrides],
        folders={name: _path(place) for name, place in (folders or {}).items()},
        reference=None if reference is None or isinstance(reference, Mapping) else os.fspath(reference),
    )
    for name, place in (folders or {}).items():
        if isinstance(place, Mapping):
            config.model[name] = dict(place)
    if isinstance(reference, Mapping):
        config.reference = {"memory": dict(reference)}
    for key, value in {**values, **settings}.items():
        parent, _, last = key.rpartition(".")
        node = OmegaConf.select(config, parent) if parent else config
        if not OmegaConf.is_dict(node) or last not in list(node):  # a key whose value is to be given is in it too
            known = map(str, node) if OmegaConf.is_dict(node) else map(str, config)
            raise ConfigError(f"settings: there is no '{key}' in the configuration. {nearest(last, known)}")
        OmegaConf.update(config, key, value)
    return config


def _path(place: Place) -> str:
    return "" if isinstance(place, Mapping) else os.fspath(place)
