"""Builds an option's object: the only call to Hydra's instantiate."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate

from evalkit.errors import ConfigError, EvalkitError, nearest
from evalkit.utils.text import one_line


def locate(target: str) -> Any:
    """The class or function that a `_target_` names, as "package.module.Name".

    Raises:
        ConfigError: no such module or name.
    """
    module_name, _, name = target.rpartition(".")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ConfigError(f"_target_ '{target}' cannot be imported: {error}") from error
    except ValueError as error:
        raise ConfigError(f"_target_ '{target}' is not of the form package.module.Name") from error
    if not hasattr(module, name):
        names = [n for n in vars(module) if not n.startswith("_")]
        raise ConfigError(f"_target_ '{target}': '{module_name}' has no '{name}'. {nearest(name, names)}")
    return getattr(module, name)


def split_call_settings(option: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What of a model's option is for its constructor, and what for each call of `generate` (null ones left out).

    Both stand on one level of the YAML; the class's `call_settings` names the latter.
    """
    names: frozenset[str] = getattr(locate(str(option.get("_target_"))), "call_settings", frozenset())
    constructor = {key: value for key, value in option.items() if key not in names}
    return constructor, {key: value for key, value in option.items() if key in names and value is not None}


def accepted_keys(target: str) -> set[str]:
    """The keys that an option may give a target: its arguments, and the call settings of a model; none if unknown."""
    try:
        factory = locate(target)
        return {*inspect.signature(factory).parameters, *getattr(factory, "call_settings", ())}
    except (ConfigError, ValueError, TypeError):
        return set()


def build(option: Mapping[str, Any], where: str = "") -> Any:
    """Builds the object that an option describes: its `_target_`, called with the option's other keys.

    Nested mappings stay plain (a model may build its own parts, when it loads). This is the only call to Hydra's
    instantiate.

    Raises:
        ConfigError: the target is missing or does not take a key (the nearest name is offered), or refuses a value.
    """
    target = option.get("_target_")
    where = where or str(target)
    if not target:
        raise ConfigError(f"{where} has no _target_, so there is nothing to build")
    factory = locate(str(target))
    parameters = inspect.signature(factory).parameters
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    for key in option:
        if not key.startswith("_") and key not in parameters and not takes_any:
            raise ConfigError(f"{where}.{key}: {target} takes no '{key}'. {nearest(key, parameters)}")
    for name, p in parameters.items():
        if name not in option and p.default is p.empty and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL):
            raise ConfigError(f"{where}.{name} is not set: give {where}.{name}=VALUE")
    try:
        return instantiate(dict(option), _convert_="all", _recursive_=False)
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, EvalkitError):
            raise cause from error
        raise ConfigError(f"{where}: {one_line(cause or error)}") from error
