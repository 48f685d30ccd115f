"""The score cache: a score is found by the digest of all that it depends on, without torch."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from evalkit.errors import StoreError
from evalkit.metric import Score
from evalkit.utils.files import sha256_json, write_json

CACHE_SCHEMA = 2


class ScoreCache:
    """One JSON file a score, in a store's folder of scores; a key is all that the score depends on (JSON)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def _file(self, key: Mapping[str, Any]) -> Path:
        return self.folder / f"{sha256_json(key)[:32]}.json"

    def find(self, key: Mapping[str, Any]) -> Score | None:
        """The cached score; none where there is none, or its file is broken."""
        try:
            entry = json.loads(self._file(key).read_text("utf-8"))
            if entry["key"] != json.loads(json.dumps(key)):
                return None
            values = entry["score"]
            influence, nearest = values.pop("influence"), values.pop("nearest")
            return Score(
                **values,
                influence=tuple(influence) if influence is not None else None,
                nearest=tuple((int(i), int(j), float(d)) for i, j, d in nearest),
            )
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def keep(self, key: Mapping[str, Any], score: Score) -> None:
        """Writes a score; one without a value is computed anew each time.

        Raises:
            StoreError: the folder cannot be written.
        """
        if score.value is None:
            return
        try:
            write_json(self._file(key), {"key": key, "score": asdict(score)})
        except OSError as error:
            raise StoreError(f"cannot write scores to {self.folder}: {error.strerror or error}") from error


def finite(score: Score) -> Score:
    """A score that is not a finite number has no value, and is never cached as one; nor is a standard error."""
    if score.value is not None and not math.isfinite(score.value):
        return Score(None, score.n, note=f"the computation gave {score.value}")
    if score.stderr is not None and not math.isfinite(score.stderr):
        return replace(score, stderr=None, influence=None)
    return score
