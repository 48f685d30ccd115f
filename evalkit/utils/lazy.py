"""A folder's public names, imported from its modules when first asked for: `import evalkit` stays light."""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any


def lazy(package: str, **modules: str) -> tuple[list[str], Callable[[str], Any]]:
    """A package's `__all__` and `__getattr__` (PEP 562).

    Args:
        package: its `__name__`.
        modules: by module of the package (dots as double underscores): the names that it hands on, with spaces between.
    """
    owners = {name: module.replace("__", ".") for module, names in modules.items() for name in names.split()}

    def get(name: str) -> Any:
        if name not in owners:
            raise AttributeError(f"module '{package}' has no attribute '{name}'")
        return getattr(importlib.import_module(f"{package}.{owners[name]}"), name)

    return sorted(owners), get


def moved(package: str, **modules: str) -> None:
    """Keeps earlier names of a package's modules importable: `_target_`s and subclasses were written with them.

    Args:
        package: its `__name__`.
        modules: by earlier name: the module's name below the package today.
    """

    def get(target: str, name: str) -> Any:
        if name.startswith("__"):  # of the module itself: nothing is imported for that
            raise AttributeError(name)
        return getattr(importlib.import_module(target), name)

    for name, today in modules.items():
        module = sys.modules[f"{package}.{name}"] = ModuleType(f"{package}.{name}", f"Moved to {package}.{today}.")
        module.__getattr__ = functools.partial(get, f"{package}.{today}")  # type: ignore[method-assign]
