"""Looking through folders of images: which files there are, what each is, and what it was asked to show."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from evalkit.data import codec
from evalkit.data.png_parameters import read_parameters
from evalkit.data.remote import Remote, Stamp
from evalkit.errors import ConfigError, DataError, nearest
from evalkit.utils.files import atomic_path, sha256_bytes
from evalkit.utils.tables import read_table

EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif")
PROMPT_COLUMNS = ("prompt", "text", "caption")  # of a metadata file; the first that is there
METADATA_FILES = ("metadata.jsonl", "metadata.csv")

Item = TypeVar("Item")
Choose = Callable[[list[str]], list[str]]  # which of the images' sorted names are read, and in which order

_SETTLED_NS = 2_000_000_000  # a file younger than this could change again within one tick of its mtime


@dataclass(frozen=True, slots=True)  # slots: there may be a million
class FileRecord:
    """What a scan found of one file; valid as long as its size and mtime are the same.

    Attributes:
        width, height: 0 where there is an error.
        notes, format, mode: see `evalkit.data.codec`.
        error: why it cannot be read, naming the file; none: it can.
        decoded: whether all of it was decoded, or its header alone.
        parameters: what a PNG says that it was made with (`evalkit.data.png_parameters`), or none.
    """

    size: int
    mtime_ns: int
    sha256: str
    width: int
    height: int
    notes: tuple[str, ...]
    format: str
    mode: str
    error: str | None
    decoded: bool
    parameters: Mapping[str, Any] | None  # no default: a cache of the time before it is scanned again


_SCANNED: dict[str, FileRecord] = {}  # by absolute path, for this process
_SCANNED_INSIDE: dict[str, dict[str, FileRecord]] = {}  # by absolute path of the archive, then by name in it
_WAITING = 2048  # images that wait in the pool at a time: each costs a kilobyte


@functools.cache
def read_pool() -> ThreadPoolExecutor:
    """Threads that read and decode files, for the whole process."""
    return ThreadPoolExecutor(min(8, os.cpu_count() or 1), thread_name_prefix="evalkit-read")


@functools.cache
def wide_pool() -> ThreadPoolExecutor:
    """Threads that wait for a network."""
    return ThreadPoolExecutor(16, thread_name_prefix="evalkit-fetch")


def scan(folder: Path, files: Sequence[str], *, decode: bool, cache: Path | None = None) -> list[FileRecord]:
    """Reads every file once for its sha256 and header; files that are known by path, size and mtime are not read again.

    Args:
        folder: where the files are.
        files: relative paths.
        decode: also decodes each, so that damage behind the header is found.
        cache: a folder that keeps the records for the next process.
    """
    kept = _cache_file(cache, str(folder.resolve())) if cache else None
    known = load_records(kept) if kept else {}
    root = os.path.realpath(folder)
    paths = [f"{root}/{name}" for name in files]
    records = [
        _still_valid(path, (_SCANNED.get(path), known.get(name)), decode)
        for path, name in zip(paths, files, strict=True)
    ]
    new = [i for i, record in enumerate(records) if record is None]
    for i, record in _mapped(read_pool(), lambda i: _scan_file(folder / files[i], decode), new):
        records[i] = record
    found = [record for record in records if record is not None]
    _SCANNED.update(zip(paths, found, strict=True))
    if kept and any(known.get(name) != record for name, record in zip(files, found, strict=True)):
        save_records(kept, dict(zip(files, found, strict=True)))
    return found


def scan_inside(
    place: Path | Remote,
    names: Sequence[str],
    load: Callable[[str], bytes],
    stamp: Callable[[str], Stamp],
    *,
    decode: bool,
    cache: Path | None = None,
) -> list[FileRecord]:
    """As `scan`, of images that are not files of this machine: what is known by its name and stamp is not read again.

    Args:
        place: the archive, table or remote folder.
        names: of the images in it.
        load: an image's bytes by its name; called from several threads. `DataError` becomes the record's error, any
            other ends the scan; what was found by then is kept.
        stamp: by its name, what is looked at to tell whether a record still holds.
        decode, cache: as of `scan`.
    """
    real = str(place) if isinstance(place, Remote) else os.path.realpath(place)
    kept = _cache_file(cache, real) if cache else None
    stored = load_records(kept) if kept else {}
    known = {
        name: record
        for name, record in (stored | _SCANNED_INSIDE.get(real, {})).items()
        if record.decoded or not decode
    }

    def look(name: str) -> FileRecord:
        try:
            return make_record(load(name), f"{place}: {name}", stamp(name), decode=decode)
        except DataError as error:
            return FileRecord(*stamp(name), "", 0, 0, (), "", "", str(error), decode, None)

    new = [name for name in names if name not in known or (known[name].size, known[name].mtime_ns) != stamp(name)]
    pool, done = wide_pool() if isinstance(place, Remote) else read_pool(), False
    try:
        known.update(_mapped(pool, look, new))
        done = True
    finally:
        found = {name: known[name] for name in names if name in known} if done else known
        _SCANNED_INSIDE[real] = found
        if kept and found != stored:
            save_records(kept, found)
    return list(found.values())


def _mapped(
    pool: Executor, function: Callable[[Item], FileRecord], items: Sequence[Item]
) -> Iterator[tuple[Item, FileRecord]]:
    """Each item and its result, in order; few wait in the pool at a time."""
    for start in range(0, len(items), _WAITING):
        block = items[start : start + _WAITING]
        yield from zip(block, pool.map(function, block), strict=True)


def folder_of(name: str) -> str:
    """The folder that a relative posix path lies in; "." at the top."""
    return name.rpartition("/")[0] or "."


def file_stamp(path: Path) -> Stamp:
    """Size and mtime of a file. Raises OSError where there is none."""
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns


def _cache_file(cache: Path, real: str) -> Path:
    """Its name tells the version of what is kept: 3 has a line an image."""
    return cache / f"scan3-{sha256_bytes(real.encode())[:16]}.jsonl"


def _still_valid(path: str, known: Sequence[FileRecord | None], decode: bool) -> FileRecord | None:
    """The record that fits the file's size and mtime. Plain os calls: this is done for every file of every run."""
    for record in known:
        if record is None or (decode and not record.decoded):
            continue
        try:
            stat = os.stat(path)  # noqa: PTH116
        except OSError:
            return None
        if (record.size, record.mtime_ns) == (stat.st_size, stat.st_mtime_ns):
            return record
    return None


