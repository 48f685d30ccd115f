"""Looking through images: what each is. Each is read once for its sha256 and header, and kept for the next process."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from evalkit.data import codec, reading
from evalkit.data.png_parameters import read_parameters
from evalkit.data.records import FileRecord, Reader
from evalkit.data.remote import Remote
from evalkit.errors import DataError
from evalkit.utils.code import module_digest
from evalkit.utils.files import Stamp, atomic_path, read_file, sha256_bytes, stamp_of_file, writing

if TYPE_CHECKING:
    from evalkit.data.containers.base import Container
    from evalkit.data.records import Reader


INDEX = "scan4-"  # an index's name begins with it; the number is that of its layout
INDEX_BYTES = 4 << 30  # of a million images: half a gigabyte
CHECK_DIGITS = 16  # hex digits of a line's digest

_SETTLED_NS = 2_000_000_000  # a file younger than this could change again within one tick of its mtime
_GONE: Stamp = (-1, 0, 0, 0)
_LOOKED_AT_BY = (
    "evalkit.data.codec",
    "evalkit.data.comfyui_graph",
    "evalkit.data.png_parameters",
    "evalkit.data.records",
)

log = logging.getLogger(__name__)


_WAITING = 4096  # images that wait in the pool at a time: each costs a kilobyte
AT_ONCE = 64  # files that a process looks at at a time


def scan(
    container: Container, read: Reader, names: Sequence[str], *, decode: bool, cache: Path | None = None
) -> list[FileRecord]:
    """Reads every image once for its sha256 and header; what is known by its name and stamp is not read again.

    Args:
        container: what holds the images.
        read: reads one of them; called from several threads. `DataError` and `OSError` become the record's error, any
            other ends the scan; what was found by then is kept.
        names: of the images.
        decode: also decodes each, so that damage behind the header is found.
        cache: a folder that keeps the records for the next process.
    """
    place = str(container.place) if isinstance(container.place, Remote) else os.path.realpath(container.place)
    file = container.index = cache / f"{INDEX}{sha256_bytes(place.encode())[:16]}.jsonl" if cache else None
    stored = load_records(file, place) if file else {}
    kept = {name: record for name, record in {**stored, **container.scanned}.items() if record.decoded or not decode}
    known = {name: kept[name] for name in names if name in kept and _is_as_it_was(container, name, kept[name])}

    new = [name for name in names if name not in known]
    helpers = reading.helpers(reading.SECONDS_PER_FILE * len(new)) if _are_files(container, new) else None

    def look(part: Sequence[str]) -> list[FileRecord]:
        if helpers is None:
            return [_look(container.label(name), container.stamp, read, name, decode=decode) for name in part]
        return helpers.call(_look_at_files, [(container.label(name), container.file(name)) for name in part], decode)

    try:
        pool = helpers or (reading.wide_pool() if container.far else reading.read_pool())
        size = AT_ONCE if helpers is not None else 1
        for block in (new[i : i + _WAITING] for i in range(0, len(new), _WAITING)):
            parts = [block[i : i + size] for i in range(0, len(block), size)]
            for part, records in zip(parts, pool.map(look, parts), strict=True):
                known.update(zip(part, records, strict=True))  # what comes before an error is kept
    except BaseException:
        container.scanned = known
        raise
    finally:
        found = {name: known[name] for name in names if name in known}
        if file and found != stored:
            save_records(file, place, found)
    return list(found.values())


def _are_files(container: Container, names: Sequence[str]) -> bool:
    return bool(names) and container.file(names[0]) is not None


def _look_at_files(files: Sequence[tuple[str, str]], decode: bool) -> list[FileRecord]:
    """In a process: the records of files, given as errors call them and with their paths."""
    return [_look(label, stamp_of_file, read_file, path, decode=decode) for label, path in files]


def _look(label: str, stamp_of: Callable[[str], Stamp], read: Reader, name: str, *, decode: bool) -> FileRecord:
    stamp = _GONE
    try:
        stamp = stamp_of(name)
        return make_record(read(name), label, stamp, decode=decode)
    except DataError as error:
        return FileRecord(stamp, "", 0, 0, (), "", "", str(error), decode, None)
    except OSError as error:
        return FileRecord(_GONE, "", 0, 0, (), "", "", f"{label}: {error.strerror or error}", decode, None)


def _is_as_it_was(container: Container, name: str, record: FileRecord) -> bool:
    try:
        return record.stamp == container.stamp(name)
    except OSError:
        return False


def make_record(data: bytes, name: str, stamp: Stamp, *, decode: bool) -> FileRecord:
    """The record of an image file's bytes; damage becomes its `error`.

    Args:
        data: the file.
        name: what errors call it.
        stamp: of what is looked at to tell whether the record still holds.
        decode: whether all of it is decoded, or its header alone.
    """
    sha256 = sha256_bytes(data)
    try:
        header = codec.inspect(data, name)
        if decode:
            codec.decode(data, name)
    except DataError as error:
        return FileRecord(stamp, sha256, 0, 0, (), "", "", str(error), decode, None)
    size, parameters = (header.width, header.height), read_parameters(header.texts)
    about = header.profile, header.quality
    return FileRecord(stamp, sha256, *size, header.notes, header.format, header.mode, None, decode, parameters, *about)


# The index of a scan: a line of whose it is, then a line per image, each after the digest of both. So a flipped bit, a
# line cut short and the index of another folder are seen, and that file is looked at anew.


def load_records(path: Path, place: str) -> dict[str, FileRecord]:
    """What `save_records` kept of the images at a place; lines that were altered are left out, and told of."""
    try:
        head, records, altered = read_index(path)
    except (OSError, DataError):
        return {}  # none yet
    if head != _head(place):
        return {}  # of another version
    if altered:
        log.warning("%s: %d lines are altered or cut short: these files are looked at anew", path, altered)
    return records


def read_index(path: Path) -> tuple[str, dict[str, FileRecord], int]:
    """An index's first line, which is JSON and names the place, the records, and how many lines are altered.

    Raises:
        OSError, DataError: it cannot be read.
    """
    records: dict[str, FileRecord] = {}
    altered = 0
    head, *lines = read_file(path, INDEX_BYTES).decode("utf-8", "replace").removesuffix("\n").split("\n")
    for line in lines:
        check, _, text = line.partition(" ")
        if check != _check(head, text):
            altered += 1
            continue
        name, stamp, *values = json.loads(text)
        row = dict(zip(FileRecord.__slots__, [tuple(stamp), *values], strict=True))
        row["notes"] = tuple(row["notes"])
        row["format"], row["mode"] = sys.intern(row["format"]), sys.intern(row["mode"])
        records[name] = FileRecord(**row)
    return head, records, altered


def save_records(path: Path, place: str, records: Mapping[str, FileRecord]) -> None:
    """Keeps the records for the next process; files that are too young to be told from a later change are left out."""
    newest = time.time_ns() - _SETTLED_NS
    heads, head = FileRecord.__slots__, _head(place)
    try:
        with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as lines:
            lines.write(head + "\n")
            for name, record in records.items():
                _, changed, attributes_changed, _ = record.stamp
                if 0 < changed < newest and attributes_changed < newest:
                    text = json.dumps([name, *(getattr(record, head) for head in heads)])
                    lines.write(f"{_check(head, text)} {text}\n")
    except OSError:
        return  # a read-only store: the next process scans again


def forget_scans(cache: Path) -> None:
    """Removes all indexes, so that every file is read again.

    Raises:
        StoreError: the folder cannot be written.
    """
    for path in [*cache.glob(f"{INDEX}*.jsonl")]:
        with writing(path):
            path.unlink(missing_ok=True)


def _head(place: str) -> str:
    return json.dumps({"place": place, "code": module_digest(__name__, *_LOOKED_AT_BY)})


def _check(head: str, text: str) -> str:
    return sha256_bytes(f"{head}\n{text}".encode())[:CHECK_DIGITS]
