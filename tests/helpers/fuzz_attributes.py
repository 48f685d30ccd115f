"""Readers of what images show, and of what GenEval's prompts ask for, with good inputs to start from."""

from __future__ import annotations

import json
from pathlib import Path

from fuzz import Target
from shapes_world import ITEMS


def attributes() -> Target:
    from evalkit.data.attributes import Attributes, read_partition
    from evalkit.metrics.geneval import GenEval
    from evalkit.scoring.checks import check_texts

    def read(path: Path) -> None:
        if path.suffix == ".jsonl":
            check_texts({"geneval": GenEval(str(path))}, {}, {})
        elif path.stem == "part":
            read_partition(path, "test")
        else:
            Attributes.read(path).of(["000001.jpg", "x/000002.png", None])

    seeds = {
        "attributes.txt": b"2\nSmiling Male\n000001.jpg -1  1\n000002.jpg  1 -1\n",
        "attributes.csv": b"image_id,Smiling,age\n000001.jpg,1,young\n000002.jpg,-1,old\n",
        "part.txt": b"000001.jpg 0\n000002.jpg 2\n",
        "items.jsonl": "".join(json.dumps(item) + "\n" for item in ITEMS).encode(),
    }
    return Target("attributes", seeds, read, text=True)
