"""How the shards of a cell's folder in a store are named."""

from __future__ import annotations

import re
from pathlib import Path

_SHARD = re.compile(r"(\d{5,})(?:-(\d{3}))?")


def parse_shard(name: str) -> tuple[int, int | None] | None:
    """Number and sample count of a shard folder's name: "00002-048" is (2, 48), the full shard "00002" is (2, None)."""
    match = _SHARD.fullmatch(name)
    return (int(match[1]), int(match[2]) if match[2] else None) if match else None


def superseded(folder: Path) -> set[Path]:
    """In a cell's folder: shards that a longer version of the same shard contains."""
    if not (folder / "cell.json").is_file():
        return set()
    longest: dict[int, tuple[float, Path]] = {}
    for path in (folder / "shards").iterdir() if (folder / "shards").is_dir() else ():
        parsed = parse_shard(path.name)
        if parsed:
            count = float("inf") if parsed[1] is None else parsed[1]
            longest[parsed[0]] = max(longest.get(parsed[0], (0.0, path)), (count, path))
    chosen = {path for _, path in longest.values()}
    return {path for path in (folder / "shards").glob("*") if path not in chosen}


METADATA = "metadata.jsonl"
