"""Lines of metadata as columns, and the manifest that holds them: every value comes back, in little memory."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evalkit.errors import DataError
from evalkit.samples import manifest
from evalkit.samples.columns import Columns
from evalkit.samples.store import SampleSet


def line(index: int, **more: Any) -> dict[str, Any]:
    return {
        "file_name": f"{index:06d}.png",
        "index": index,
        "prompt": f"picture {index % 7} of Füchse",
        "negative_prompt": None,
        "class_id": index % 3 or None,
        "seed": 2**70,
        "warnings": ["blanked"] if index % 5 == 0 else [],
        "latency_s": index / 3,
        "batch": 8,
        "warmup": index < 8,
        "nfe": 8.0,
        "sha256": f"{index:064x}",
        "width": 32,
        "height": 32,
        **more,
    }


def test_every_value_comes_back() -> None:
    rows = [
        line(0, clock_s=None),
        line(1, clock_s=0.1),
        line(2),
        line(3, kept=False),
        line(4, nfe=8),
        line(5, nfe=None),
    ]
    columns = Columns.of(rows)
    assert list(columns) == rows
    assert columns == rows
    assert [type(row["nfe"]) for row in columns] == [float, float, float, float, int, type(None)]
    assert "clock_s" in columns[0]
    assert "clock_s" not in columns[2]
    assert (columns[-1], list(columns[2:4])) == (rows[-1], rows[2:4])
    assert columns.values("clock_s", 7) == [None, 0.1, 7, 7, 7, 7]
    assert columns.sha256s[1:3] == [rows[1]["sha256"], rows[2]["sha256"]]
    assert columns.mapped("warnings", len) == [1, 0, 0, 0, 0, 1]
    assert [timing.get("clock_s", "none") for timing in columns.timings()] == [
        None,
        0.1,
        "none",
        "none",
        "none",
        "none",
    ]
    joined = Columns.joined([Columns.of(rows[:2]), Columns.of(rows[2:3]), Columns.of(rows[3:])])
    assert joined == rows
    assert json.loads(json.dumps(joined.about())) == joined.about()


def test_a_manifest_comes_back_or_is_not_believed() -> None:
    rows = Columns.of([line(i) for i in range(40)])
    whole = manifest.Manifest(rows, [["00000", 1, 2]], np.arange(80).reshape(40, 2))
    data = manifest.dump(whole, "key")
    again = manifest.load(data, "key", "m")
    assert again.rows == rows
    assert (again.marks, again.places.tolist()) == ([["00000", 1, 2]], whole.places.tolist())
    with pytest.raises(DataError, match="m: of another cell or version"):
        manifest.load(data, "other", "m")
    rng = np.random.default_rng(0)
    for at in rng.integers(0, len(data), 200):
        harmed = data[:at] + bytes([data[at] ^ 1 << int(rng.integers(8))]) + data[at + 1 :]
        with pytest.raises(DataError, match=r"^m: "):
            manifest.load(harmed, "key", "m")
    for short in (b"", data[:7], data[:100], data[:-1]):
        with pytest.raises(DataError, match=r"^m: "):
            manifest.load(short, "key", "m")


def test_a_line_takes_little(tmp_path: Path) -> None:
    """Of 20,000 samples of 2,000 prompts: a tenth of what lists of dicts take."""
    count = 20_000
    about = {"category": None, "load": 0.3, "others": 0.1, "device": "cpu", "peak_memory_mb": 900.0}
    rows = [line(i, prompt=f"a picture of {i % 2000} things in a row", **about) for i in range(count)]
    data = manifest.dump(manifest.Manifest(Columns.of(rows), []), "key")
    assert len(data) / count < 110  # on the disk; the lines take 400
    del rows
    tracemalloc.start()
    held = manifest.load(data, "key", "m").rows
    samples = SampleSet("x", held)
    assert len(samples.prompts) == count
    samples.headers()
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size / count < 150
