"""Where raw answers are stored: each at once, as a line of JSON, so that nothing is asked twice.

    answers/<judge>/judge.json                    what the judge is
                    20260101T120000-4711-9f3a.jsonl  a file per process that asked, one answer per line

`<judge>` is a digest of the judge's identity. A line begins with the digest of its question (`Item.key`: the images,
the text, the repeat), so that any process finds it, whatever the samples are called and however answers are read later.
Lines are only ever appended, each by one write; one that a kill or a crash cut short is passed over, and asked again.
In a store on a URL a file is an object: what came in since the last is put there after each batch, and what was not
put by then stands in a folder on this machine.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import secrets
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from evalkit.errors import DataError
from evalkit.judges.asker import KEY_DIGITS, Answer, Item
from evalkit.judges.place import ENDING, RECORD, AnswerPlace
from evalkit.utils.files import read_file, sha256_bytes, sha256_json, writing
from evalkit.utils.json_files import parse_json

log = logging.getLogger(__name__)

JUDGE_DIGITS = 12  # hex digits of a judge's digest
SOME = 200  # answers whose tokens stand for all
CHECK_DIGITS = 12  # hex digits of a line's digest
_CHECK = b', "check": "'
_START = b'{"key": "'


@dataclass(eq=False)
class Answers:
    """One judge's answers. Safe to use from several threads; several processes may write at once, each its own file.

    Args:
        place: of the store; none: answers are held in memory, and end with the process.
        identity: the judge's (`Asker.identity`).
    """

    place: AnswerPlace | None
    identity: Mapping[str, Any]
    _lines: dict[str, tuple[Path, int, int]] = field(default_factory=dict, init=False)  # by key: file, start, length
    _held: dict[str, Answer] = field(default_factory=dict, init=False)
    _file: IO[bytes] | None = field(default=None, init=False)
    _path: Path | None = field(default=None, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    def __post_init__(self) -> None:
        self.name = sha256_json(dict(self.identity))[:JUDGE_DIGITS]
        if self.place is None:
            return
        self.place.fetch_all(self.name)
        folder = self.place.folder / self.name
        for file in sorted(folder.glob(f"*{ENDING}")) if folder.is_dir() else ():
            self._index(file)

    def __len__(self) -> int:
        return len(self._lines) + len(self._held)

    def _index(self, file: Path) -> None:
        position = 0
        with file.open("rb") as lines:
            for line in lines:
                if line.endswith(b"}\n") and line.startswith(_START):
                    key = line[len(_START) : len(_START) + KEY_DIGITS].decode("ascii", "replace")
                    self._lines[key] = file, position, len(line)
                position += len(line)

    def get(self, item: Item) -> Answer | None:
        """What was answered before; one with the first token's probabilities serves who does not want them, too."""
        for first_token in (True,) if item.first_token else (False, True):
            key = item.key(first_token=first_token)
            if key in self._held:
                return self._held[key]
            if key in self._lines:
                answer = self._read(key)
                if answer is not None:
                    return answer
        return None

    def _read(self, key: str) -> Answer | None:
        file, start, length = self._lines[key]
        try:
            with file.open("rb") as lines:
                lines.seek(start)
                return parse_answer(lines.read(length), f"{file}, byte {start}")
        except (OSError, DataError) as error:
            log.warning("%s: this answer is asked for again", error)
            del self._lines[key]
            return None

    def usage(self) -> tuple[int, float, float]:
        """How many answers there are, and the mean of tokens sent and received over some of them."""
        keys = list(self._lines)
        answers = [a for key in keys[:: max(len(keys) // SOME, 1)] if (a := self._read(key)) is not None]
        answers += self._held.values()
        count = max(len(answers), 1)
        return len(self), sum(a.sent for a in answers) / count, sum(a.received for a in answers) / count

    def put(self, item: Item, answer: Answer) -> None:
        """Stores an answer, whole or not at all. StoreError: it cannot be written."""
        if self.place is None:
            self._held[item.key()] = answer
            return
        line = answer_line(item, answer)
        with self._lock:
            file, path = self._open(self.place)
            start = file.seek(0, os.SEEK_END)
            with writing(path):
                if file.write(line) < len(line):  # one unbuffered write: whatever ends it cuts the last line at most
                    file.close()
                    self._file = None  # nothing is written behind half a line
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
            self._lines[item.key()] = path, start, len(line)

    def _open(self, place: AnswerPlace) -> tuple[IO[bytes], Path]:
        if self._file is None or self._path is None:
            folder = place.folder / self.name
            stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
            self._path = folder / f"{stamp}-{os.getpid()}-{secrets.token_hex(4)}{ENDING}"
            with writing(self._path):
                if not (folder / RECORD).exists():
                    place.note(self.name, {"judge": dict(self.identity)})
                self._file = self._path.open("ab", buffering=0)
        return self._file, self._path

    def flush(self) -> None:
        """What came in since the last time is safe: on the disk, and in the store on a URL."""
        with self._lock:
            if self._file is None or self._path is None or self.place is None:
                return
            with writing(self._path):
                os.fsync(self._file.fileno())
            if self.place.remote is None:
                return
            self._file.close()
            self.place.remote.put_new(f"{self.name}/{self._path.name}", self._path.read_bytes())
            self._file = self._path = None  # the next batch is an object of its own

    def close(self) -> None:
        """Flushes, and closes the file; a later answer opens another."""
        self.flush()
        with self._lock:
            if self._file is not None:
                self._file.close()
            self._file = self._path = None


def answer_line(item: Item, answer: Answer) -> bytes:
    """An answer as it is stored."""
    about: dict[str, Any] = {
        "key": item.key(),
        "images": list(item.shown),
        "question": item.text,
        "repeat": item.repeat,
        "attempt": item.attempt,
        "answer": answer.text,
        "first": None if answer.first is None else dict(answer.first),
        "finish": answer.finish,
        "model": answer.model,
        "sent": answer.sent,
        "received": answer.received,
        "about": dict(answer.about),
    }
    body = json.dumps(about, ensure_ascii=True, allow_nan=False)[:-1].encode()
    return body + _CHECK + _digest(body) + b'"}\n'


def _digest(body: bytes) -> bytes:
    return sha256_bytes(body)[:CHECK_DIGITS].encode()


def parse_answer(line: bytes, where: str) -> Answer:
    """An answer as `answer_line` wrote it. DataError: it is none, or was altered."""
    body, _, check = line.rpartition(_CHECK)
    if check.rstrip(b"\n") != _digest(body) + b'"}':
        raise DataError(f"{where}: altered, or cut short")
    value = parse_json(line, where, finite=True)
    try:
        first = value["first"]
        answer = Answer(
            str(value["answer"]),
            None if first is None else {str(token): float(logprob) for token, logprob in first.items()},
            str(value["finish"]),
            None if value["model"] is None else str(value["model"]),
            int(value["sent"]),
            int(value["received"]),
            dict(value["about"]),
        )
    except (TypeError, KeyError, ValueError, AttributeError, OverflowError):
        raise DataError(f"{where}: no answer of a judge") from None
    return answer


def verify_file(file: Path) -> None:
    """Reads a file's answers. DataError: one is not as it was written; what a kill cut short at the end is no fault."""
    data = read_file(file)
    for number, line in enumerate(data[: data.rfind(b"\n") + 1].splitlines(keepends=True), 1):
        parse_answer(line, f"{file}:{number}")
