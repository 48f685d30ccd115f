"""Protocols of rows: each stands once in results.json, by its hash; and what differs between two of them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from evalkit.errors import DataError


def take_protocols(rows: Iterable[Any], where: str | Path) -> dict[str, Any]:
    """The rows' protocols by their hashes; they are taken out of the rows."""
    protocols: dict[str, Any] = {}
    for number, row in enumerate(rows):
        if isinstance(row, dict) and isinstance(key := row.get("protocol_hash"), str) and "protocol" in row:
            protocol = row.pop("protocol")
            if protocols.setdefault(key, protocol) != protocol:
                raise DataError(f"{where}: rows[{number}]: another row has the hash {key!r} for another protocol")
    return protocols


def protocol_difference(a: Mapping[str, Any], b: Mapping[str, Any]) -> str:
    """What differs between two protocols, in one line."""
    flat_a, flat_b = dict(flat(a)), dict(flat(b))
    pairs = {name: (flat_a.get(name), flat_b.get(name)) for name in dict.fromkeys([*flat_a, *flat_b])}
    texts = [f"{name} is {_short(one)}, not {_short(other)}" for name, (one, other) in pairs.items() if one != other]
    return "; ".join(texts) or "the protocols differ"


def _short(value: Any) -> str:
    """A digest by its first digits."""
    text = str(value)
    return f"{text[:10]}..." if re.fullmatch(r"[0-9a-f]{40,}", text) else text


def flat(node: Any, path: str = "") -> Iterable[tuple[str, Any]]:
    """The values of nested mappings by dotted keys."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from flat(value, f"{path}.{key}" if path else str(key))
    else:
        yield path, node
