"""Composes the run's configuration from YAML and overrides; every error of Hydra and OmegaConf becomes one line."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_module
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.errors import HydraException, MissingConfigException
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from evalkit.config.build import accepted_keys
from evalkit.config.schema import CONFIG_MODULE, FOLDERS, GROUPS, RULES, RunConfig
from evalkit.errors import ConfigError, nearest
from evalkit.utils.text import one_line

log = logging.getLogger(__name__)


class EntryPointSearchPath(SearchPathPlugin):
    """Puts the configs of installed packages (entry-point group `evalkit.configs`) on Hydra's search path."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        search_path.append("evalkit", f"pkg://{CONFIG_MODULE}")
        for entry in entry_points(group=CONFIG_MODULE):
            search_path.append(entry.name, f"pkg://{entry.value}")


def register() -> None:
    """Makes the structured root and the search path known to Hydra; harmless when called again."""
    ConfigStore.instance().store(name="run_config", node=RunConfig)
    Plugins.instance().register(EntryPointSearchPath)


def compose(overrides: Sequence[str], config_dir: str | None = None) -> DictConfig:
    """The composed configuration, for use from Python; `config_dir` is searched as well as evalkit's own configs.

    Raises:
        ConfigError: an override names a key or an option that is not there (the nearest name is offered).
    """
    register()
    try:
        return _compose(overrides, config_dir)
    except (HydraException, OmegaConfBaseException) as error:
        raise explain(error, overrides, config_dir) from error
    except ValueError as error:
        raise explain_null(error, overrides) from error


def explain_null(error: ValueError, overrides: Sequence[str]) -> ConfigError:
    """Hydra's ValueError for `reference=null`, as one line; any other is raised again."""
    nulls = [text for text in overrides if text.partition("=")[2].lower() == "null"]
    if "Config group override" not in str(error) or not nulls:
        raise error
    group = nulls[0].partition("=")[0]
    single = group in ("experiment", "engine", "reference", "training", "reference@training")
    return ConfigError(f"{nulls[0]}: a group cannot be null: {f'~{group}' if single else f'{group}=[]'} leaves it out")


@contextlib.contextmanager
def _hydra() -> Iterator[None]:
    """Hydra on evalkit's configs; within a running Hydra application, that one is set aside meanwhile."""
    outer = GlobalHydra.instance()
    running, outer.hydra = outer.hydra, None
    try:
        with initialize_config_module(config_module=CONFIG_MODULE, version_base="1.3"):
            yield
    finally:
        GlobalHydra.instance().hydra = running


def _compose(overrides: Sequence[str], config_dir: str | None = None) -> DictConfig:
    searchpath = [f"hydra.searchpath=[file://{config_dir}]"] if config_dir else []
    with _hydra():
        return hydra_compose("eval", overrides=[*overrides, *searchpath], return_hydra_config=True)


def group_options(group: str, config_dir: str | None = None) -> list[str]:
    """The names of a group's options, those of installed packages and of `config_dir` included."""
    folder = FOLDERS.get(group, group)
    own = {path.stem for path in (Path(config_dir) / folder).glob("*.yaml")} if config_dir else set()
    with _hydra():
        loader = GlobalHydra.instance().config_loader()
        loader.compute_defaults_list("eval", [], RunMode.RUN)  # lets the search path take effect
        return sorted({*loader.get_group_options(folder), *own})


def explain(error: Exception, overrides: Sequence[str], config_dir: str | None = None) -> ConfigError:
    """Hydra's or OmegaConf's error as one line that offers the nearest name."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, option = str(error.missing_cfg_file).rpartition("/")
        if not group:
            return ConfigError(f"there is no config '{option}'")
        return ConfigError(f"{group}={option}: no such option. {nearest(option, group_options(group, config_dir))}")
    cause = error if isinstance(error, OmegaConfBaseException) else error.__cause__
    if isinstance(cause, ConfigKeyError | ConfigAttributeError) and cause.full_key:
        return _unknown_key(str(cause.full_key), overrides, config_dir)
    if isinstance(cause, OmegaConfBaseException):
        return ConfigError(f"{cause.full_key}: {str(cause).splitlines()[0]}")
    return ConfigError(f"the command line was not understood: {one_line(error)}")


def _unknown_key(full_key: str, overrides: Sequence[str], config_dir: str | None) -> ConfigError:
    """The error for a key that is not in the configuration, with the nearest of the keys that are."""
    parent, _, key = full_key.rpartition(".")
    others = [o for o in overrides if not o.lstrip("+~").split("=")[0].startswith(full_key)]
    choices: list[str] = []
    node: Any = None
    with contextlib.suppress(HydraException, OmegaConfBaseException):  # another override may be wrong as well
        composed = _compose(others, config_dir)
        node = OmegaConf.select(composed, parent) if parent else composed
        choices = [str(name) for name in (node or {}) if name != "hydra"]
    choices = [name for name in choices if not name.startswith("_")]
    if parent in GROUPS and key in group_options(parent, config_dir):
        return ConfigError(f"{full_key}: '{key}' is not chosen in this run. Add it: {parent}=[{key}].")
    target = node.get("_target_") if isinstance(node, DictConfig) else None
    if target and key in accepted_keys(str(target)):
        return ConfigError(f"{full_key} is not in its YAML, but can be added: write +{full_key}=VALUE")
    return ConfigError(f"{full_key}: no such key. {nearest(key, choices)}")


def resolve(config: DictConfig, choices: Mapping[str, Any] | None = None) -> RunConfig:
    """The plain run configuration of a composed one: interpolations resolved, options checked.

    An experiment may set values of an option that the command line then deselects: such leftovers are dropped.

    Args:
        config: what Hydra composed.
        choices: the chosen options by group (Hydra's `runtime.choices`); none: taken from `config.hydra`.

    Raises:
        ConfigError: a value is missing, or an option has no `_target_`.
    """
    if choices is None:
        choices = OmegaConf.to_container(config.hydra.runtime.choices)  # type: ignore[assignment]
    config = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    missing = sorted(OmegaConf.missing_keys(config))
    if missing:
        raise ConfigError(f"{missing[0]} is not set: give {missing[0]}=VALUE")
    try:
        plain: dict[str, Any] = OmegaConf.to_container(config, resolve=True)  # type: ignore[assignment]
    except OmegaConfBaseException as error:
        raise explain(error, []) from error
    for group in GROUPS:
        plain[group] = _options(group, plain[group] or {}, choices or {})
    return RunConfig(**plain)


def _options(group: str, entries: Mapping[str, Any], choices: Mapping[str, Any]) -> dict[str, Any]:
    choice = f"{FOLDERS[group]}@{group}" if group in FOLDERS else group
    chosen = str(choices.get(choice, ""))
    checked: dict[str, Any] = {}
    for name, option in entries.items():
        if option is None:
            continue
        if group in RULES or (isinstance(option, Mapping) and "_target_" in option):
            checked[name] = option  # of rules, evalkit.gate checks what they hold
        elif name in group_options(group) and not re.search(rf"\b{re.escape(name)}\b", chosen):
            log.debug("%s.%s is set but not chosen: left out", group, name)
        else:
            known = nearest(name, group_options(group))
            raise ConfigError(f"{group}.{name} has no _target_, so there is nothing to build. {known}")
    return checked