def _scan_file(path: Path, decode: bool) -> FileRecord:
    try:
        stat = path.stat()
        data = path.read_bytes()
    except OSError as error:
        return FileRecord(-1, 0, "", 0, 0, (), "", "", f"{path}: {error.strerror or error}", decode, None)
    return make_record(data, str(path), (stat.st_size, stat.st_mtime_ns), decode=decode)


def make_record(data: bytes, name: str, stamp: tuple[int, int], *, decode: bool) -> FileRecord:
    """The record of an image file's bytes; damage becomes its `error`.

    Args:
        data: the file.
        name: what errors call it.
        stamp: size and mtime (ns) of what is looked at to tell whether the record still holds.
        decode: whether all of it is decoded, or its header alone.
    """
    sha256 = sha256_bytes(data)
    try:
        header = codec.inspect(data, name)
        if decode:
            codec.decode(data, name)
    except DataError as error:
        return FileRecord(*stamp, sha256, 0, 0, (), "", "", str(error), decode, None)
    size = (header.width, header.height)
    return FileRecord(
        *stamp, sha256, *size, header.notes, header.format, header.mode, None, decode, read_parameters(data)
    )


def load_records(path: Path) -> dict[str, FileRecord]:
    """What `save_records` kept; empty where there is none."""
    found = {}
    try:
        with path.open(encoding="utf-8") as lines:
            for line in lines:
                name, *values = json.loads(line)
                row = dict(zip(FileRecord.__slots__, values, strict=True))
                row["notes"] = tuple(row["notes"])
                row["format"], row["mode"] = sys.intern(row["format"]), sys.intern(row["mode"])
                found[name] = FileRecord(**row)
    except (OSError, ValueError, TypeError):
        return {}  # none yet, or of another version
    return found


def save_records(path: Path, records: Mapping[str, FileRecord]) -> None:
    """Keeps the records for the next process; files that are too young to be told from a later change are left out."""
    newest = time.time_ns() - _SETTLED_NS
    heads = FileRecord.__slots__
    try:
        with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as lines:
            for name, record in records.items():
                if 0 < record.mtime_ns < newest:
                    lines.write(json.dumps([name, *(getattr(record, head) for head in heads)]) + "\n")
    except OSError:
        return  # a read-only store: the next process scans again


