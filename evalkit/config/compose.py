"""Composes the run's configuration from YAML and overrides; every error of Hydra and OmegaConf becomes one line."""

from __future__ import annotations

import contextlib
import functools
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
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
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException
from yaml import YAMLError

from evalkit.config.build import accepted_keys
from evalkit.config.checkpoints import CHECKPOINTS, name_weights
from evalkit.config.environment import environment_as_text, refuse_environment
from evalkit.config.listing import option_files
from evalkit.config.overrides import choose_folder, complete
from evalkit.config.schema import CONFIG_MODULE, FOLDERS, GROUPS, RULES, SINGLE, RunConfig
from evalkit.config.words import is_statistics
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


def compose(
    overrides: Sequence[str],
    config_dir: str | None = None,
    *,
    folders: Mapping[str, str] | None = None,
    reference: str | None = None,
    config_name: str = "eval",
) -> DictConfig:
    """The composed configuration.

    Args:
        overrides: as on the command line (`evalkit.config.overrides` says what is made of them).
        config_dir: a folder that is searched as well as evalkit's own configs.
        folders: by name the places of images that stand in the grid instead of `model.folder`, with its settings.
        reference: the place of the reference's images or statistics, or an option's name.
        config_name: the root's YAML.

    Raises:
        ConfigError: an override names a key or an option that is not there (the nearest name is offered), or a YAML
            cannot be read.
    """
    register()
    options = functools.cache(lambda group: group_options(group, config_dir))
    given = choose_folder(overrides) if folders else list(overrides)
    kind = None if reference is None else _kind_of_reference(reference, options("reference"))
    given += [f"reference={kind}"] if kind else []
    try:
        given = complete(given, options, default_extractors)
        config = _compose(given, config_dir, config_name)
    except (HydraException, OmegaConfBaseException, ValueError, YAMLError) as error:
        raise explain(error, overrides, config_dir) from error
    except RecursionError:
        raise ConfigError("a YAML file is nested too deeply: look for a run of opening brackets") from None
    if folders:
        models: dict[str, Any] = OmegaConf.to_container(config.model)  # type: ignore[assignment]
        template = models.pop("folder")
        config.model = models | {key: {**template, "path": path} for key, path in folders.items()}
    if reference is not None and reference != kind:
        config.reference[kind].path = reference
    return config


def print_config(config: DictConfig, package: str | None, *, resolved: bool) -> None:
    """Prints a composed configuration as YAML, or (`package`) a part of it.

    Raises:
        ConfigError: there is no such part, or a value cannot be resolved.
    """
    shown = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    try:
        part = OmegaConf.select(shown, package) if package else shown
        if part is None:
            raise ConfigError(f"--package {package}: no such key. {nearest(str(package), map(str, shown))}")
        print(OmegaConf.to_yaml(part, resolve=resolved) if OmegaConf.is_config(part) else part)
    except OmegaConfBaseException as error:
        raise explain(error, []) from error


def _kind_of_reference(reference: str, options: Sequence[str]) -> str:
    """The option that a reference's place wants; the place itself where it is an option's name and no folder."""
    if reference in options and not Path(reference).exists():
        return reference
    return "stats" if is_statistics(reference) else "folder"


@functools.cache
def default_extractors() -> tuple[str, ...]:
    """The extractors that every run knows without choosing them."""
    register()
    with _hydra():
        return tuple(str(name) for name in hydra_compose("eval", overrides=["~experiment"]).extractor)


def _explain_null(error: ValueError, overrides: Sequence[str]) -> ConfigError:
    """Hydra's ValueError for `reference=null`, as one line."""
    nulls = [text for text in overrides if text.partition("=")[2].lower() == "null"]
    if "Config group override" not in str(error) or not nulls:
        return ConfigError(f"the configuration cannot be composed: {one_line(error)}")
    group = nulls[0].partition("=")[0]
    out = f"~{group}" if group.partition("@")[0] in SINGLE else f"{group}=[]"
    return ConfigError(f"{nulls[0]}: a group cannot be null: {out} leaves it out")


def _explain_yaml(error: YAMLError) -> ConfigError:
    """A file that is no YAML, with its place."""
    mark = getattr(error, "problem_mark", None)
    where = f"{mark.name}, line {mark.line + 1}, column {mark.column + 1}" if mark else "a YAML file"
    problem = getattr(error, "problem", None) or one_line(error)
    return ConfigError(f"{where}: this is no YAML: {problem} (tabs, brackets and colons are the usual causes)")


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


