"""The score cache: a score is found by the digest of all that it depends on, without torch.

A file is believed only where its content is what was written: a flipped bit, a file cut short or one that was put in
another's place is a miss, and the score is computed anew.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from evalkit.errors import DataError, ReadOnlyError
from evalkit.metric import Metric, Score
from evalkit.utils.blobs import Blobs, LocalBlobs
from evalkit.utils.code import class_digest
from evalkit.utils.files import sha256_bytes, sha256_json
from evalkit.utils.json_files import parse_json
from evalkit.utils.text import one_line

log = logging.getLogger(__name__)

KEY_DIGITS = 32  # hex digits of a key's digest, in the file's name
ENDING = ".safetensors"

# What every score depends on besides its metric: how files become pixels, how pairs and standard errors are formed.
_SHARED = (
    *("evalkit.data.codec", "evalkit.data.center_crop"),
    *("evalkit.scoring.pairs", "evalkit.scoring.pair_pass", "evalkit.scoring.scoring", "evalkit.scoring.states"),
)


class ScoreCache:
    """One file per score, in a store's folder of scores; a key is all that the score depends on (JSON).

    What is one value per sample is in it as float64, the rest as JSON: a tensor each of a safetensors file.
    """

    def __init__(self, place: Path | Blobs) -> None:
        self.blobs: Blobs = LocalBlobs(place) if isinstance(place, Path) else place
        self._there: set[str] = set()  # what is there stays there

    def has(self, key: Mapping[str, Any]) -> bool:
        """Whether there is a file of a score, be it one that cannot be believed."""
        file = file_name(key)
        if file not in self._there and self._look(file):
            self._there.add(file)
        return file in self._there

    def _look(self, file: str) -> bool:
        if isinstance(self.blobs, LocalBlobs):  # a look, where a listing goes through all scores
            return (self.blobs.root / file).is_file()
        return any(True for _ in self.blobs.list(file))

    def find(self, key: Mapping[str, Any]) -> Score | None:
        """The cached score; none where there is none. One that cannot be believed is named in a line, and none too."""
        file = file_name(key)
        where = f"{self.blobs.where}/{file}"
        try:
            entry = load(self.blobs.get(file), where)
            if entry["key"] != json.loads(json.dumps(key)):
                raise DataError(f"{where}: the score of something else")
            return score_from(entry["score"])
        except FileNotFoundError:
            return None
        except (OSError, DataError, LookupError, TypeError, ValueError) as error:
            log.warning("%s: this score is computed anew", error if isinstance(error, DataError) else where)
            return None

    def keep(self, key: Mapping[str, Any], score: Score) -> None:
        """Writes a score, unless another was first; one without a value is computed anew each time.

        Where the store is read-only the score is told and not kept, which a line says.

        Raises:
            StoreError: it cannot be written for another reason.
        """
        if score.value is None:
            return
        data = dump(key, asdict(score))
        try:
            if not self.blobs.put_new(file_name(key), data) and self.find(key) is None:  # it cannot be believed
                self.blobs.put(file_name(key), data)
            self._there.add(file_name(key))
        except ReadOnlyError:
            log.warning("%s: the store is read-only: a score is not kept", self.blobs.where)


def file_name(key: Mapping[str, Any]) -> str:
    """The file of a score."""
    return f"{sha256_json(key)[:KEY_DIGITS]}{ENDING}"


def dump(key: Mapping[str, Any], score: Mapping[str, Any]) -> bytes:
    """A file's bytes, of what `asdict` made of a score."""
    import numpy as np
    from safetensors.numpy import save

    influence = score["influence"]
    about = {"key": key, "score": {**score, "influence": None}}
    text = json.dumps(about, allow_nan=False, ensure_ascii=False).encode()
    arrays = {"about": np.frombuffer(text, np.uint8)}
    if influence is not None:
        arrays["influence"] = np.array(influence, np.float64)
    data: bytes = save(arrays | {"check": np.frombuffer(_digest(arrays), np.uint8)})
    return data


def load(data: bytes, where: str) -> dict[str, Any]:
    """What `dump` was given, as JSON values. DataError: it is not as it was written."""
    from safetensors import SafetensorError
    from safetensors.numpy import load as load_arrays

    try:
        arrays = load_arrays(data)
        if arrays.pop("check").tobytes() != _digest(arrays):
            raise DataError(f"{where}: altered or cut short (its sha256 is not the recorded one)")
        entry: dict[str, Any] = parse_json(arrays["about"].tobytes(), where, finite=True)
        if "influence" in arrays:
            if arrays["influence"].shape[1:] or arrays["influence"].dtype != "float64":
                raise TypeError("influence is not f64 [N]")
            entry["score"]["influence"] = tuple(arrays["influence"].tolist())
        return entry
    except (SafetensorError, LookupError, TypeError, ValueError) as error:
        raise DataError(f"{where}: altered or cut short ({one_line(error)})") from error


def _digest(arrays: Mapping[str, Any]) -> bytes:
    about = [[name, str(a.dtype), list(a.shape), sha256_bytes(a.tobytes())] for name, a in sorted(arrays.items())]
    return bytes.fromhex(sha256_json(about))


def score_from(values: Mapping[str, Any]) -> Score:
    """A score from what `asdict` made of it.

    Raises:
        LookupError, TypeError, ValueError: it is not that.
    """
    influence, nearest = values["influence"], values["nearest"]
    if not isinstance(influence, tuple | None):  # `load` makes one of numbers alone
        raise TypeError("influence")
    score = Score(
        **{
            **values,
            "influence": influence,
            "nearest": tuple((int(i), int(j), _number(d)) for i, j, d in nearest),
            "details": {str(name): _number(value) for name, value in values["details"].items()},
            "headings": {str(name): _optional(each) for name, each in values.get("headings", {}).items()},
        }
    )
    counts = (score.n, 0 if score.clusters is None else score.clusters)
    if not all(isinstance(count, int) and count >= 0 for count in counts) or not isinstance(score.note, str | None):
        raise TypeError("n, clusters or note")
    if not math.isfinite(_number(score.value)) or (score.stderr is not None and _number(score.stderr) < 0):
        raise ValueError("value or stderr")
    return score


def _number(value: Any) -> float:
    """What is no number; NaN and infinities are left: `dump` writes none, and `finite` lets none pass."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{value!r} is no number")
    return value


def _optional(values: Sequence[Any]) -> tuple[float | None, ...]:
    return tuple(None if value is None else _number(value) for value in values)


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
