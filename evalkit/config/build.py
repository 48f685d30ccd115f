"""Builds an option's object. What a `_target_` names is looked at before it is called: nothing else runs."""

from __future__ import annotations

import importlib
import inspect
import math
import typing
from collections.abc import Mapping
from typing import Any

from evalkit.config.values import misfit
from evalkit.errors import ConfigError, EvalkitError, nearest
from evalkit.metric import PairMetric
from evalkit.utils.text import one_line

THRESHOLD = "threshold"  # an option of every metric of pairs: what share of the pairs is worse is reported
ENVIRONMENT = "env"  # an option of every extractor: it runs in an environment of its own
GRID_KEYS = frozenset({"samplers", "latents"})  # of a model's option: what the grid reads, not the model


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
        more = [THRESHOLD] if inspect.isclass(factory) and issubclass(factory, PairMetric) else []
        more += ["latents"] if getattr(factory, "takes_latents", False) else []
        more += [ENVIRONMENT] if hasattr(factory, "isolated_by") else []
        return {*inspect.signature(factory).parameters, *getattr(factory, "call_settings", ()), *more}
    except (ConfigError, ValueError, TypeError):
        return set()


def factory_of(option: Mapping[str, Any], where: str, expected: type | None = None) -> Any:
    """The class or function that an option would call, looked at and not called.

    Args:
        option: with its `_target_`.
        where: what messages call it ("model.sd15").
        expected: the class that it must be a subclass of (a function: that its annotation says it returns); none: any.

    Raises:
        ConfigError: there is no target, or it is something else.
    """
    target = option.get("_target_")
    if not target:
        raise ConfigError(f"{where} has no _target_, so there is nothing to build")
    factory = locate(str(target))
    made = factory if inspect.isclass(factory) else _returned(factory)
    if expected is not None and not (inspect.isclass(made) and issubclass(made, expected)):
        wanted = f"{expected.__module__}.{expected.__qualname__}"
        more = "" if inspect.isclass(factory) or not callable(factory) else " (a function says so by `-> ITS_CLASS`)"
        raise ConfigError(f"{where}: {target} is not a subclass of {wanted}{more}")
    if not callable(factory):
        raise ConfigError(f"{where}: {target} is a {type(factory).__name__}, which cannot be called")
    return factory


def _returned(factory: Any) -> Any:
    """What a function's annotation says it returns; none where it says nothing that can be found."""
    try:
        return typing.get_type_hints(factory).get("return")
    except (NameError, TypeError, AttributeError):
        return None


def _check_threshold(value: Any, where: str) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if value is not None and not number:
        raise ConfigError(f"{where}.{THRESHOLD}={value}: a finite number is wanted, or null")


def build(option: Mapping[str, Any], where: str = "", expected: type | None = None) -> Any:
    """Builds the object that an option describes: its `_target_`, called with the option's other keys.

    Nested mappings stay plain (a model may build its own parts, when it loads).

    Args:
        option: plain values by key.
        where: what messages call it ("model.sd15").
        expected: the class that it must be a subclass of; looked at before anything is called.

    Raises:
        ConfigError: the target is missing, is something else, does not take a key (the nearest name is offered), or
            refuses a value.
    """
    where = where or str(option.get("_target_"))
    factory = factory_of(option, where, expected)
    target = option["_target_"]
    try:
        parameters: Mapping[str, inspect.Parameter] = inspect.signature(factory).parameters
    except (ValueError, TypeError) as error:  # some builtins have none
        raise ConfigError(f"{where}: {target} does not say what it takes, so it cannot be built from YAML") from error
    given = {key: value for key, value in option.items() if not str(key).startswith("_")}
    if inspect.isclass(factory) and issubclass(factory, PairMetric) and THRESHOLD not in parameters:
        _check_threshold(given.pop(THRESHOLD, None), where)
    isolated_by = getattr(factory, "isolated_by", "") if ENVIRONMENT not in parameters else ""
    environment = given.pop(ENVIRONMENT, None) if isolated_by else None
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    for key, value in given.items():
        if key not in parameters and not takes_any:
            raise ConfigError(f"{where}.{key}: {target} takes no '{key}'. {nearest(key, parameters)}")
        wanted = misfit(value, parameters[key].annotation) if key in parameters else None
        if wanted:
            raise ConfigError(f"{where}.{key}={value}: {wanted} is wanted")
    for name, p in parameters.items():
        if name not in given and p.default is p.empty and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL):
            raise ConfigError(f"{where}.{name} is not set: give {where}.{name}=VALUE")
    try:
        made = factory(**given)
        if environment is None:
            return made
        return locate(isolated_by)(made, {"_target_": target, **given}, environment)
    except EvalkitError:
        raise
    except Exception as error:  # whatever a constructor raises
        raise ConfigError(f"{where}: {one_line(error)}") from error
