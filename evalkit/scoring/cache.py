"""The score cache: a score is found by the digest of all that it depends on, without torch.

A file is believed only where its content is what was written: a flipped bit, a file cut short or one that was put in
another's place is a miss, and the score is computed anew.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from evalkit.errors import DataError
from evalkit.metric import Metric, Score
from evalkit.utils.code import class_digest
from evalkit.utils.files import READ_ONLY, disk_error, sha256_json
from evalkit.utils.json_files import read_checked, write_checked

log = logging.getLogger(__name__)

KEY_DIGITS = 32  # hex digits of a key's digest, in the file's name

# What every score depends on besides its metric: how files become pixels, how pairs and standard errors are formed.
_SHARED = (
    *("evalkit.data.codec", "evalkit.data.center_crop"),
    *("evalkit.scoring.pairs", "evalkit.scoring.scoring", "evalkit.scoring.states"),
)


@dataclass(frozen=True)
class ScoreCache:
    """One JSON file per score, in a store's folder of scores; a key is all that the score depends on (JSON)."""

    folder: Path

    def _file(self, key: Mapping[str, Any]) -> Path:
        return self.folder / f"{sha256_json(key)[:KEY_DIGITS]}.json"

    def has(self, key: Mapping[str, Any]) -> bool:
        """Whether there is a file of a score, be it one that cannot be believed."""
        return self._file(key).is_file()

    def find(self, key: Mapping[str, Any]) -> Score | None:
        """The cached score; none where there is none. One that cannot be believed is named in a line, and none too."""
        file = self._file(key)
        if not file.is_file():
            return None
        try:
            entry = read_checked(file)
            if entry["key"] != json.loads(json.dumps(key)):
                raise DataError(f"{file}: the score of something else")
            return score_from(entry["score"])
        except (OSError, DataError, LookupError, TypeError, ValueError) as error:
            log.warning("%s: this score is computed anew", error if isinstance(error, DataError) else file)
            return None

    def keep(self, key: Mapping[str, Any], score: Score) -> None:
        """Writes a score; one without a value is computed anew each time.

        Where the store is read-only the score is told and not kept, which a line says.

        Raises:
            StoreError: the folder cannot be written for another reason.
        """
        if score.value is None or (self.has(key) and self.find(key) is not None):  # the first to write stays
            return
        try:
            write_checked(self._file(key), {"key": key, "score": asdict(score)})
        except OSError as error:
            if error.errno not in READ_ONLY:
                raise disk_error(error, self._file(key)) from error
            log.warning("%s: the store is read-only: a score is not kept", self.folder)


def score_from(values: Mapping[str, Any]) -> Score:
    """A score from what `asdict` made of it.

    Raises:
        LookupError, TypeError, ValueError: it is not that.
    """
    influence, nearest = values["influence"], values["nearest"]
    score = Score(
        **{
            **values,
            "influence": None if influence is None else tuple(map(_number, influence)),
            "nearest": tuple((int(i), int(j), _number(d)) for i, j, d in nearest),
            "details": {str(name): _number(value) for name, value in values["details"].items()},
        }
    )
    counts = (score.n, 0 if score.clusters is None else score.clusters)
    if not all(isinstance(count, int) and count >= 0 for count in counts) or not isinstance(score.note, str | None):
        raise TypeError("n, clusters or note")
    if not math.isfinite(_number(score.value)) or (score.stderr is not None and _number(score.stderr) < 0):
        raise ValueError("value or stderr")
    return score


def _number(value: Any) -> float:
    """What is no number, `read_checked` has found not to be finite."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{value!r} is no number")
    return value


def finite(score: Score) -> Score:
    """A score that is not a finite number has no value, and is never cached as one; nor is a standard error."""
    if score.value is not None and not math.isfinite(score.value):
        return Score(None, score.n, note=f"the computation gave {score.value}", broken=True)
    if score.stderr is not None and not math.isfinite(score.stderr):
        return replace(score, stderr=None, influence=None)
    return score


def code_digest(metric: Metric) -> str:
    """Digest of the code that a metric's scores rest on, and of the libraries' versions: an edited metric is new."""
    return class_digest(type(metric), *_SHARED)
