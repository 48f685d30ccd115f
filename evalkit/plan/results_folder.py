"""Where a run's results go: a folder of its name, which no other configuration's finished run is in."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Collection, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from evalkit.config.checkpoints import without_left_out
from evalkit.config.schema import RunConfig
from evalkit.config.words import place_name
from evalkit.errors import ConfigError, DataError
from evalkit.utils.blobs import is_url
from evalkit.utils.json_files import read_json

log = logging.getLogger(__name__)

AUTO = "auto"
LOCAL = "runs"  # takes the results of runs whose store is a URL
# Folders of the store's own, below which or as which no results may lie.
RESERVED = frozenset({"samples", "features", "scores", "lint", "cache", "fetched", "slurm", "plans", "results"})
# What says which scores a run has; anything else may change from run to run of one configuration.
_SAME = ("model", "sampler", "prompts", "metric", "reference", "training", "seed", "num_samples", "exclude")
_OF_A_PATH = ("folder", "frames", "diffusers", "vae", "onnx", "onnx_denoiser")  # options named after their kind alone
_SHOWN = 3  # names in an automatic name
_LENGTH = 80  # characters of an automatic name


def with_name(config: RunConfig) -> RunConfig:
    """The configuration with the name that its results' folder gets: as given, or of its models and folders.

    Raises:
        ConfigError: a name that is no folder's of its own below the store.
    """
    if config.name == AUTO:
        names = [_model_name(key, option) for key, option in config.model.items()]
        more = [f"and-{len(names) - _SHOWN}-more"] if len(names) > _SHOWN else []
        name = re.sub(r"[^\w.+-]+", "_", "-".join([*names[:_SHOWN], *more]))[:_LENGTH].strip("._-") or "run"
        config = replace(config, name=f"{name}-run" if name.lower() in RESERVED else name)
    name = config.name
    if not name.strip() or name in (".", "..") or re.search(r"[/\\\x00-\x1f\x7f]", name):
        raise ConfigError(f"name={name!r}: give a folder's name, without slashes; out=FOLDER puts results elsewhere")
    if name.lower() in RESERVED:
        raise ConfigError(f"name={name}: the store keeps its own files in a folder of this name: give another name")
    return config


def _model_name(key: str, option: Mapping[str, Any]) -> str:
    path = option.get("path")
    return place_name(path) if key in _OF_A_PATH and isinstance(path, str) else key


def results_folder(config: RunConfig, extractors: Collection[str]) -> Path:
    """The folder of a run's results.

    `out` as it is given; else `<store>/<name>` (`runs/<name>`, where the store is a URL), or, where another
    configuration's finished run is there, the first of `<name>-2`, `<name>-3`, ... that is free or of this very
    configuration.

    Args:
        config: the run's.
        extractors: the names of those that its metrics need.

    Raises:
        ConfigError: `out` holds another configuration's finished run, or is a file.
    """
    if config.out:
        out = Path(config.out).expanduser()
        if out.exists() and not out.is_dir():
            raise ConfigError(f"out={config.out} is a file: give a folder")
        if not _is_free(out, config, extractors):
            raise ConfigError(
                f"out={out} holds another configuration's finished run: give another folder, or delete it"
            )
        return out
    first = Path(LOCAL if is_url(config.store) else config.store).expanduser() / config.name
    folder, number = first, 1
    while not _is_free(folder, config, extractors):
        number += 1
        folder = first.with_name(f"{first.name}-{number}")
    if folder != first:
        log.info("%s holds the results of another configuration: these go to %s", first, folder)
    return folder


def _is_free(folder: Path, config: RunConfig, extractors: Collection[str]) -> bool:
    """Whether a folder holds no finished run, or one of the same configuration."""
    try:
        results = read_json(folder / "results.json")
        earlier = results["run"]["config"]
        return bool(_what_is_scored(earlier, extractors) == _what_is_scored(_as_json(config), extractors))
    except (OSError, DataError, LookupError, TypeError, AttributeError):
        return True  # nothing is finished there


def _what_is_scored(config: Mapping[str, Any], extractors: Collection[str]) -> list[Any]:
    known = config["extractor"]
    return [_given(without_left_out(config.get(key))) for key in _SAME] + [known.get(n) for n in sorted(extractors)]


def _given(group: Any) -> Any:
    """A group's options without keys that are null: an option that came with a later version changes nothing so."""
    if not isinstance(group, Mapping):
        return group
    return {
        name: {k: v for k, v in option.items() if v is not None} if isinstance(option, Mapping) else option
        for name, option in group.items()
    }


def _as_json(config: RunConfig) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(json.dumps(asdict(config), default=str))
    return value
