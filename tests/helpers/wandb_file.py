"""Reads the records of a W&B run file (`run-<id>.wandb`), which W&B itself has no Python reader for any more.

The format is LevelDB's log: after 7 bytes of file header, blocks of 32 KiB hold pieces, each with a checksum (u32), a
length (u16) and a kind (u8: 1 whole, 2 first, 3 middle, 4 last); a piece never crosses a block's end.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BLOCK = 32768


def records(path: Path) -> Iterator[Any]:
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, whole = path.read_bytes(), 7, b""
    assert data[:4] == b":W&B"
    while at + 7 <= len(data):
        if BLOCK - at % BLOCK < 7:
            at += BLOCK - at % BLOCK
            continue
        _, size, kind = struct.unpack_from("<IHB", data, at)
        whole += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):
            record = Record()
            record.ParseFromString(whole)
            whole = b""
            yield record


@dataclass
class Held:
    """What a run file holds."""

    run: Any = None
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    artifacts: dict[str, dict[str, Path]] = field(default_factory=dict)  # by type: the entries and where they lie
    exit_code: int | None = None


def _put(node: dict[str, Any], item: Any) -> None:
    *path, last = list(item.nested_key) or [item.key]
    for key in path:
        node = node.setdefault(key, {})
    node[last] = json.loads(item.value_json)


def read(path: Path) -> Held:
    held = Held()
    for record in records(path):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            held.run = record.run
            for item in record.run.config.update:
                _put(held.config, item)
        elif kind == "summary":
            for item in record.summary.update:
                _put(held.summary, item)
        elif kind == "history":
            step: dict[str, Any] = {}
            for item in record.history.item:
                _put(step, item)
            held.history.append(step)
        elif kind == "artifact":
            entries = {entry.path: Path(entry.local_path) for entry in record.artifact.manifest.contents}
            held.artifacts[record.artifact.type] = entries
        elif kind == "exit":
            held.exit_code = record.exit.exit_code
    return held