def find_prompts(
    folder: Path, files: Sequence[str], how: str | None, records: Sequence[FileRecord] = ()
) -> tuple[str | None, ...]:
    """One prompt an image, or none.

    Args:
        folder: where the files are.
        files: relative posix paths.
        records: of the files: what a PNG says of its own prompt.
        how: None: there are none. "sidecar": a .txt of the same name beside each image. A metadata file (.jsonl, .csv,
            .tsv) relative to `folder`, with the columns `file_name` and `prompt` (or text, or caption). "auto": the
            metadata.jsonl or metadata.csv in the images' folders or above them, else sidecars, else the PNGs' own
            texts (AUTOMATIC1111, ComfyUI), else none.

    Raises:
        ConfigError: the metadata file is missing.
        DataError: it names an image that is not there, or has no such columns; where prompts were asked for by name,
            an image has none.
    """
    if how is None:
        return (None,) * len(files)
    if how == "auto":
        return _auto_prompts(folder, files, records)
    if how == "sidecar":
        texts = _sidecars(folder, files)
    else:
        metadata = folder / how
        if not metadata.is_file():
            raise ConfigError(
                f"{metadata}: the file of prompts is missing (prompts={how}; or auto, sidecar, or null for none)"
            )
        texts = _metadata_prompts(folder, metadata, required=True)
    for name in files:
        if texts.get(name) is None:
            raise DataError(f"{folder / name}: no prompt for this image (prompts={how}): add it, or set prompts=auto")
    return tuple(texts[name] for name in files)


def _auto_prompts(folder: Path, files: Sequence[str], records: Sequence[FileRecord]) -> tuple[str | None, ...]:
    inside = {parent for name in files for parent in PurePosixPath(name).parents}
    texts: dict[str, str | None] = {}
    found = False
    for parent in sorted(inside):  # the nearer one wins
        for metadata in (folder / parent / name for name in METADATA_FILES):
            if metadata.is_file():
                found = True
                texts |= _metadata_prompts(folder, metadata, required=False)
                break
    if not found:
        texts = own_prompts(files, records) | _sidecars(folder, files)
    return tuple(texts.get(name) for name in files)


def find_classes(folder: Path, files: Sequence[str]) -> dict[str, str]:
    """By relative path: what the column `category` of the metadata.jsonl or metadata.csv nearest to an image says."""
    classes: dict[str, str] = {}
    for parent in sorted({parent for name in files for parent in PurePosixPath(name).parents}):
        metadata = next((m for m in (folder / parent / name for name in METADATA_FILES) if m.is_file()), None)
        if metadata is not None:
            classes |= category_column(read_table(metadata), parent)
    return classes


def category_column(rows: Iterable[tuple[int, Mapping[str, Any]]], parent: PurePosixPath) -> dict[str, str]:
    """The rows' categories by path; none where they have no such column, or are not to be understood (as prompts are
    read, that is an error)."""
    classes: dict[str, str] = {}
    with contextlib.suppress(DataError, ValueError, RecursionError):
        for _, row in rows:
            if "category" not in row or "file_name" not in row:
                break
            if row["category"] not in (None, ""):
                classes[str(parent / str(row["file_name"]))] = str(row["category"])
    return classes


def own_prompts(files: Sequence[str], records: Sequence[FileRecord]) -> dict[str, str | None]:
    """The prompts that PNGs hold themselves, by file."""
    return {
        name: record.parameters["prompt"] for name, record in zip(files, records, strict=False) if record.parameters
    }


def _sidecars(folder: Path, files: Sequence[str]) -> dict[str, str | None]:
    texts: dict[str, str | None] = {}
    for name in files:
        sidecar = f"{os.path.splitext(f'{folder}/{name}')[0]}.txt"  # noqa: PTH122 (pathlib takes a second for 50,000)
        if os.path.isfile(sidecar):  # noqa: PTH113
            try:
                texts[name] = Path(sidecar).read_text(encoding="utf-8-sig").strip()
            except UnicodeDecodeError:
                raise DataError(f"{sidecar}: not UTF-8: save the file as UTF-8") from None
    return texts


def _metadata_prompts(folder: Path, metadata: Path, *, required: bool) -> dict[str, str | None]:
    """Prompts by relative posix path; empty where the file has no column of prompts and none is required."""
    base = PurePosixPath(os.path.relpath(metadata.parent, folder).replace(os.sep, "/"))
    texts: dict[str, str | None] = {}
    for line, row in read_table(metadata):
        column = next((name for name in PROMPT_COLUMNS if name in row), None)
        if "file_name" not in row or (column is None and required):
            wanted = "file_name" if "file_name" not in row else PROMPT_COLUMNS[0]
            raise DataError(f"{metadata}:{line}: no column '{wanted}'. {nearest(wanted, row)}")
        name = str(base / str(row["file_name"]))
        text = row[column] if column else None
        if text is not None and not isinstance(text, str):
            raise DataError(f"{metadata}:{line}: the prompt is not a text: {text!r}")
        if not (folder / name).is_file():
            raise DataError(f"{metadata}:{line}: names '{row['file_name']}', which is not there: is the folder whole?")
        texts[name] = text.strip() if text else None
    return texts
