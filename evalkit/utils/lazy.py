"""A folder's public names, imported from its modules when first asked for: `import evalkit` stays light."""

from __future__ import annotations

import importlib
from collections.abc import Callable
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
