"""The score cache: a score is found by the digest of all that it depends on, without torch."""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from evalkit.errors import StoreError
from evalkit.metric import Metric, Score
from evalkit.utils.files import sha256_file, sha256_json, write_json

KEY_DIGITS = 32  # hex digits of a key's digest, in the file's name


@dataclass(frozen=True)
class ScoreCache:
    """One JSON file per score, in a store's folder of scores; a key is all that the score depends on (JSON)."""

    folder: Path

    def _file(self, key: Mapping[str, Any]) -> Path:
        return self.folder / f"{sha256_json(key)[:KEY_DIGITS]}.json"

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
        return Score(None, score.n, note=f"the computation gave {score.value}", broken=True)
    if score.stderr is not None and not math.isfinite(score.stderr):
        return replace(score, stderr=None, influence=None)
    return score


def code_digest(metric: Metric) -> str:
    """Digest of the sources of the metric's class, of its bases and of what plugins share: an edited metric is new."""
    digests = []
    for kind in type(metric).__mro__:
        if kind.__module__ in ("builtins", "abc", "typing"):
            continue
        try:
            digests.append(sha256_file(Path(inspect.getfile(kind))))
        except (OSError, TypeError):  # a class of an interactive session has no file
            digests.append(kind.__qualname__)
    here = Path(__file__)
    shared = [*sorted((here.parents[1] / "numerics").glob("*.py")), here.with_name("pairs.py")]
    return sha256_json([*digests, *map(sha256_file, shared)])
