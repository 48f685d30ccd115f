"""votes.csv: a line per vote, only ever added to, each on the disk before whoever voted hears that it is.

A vote is one physical line (line breaks in a prompt are escaped), so that what a crash left half-written spoils no
other: `append_vote` ends it, and `read_votes` leaves it out with a warning. Nothing is ever taken out of the file: an
undo is a line of its own.
"""

from __future__ import annotations

import csv
import io
import logging
import math
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path

from evalkit.errors import DataError, nearest
from evalkit.utils.csv_cells import restored, safe
from evalkit.utils.files import MAX_FILE_BYTES, Stamp, open_file, read_file, stamp_of_file, writing
from evalkit.utils.text import one_line

log = logging.getLogger(__name__)

VOTES = "votes.csv"  # next to a run's results.json
OUTCOMES = ("a", "b", "tie", "both_bad", "undo")
SIDES = ("a", "b")
_ESCAPED = re.compile("[\\\\\x00-\x1f\x7f\x85\u2028\u2029\ud800-\udfff]")  # what would end a line, or is no UTF-8
_ESCAPE = re.compile(r"\\(\\|n|r|u[0-9a-f]{4})")
_SHORT = {"\\": "\\\\", "\n": "\\n", "\r": "\\r"}
_LONG = {short[1:]: letter for letter, short in _SHORT.items()}


def now() -> str:
    """The time as votes have it: ISO 8601, UTC, milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@dataclass(frozen=True, kw_only=True)
class Vote:
    """A line of votes.csv.

    Attributes:
        time: ISO 8601, UTC.
        voter: a person's name, or a judge's label.
        cell_a, cell_b: the two cells, by their names in results.json.
        index: of the samples that were compared: both have the same prompt, and the seed that goes with it.
        prompt: theirs.
        outcome: "a" or "b" is better, "tie", "both_bad", or "undo": this voter's last vote on the same cells and
            index is void.
        left: which cell was shown at the left (or first).
        seconds: from when both images were seen until the vote.
        check: whether the item repeats an earlier one of this voter; such votes measure agreement and nothing else.

    Raises:
        DataError: an outcome or a side is unknown, both cells are one, or a number or a time is none.
    """

    time: str = field(default_factory=now)
    voter: str
    cell_a: str
    cell_b: str
    index: int
    prompt: str
    outcome: str
    left: str = "a"
    seconds: float = 0.0
    check: bool = False

    def __post_init__(self) -> None:
        for name, known in (("outcome", OUTCOMES), ("left", SIDES)):
            if getattr(self, name) not in known:
                raise DataError(f"a vote's {name} '{getattr(self, name)}': {nearest(getattr(self, name), known)}")
        if self.cell_a == self.cell_b:
            raise DataError(f"a vote between '{self.cell_a}' and itself: give two cells")
        if self.index < 0 or not math.isfinite(self.seconds) or self.seconds < 0:
            raise DataError(f"a vote's index {self.index} and seconds {self.seconds}: give numbers from 0 on")
        if not self.voter:
            raise DataError("a vote without a voter: give a name")
        try:
            datetime.fromisoformat(self.time)
        except ValueError:
            raise DataError(f"a vote's time '{self.time}': give ISO 8601") from None


HEADS = tuple(each.name for each in fields(Vote))
_HEADER = ",".join(HEADS)
_BOM = b"\xef\xbb\xbf"  # of a spreadsheet that saved the file


def append_vote(path: Path, vote: Vote) -> None:
    """Adds a vote; it is on the disk when this returns. Several processes may do so at once.

    Raises:
        StoreError: it cannot be written.
        DataError: the file is no votes.csv.
    """
    append_votes(path, [vote])


def append_votes(path: Path, votes: Sequence[Vote]) -> None:
    """Adds votes in their order, by one write. Raises what `append_vote` does."""
    text = "".join(f"{_line(vote)}\n" for vote in votes)
    with writing(path), _locked(path) as file:
        size = os.fstat(file).st_size
        lines = _read(file, 0, 65536).removeprefix(_BOM).split(b"\n")
        first = lines[0].decode("utf-8", "replace").rstrip("\r")
        if not _HEADER.startswith(first):
            raise DataError(f"{path}: it begins with '{one_line(first, 60)}', which no votes.csv does: move it")
        if first != _HEADER and _HEADER.encode() not in lines:
            text = f"{_HEADER}\n{text}"
        if size and _read(file, size - 1, 1) != b"\n":
            text = f"\n{text}"  # ends what a crash left half-written
        rest = memoryview(text.encode())
        while rest:
            rest = rest[os.write(file, rest) :]
        os.fsync(file)


def read_votes(path: Path) -> list[Vote]:
    """The votes that count, in the order in which they were cast: without those that were undone.

    Lines that a crash left half-written are left out with a warning.

    Raises:
        DataError: there is no such file, it is no votes.csv, or a line is wrong (which).
    """
    return standing(read_lines(path))


def read_lines(path: Path) -> list[Vote]:
    """All lines, those of undone votes and the undos too. Raises what `read_votes` does."""
    try:
        data = read_file(path, limit=MAX_FILE_BYTES)
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        raise DataError(f"{path}: {'no such file' if missing else error.strerror or error}") from error
    return parse(data, str(path))


def parse(data: bytes, where: str, first: int = 1) -> list[Vote]:
    """All lines of a votes.csv's bytes. Raises what `read_votes` does.

    Args:
        data: the bytes, or those from the beginning of a later line on.
        where: what messages call the file.
        first: the number of the first line; 1: it is the header.
    """
    votes: list[Vote] = []
    headed = first > 1
    for number, raw in enumerate(data.removeprefix(_BOM).split(b"\n"), first):
        line = raw.decode("utf-8", "replace").removesuffix("\r")
        if line == _HEADER:
            headed = True
        elif not headed:
            if not _HEADER.startswith(line):
                raise DataError(f"{where}:{number}: no votes.csv: it does not begin with {_HEADER}")
        elif line:
            cells = _cells(line)
            if cells is None:
                log.warning("%s:%d: left out: the line was never written to its end", where, number)
            else:
                votes.append(_vote(cells, f"{where}:{number}"))
    return votes


def standing(votes: Iterable[Vote]) -> list[Vote]:
    """The votes that count: each undo voids its voter's last one on the same cells and index that still did.

    It names them because votes of one voter may come from two places (the page and an export): each takes back its own.
    """
    counted = _Standing()
    for vote in votes:
        counted.add(vote)
    return counted.votes()


class _Standing:
    """The votes that count, of lines that come one after the other."""

    def __init__(self) -> None:
        self._votes: list[Vote | None] = []
        self._places: dict[tuple[str, frozenset[str], int], list[int]] = {}

    def add(self, vote: Vote) -> None:
        mine = self._places.setdefault((vote.voter, frozenset((vote.cell_a, vote.cell_b)), vote.index), [])
        if vote.outcome != "undo":
            mine.append(len(self._votes))
            self._votes.append(vote)
        elif mine:
            self._votes[mine.pop()] = None

    def votes(self) -> list[Vote]:
        return [vote for vote in self._votes if vote is not None]


class Followed:
    """A votes.csv that is added to: what was read of it is not read again. There may be no file yet.

    A file that was replaced or became shorter is read from its beginning.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._begin()

    def _begin(self) -> None:
        self._stamp: Stamp | None = None
        self._end, self._lines = 0, 0  # of what was read: its bytes and its lines
        self._standing = _Standing()

    def votes(self) -> list[Vote]:
        """What `read_votes` would give now. Raises what it does, but for a file that is not there."""
        if not self.path.exists():
            self._begin()
            return []
        stamp = stamp_of_file(self.path)
        if self._stamp is not None and (stamp[3] != self._stamp[3] or stamp[0] < self._end):
            self._begin()
        if stamp != self._stamp:
            with open_file(self.path) as file:
                file.seek(self._end)
                data = file.read()
            whole, ended, tail = data.rpartition(b"\n")
            if tail and (not ended or _cells(tail.decode("utf-8", "replace")) is not None):
                return read_votes(self.path)  # a crash took a line's end alone, or all but the header's beginning
            if ended:
                for vote in parse(whole, str(self.path), self._lines + 1):
                    self._standing.add(vote)
                self._end, self._lines = self._end + len(whole) + 1, self._lines + whole.count(b"\n") + 1
            self._stamp = stamp
        return self._standing.votes()


