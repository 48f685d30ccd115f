"""Text in images, through the pass and the store: a golden value by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from fakes import MemorySource
from golden import Golden
from options import option

from evalkit.config.build import build
from evalkit.extractors.judge import Judge
from evalkit.judges.asker import FunctionAsker
from evalkit.samples.store import Store
from evalkit.scoring import Against, score_sources


def test_golden(golden: Golden, tmp_path: Path) -> None:
    """The judge reads "open 24 hours" for "OPEN" and for "24 h": 9 insertions of 13 characters each; 1 of 1 and 1 of 2
    words."""
    rows = [
        {"prompt": text, "questions": [{"id": "q", "text": "Which text?", "way": "ocr", "answer": text}]}
        for text in ("OPEN", "24 h")
    ]
    file = tmp_path / "questions.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    reads = Judge(FunctionAsker(lambda images, text, repeat: "open 24 hours", "reads"), questions=str(file))
    images = [np.full((8, 8, 3), shade, np.uint8) for shade in (0, 9)]
    reads.check()
    values = option("metric", "text_rendering")
    given = {"metrics": {"text_rendering": (values, build(values))}, "extractors": {"judge": reads}}
    source = MemorySource(np.stack(images), ["OPEN", "24 h"])
    score = score_sources({"a": source}, **given, against=Against(), store=Store(tmp_path))["a", "text_rendering"].score
    golden("text_rendering", score.value, 4 / 13, source="by hand: 1 - 9 / 13", abs=1e-7)
    golden("text_rendering, words", score.details["words"], 0.75, source="by hand: 1 of 1, 1 of 2", abs=1e-7)
    assert score.details["calls"] == 2
