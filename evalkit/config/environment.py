"""Environment variables in a configuration: their values are used, and never written anywhere."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from omegaconf.resolvers import oc

from evalkit.errors import ConfigError
from evalkit.utils.text import one_line

_MARK = "${oc.env:"  # what a value that was kept as a text begins with


@contextmanager
def environment_as_text() -> Iterator[None]:
    """While it lasts, `${oc.env:NAME}` resolves to that very text, wherever it stands and whatever refers to it."""
    OmegaConf.register_new_resolver("oc.env", _text, replace=True)
    try:
        yield
    finally:
        OmegaConf.register_new_resolver("oc.env", oc.env, replace=True)


def _text(*arguments: Any) -> str:
    return _MARK + ",".join("null" if argument is None else str(argument) for argument in arguments) + "}"


def refuse_environment(values: Mapping[str, Any]) -> None:
    """Raises ConfigError where a value holds an environment variable: it would be written into the results."""
    for key, text in _texts(values, ""):
        if _MARK in text:
            raise ConfigError(
                f"{key}={text}: the value of an environment variable would be written into the results. Let the shell "
                f'put it in ({key}="$NAME"), or name the variable where there is a key for that (api_key_env)'
            )


def _texts(node: Any, where: str) -> Iterator[tuple[str, str]]:
    """All texts in plain values, keys included, with their places."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            place = f"{where}.{key}" if where else str(key)
            yield place, str(key)
            yield from _texts(value, place)
    elif isinstance(node, list | tuple):
        for number, value in enumerate(node):
            yield from _texts(value, f"{where}[{number}]")
    elif isinstance(node, str):
        yield where, node


def with_environment(option: Mapping[str, Any], where: str) -> dict[str, Any]:
    """An option with the values of its environment variables, for use and not for writing.

    Raises:
        ConfigError: a variable is not set.
    """
    if not any(_MARK in text for _, text in _texts(option, where)):
        return dict(option)
    try:
        resolved: dict[str, Any] = OmegaConf.to_container(OmegaConf.create(dict(option)), resolve=True)  # type: ignore[assignment]
    except OmegaConfBaseException as error:
        raise ConfigError(f"{where}: {one_line(error)}") from error
    return resolved


def hide_environment(text: str, option: Mapping[str, Any]) -> str:
    """A text without the values of the variables that an option names: their names stand there."""
    names = {name for _, value in _texts(option, "") for name in re.findall(r"\$\{oc\.env:\s*([^,}\s]+)", value)}
    for name in sorted(names, key=lambda name: len(os.environ.get(name, "")), reverse=True):
        if os.environ.get(name):
            text = text.replace(os.environ[name], f"${{oc.env:{name}}}")
    return text