@contextmanager
def _locked(path: Path) -> Iterator[int]:
    """The file, open to be read and added to, by nobody else at this moment; it is made where there is none."""
    new = not path.exists()
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0), 0o644)
    try:
        try:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)  # left with the file
        except (ImportError, OSError):  # Windows, or a disk without locks: one write is one piece there as well
            pass
        if new and os.name == "posix":
            folder = os.open(path.absolute().parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        yield file
    finally:
        os.close(file)


def _read(file: int, start: int, size: int) -> bytes:
    os.lseek(file, start, os.SEEK_SET)  # where is written is the end all the same
    return os.read(file, size)


def _line(vote: Vote) -> str:
    cells = [getattr(vote, head) for head in HEADS]
    texts = [_escaped(cell) if isinstance(cell, str) else cell for cell in cells]
    texts[HEADS.index("seconds")] = f"{vote.seconds:.3f}"
    texts[HEADS.index("check")] = int(vote.check)
    out = io.StringIO()
    csv.writer(out, lineterminator="").writerow([safe(text) for text in texts])
    return out.getvalue()


def _cells(line: str) -> list[str] | None:
    """A line's cells; none where it was not written to its end."""
    csv.field_size_limit(2**31 - 1)
    try:
        cells = next(csv.reader([line], strict=True))
    except csv.Error:
        return None
    whole = len(cells) == len(HEADS) and cells[-1] in ("0", "1") and "\0" not in line
    return [_unescaped(restored(cell)) for cell in cells] if whole else None


def _vote(cells: Sequence[str], where: str) -> Vote:
    at = dict(zip(HEADS, cells, strict=True))
    try:
        numbers = {"index": int(at["index"]), "seconds": float(at["seconds"]), "check": at["check"] == "1"}
        return Vote(**{**at, **numbers})  # type: ignore[arg-type]
    except ValueError:
        raise DataError(f"{where}: index or seconds is no number") from None
    except DataError as error:
        raise DataError(f"{where}: {error}") from None


def _escaped(text: str) -> str:
    return _ESCAPED.sub(lambda match: _SHORT.get(match[0]) or f"\\u{ord(match[0]):04x}", text)


def _unescaped(text: str) -> str:
    return _ESCAPE.sub(lambda match: _LONG.get(match[1]) or chr(int(match[1][1:], 16)), text)