def _compose(overrides: Sequence[str], config_dir: str | None = None, name: str = "eval") -> DictConfig:
    searchpath = [f"hydra.searchpath=[file://{config_dir}]"] if config_dir else []
    with _hydra():
        return hydra_compose(name, overrides=[*overrides, *searchpath], return_hydra_config=True)


def group_options(group: str, config_dir: str | None = None) -> list[str]:
    """The names of a group's options, those of installed packages and of `config_dir` included."""
    return list(option_files(group, config_dir))


def explain(error: Exception, overrides: Sequence[str], config_dir: str | None = None) -> ConfigError:
    """Hydra's, OmegaConf's or YAML's error as one line that offers the nearest name."""
    if isinstance(error, YAMLError):
        return _explain_yaml(error)
    if isinstance(error, ConfigError):
        return error
    if isinstance(error, ValueError) and not isinstance(error, HydraException | OmegaConfBaseException):
        return _explain_null(error, overrides)
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
        composed = _compose(complete(others, lambda group: group_options(group, config_dir)), config_dir)
        node = OmegaConf.select(composed, parent) if parent else composed
        choices = [str(name) for name in (node or {}) if name != "hydra"]
    choices = [name for name in choices if not name.startswith("_")]
    if parent in GROUPS and key in group_options(parent, config_dir):
        return ConfigError(f"{full_key}: '{key}' is not chosen in this run. Add it: {parent}=[{key}].")
    target = node.get("_target_") if isinstance(node, DictConfig) else None
    if target and key in accepted_keys(str(target)):
        return ConfigError(f"{full_key} is not in its YAML, but can be added: write +{full_key}=VALUE")
    return ConfigError(f"{full_key}: no such key. {nearest(key, choices)}")


def resolve(config: DictConfig) -> RunConfig:
    """The plain run configuration of a composed one: interpolations resolved, options checked.

    An experiment may set values of an option that the command line then deselects: such leftovers are dropped.

    The values of environment variables stay out of it, since it is written into results: `${oc.env:NAME}` is refused
    but in `tracker`, whose options keep the text (`evalkit.trackers.push` resolves it).

    Raises:
        ConfigError: a value is missing, cannot be resolved, or is not of the kind that its key wants; an option has no
            `_target_`; a key is none of the root's.
    """
    choices: dict[str, Any] = OmegaConf.to_container(config.hydra.runtime.choices)  # type: ignore[assignment]
    config = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    known = {field.name for field in fields(RunConfig)}
    for key in map(str, config):
        if key not in known:
            raise ConfigError(f"{key}: no such key. {nearest(key, known)}")
    _place_checkpoints(config)
    if config.benchmark and OmegaConf.is_missing(config.benchmark, "path"):  # others refer to it
        raise ConfigError(_unset("benchmark.path", config))
    try:
        with environment_as_text():
            missing = sorted(OmegaConf.missing_keys(config))  # it resolves interpolations too
            if missing:
                raise ConfigError(_unset(missing[0], config))
            plain: dict[str, Any] = OmegaConf.to_container(config, resolve=True)  # type: ignore[assignment]
    except OmegaConfBaseException as error:
        raise explain(error, []) from error
    refuse_environment({key: value for key, value in plain.items() if key != "tracker"})
    for group in GROUPS:
        plain[group] = _options(group, plain[group] or {}, choices)
    _give_questions(plain["benchmark"], plain["extractor"])
    return RunConfig(**plain)


def _give_questions(benchmark: Mapping[str, Any], extractors: Mapping[str, Any]) -> None:
    """Gives a benchmark's questions to the judge that it names (`benchmark.judge`), unless that has some already."""
    judge = extractors.get(str(benchmark.get("judge")))
    if judge is not None and benchmark.get("questions") and judge.get("questions", "") is None:
        judge |= {"question": None, "questions": dict(benchmark)}


def _unset(key: str, config: DictConfig) -> str:
    """For messages: a value that is to be given; of a benchmark's file also which one it is, and where it is from."""
    source = OmegaConf.select(config, "benchmark.source") if key.startswith("benchmark.") else None
    return f"{key} is not set: give {key}=VALUE" + (f" ({source})" if source else "")


def _place_checkpoints(config: DictConfig) -> None:
    """Puts `model.NAME.checkpoints` where the model's weights go, in place of what its YAML has there."""
    for name in list(config.model or {}):
        option = OmegaConf.to_container(config.model, resolve=False)[name]  # type: ignore[index]
        if isinstance(option, dict) and option.get(CHECKPOINTS) is not None:
            config.model[name] = name_weights(option, f"model.{name}")


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
