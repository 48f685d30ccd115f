"""How the shards of a cell's folder in a store are named."""

from __future__ import annotations

import re
from collections.abc import Collection

METADATA = "metadata.jsonl"
ZIP = ".zip"  # a shard that is one file
_SHARD = re.compile(r"(\d{5,})(?:-(\d{3}))?")


def parse_shard(name: str) -> tuple[int, int | None] | None:
    """Number and sample count of a shard folder's name: "00002-048" is (2, 48), the full shard "00002" is (2, None)."""
    match = _SHARD.fullmatch(name)
    return (int(match[1]), int(match[2]) if match[2] else None) if match else None


def superseded(names: Collection[str]) -> set[str]:
    """Of the files of a cell's folder: the shards' folders ("shards/00002-048") that a longer version contains."""
    if "cell.json" not in names:
        return set()
    folders = {name.split("/")[1] for name in names if name.startswith("shards/") and name.count("/") > 1}
    longest: dict[int, tuple[float, str]] = {}
    for folder in folders:
        parsed = parse_shard(folder)
        if parsed:
            count = float("inf") if parsed[1] is None else parsed[1]
            longest[parsed[0]] = max(longest.get(parsed[0], (0.0, folder)), (count, folder))
    return {f"shards/{folder}" for folder in folders - {folder for _, folder in longest.values()}}
