"""Mutated requests to the scorer server, and mutated answers of a scorer's process."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from fuzz import Target

from evalkit.data.codec import encode_png
from evalkit.errors import DataError
from evalkit.extractors.isolated.worker import receive, send
from evalkit.serve.app import Refusal, _parse


class Served:
    """Two metrics, of which one wants prompts."""

    metrics = ("clip_score", "aesthetic")

    def needs_prompts(self, name: str) -> bool:
        return name == "clip_score"


def score_requests() -> Target:
    image = base64.b64encode(encode_png(np.zeros((4, 4, 3), np.uint8))).decode()
    bodies = (
        {"images": [image], "prompts": ["a fox"], "metrics": ["clip_score"]},
        {"images": [f"data:image/png;base64,{image}", image], "metrics": ["aesthetic"]},
        {"images": [image], "prompts": ["a"]},
    )
    seeds = {f"{i}.json": json.dumps(body).encode() for i, body in enumerate(bodies)}
    served: Any = Served()

    def read(path: Path) -> None:
        try:
            _parse(path.read_bytes(), served)
        except Refusal as refusal:
            raise DataError(str(refusal)) from refusal

    return Target("requests for scores", seeds, read)


def scorer_answers() -> Target:
    message = io.BytesIO()
    send(message, {"layers": ["score"]}, [np.zeros((3, 1), np.float32), np.ones(2, np.uint8)])

    def read(path: Path) -> None:
        try:
            receive(io.BytesIO(path.read_bytes()))
        except (EOFError, OSError, ValueError, TypeError, LookupError, AttributeError, MemoryError) as error:
            raise DataError(f"{type(error).__name__}: {error}") from error

    return Target("answers of scorers", {"a.bin": message.getvalue()}, read)
