"""What lies next to images, wherever they are: what each is asked to show, and its class.

What an image is asked to show comes, in this order, from a metadata.jsonl or metadata.csv in its folder or above (the
nearer one wins), from a text of the same stem next to it (000.txt, or 000.json with a "prompt", "text" or "caption"),
or from the PNG's own text. Classes come from StyleGAN's dataset.json, WebDataset's .cls files, or a metadata file's
column `category`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from evalkit.data.records import FileRecord, Reader
from evalkit.errors import ConfigError, DataError, nearest
from evalkit.utils.json_files import parse_json
from evalkit.utils.tables import parse_table

log = logging.getLogger(__name__)

PROMPT_COLUMNS = ("prompt", "text", "caption")  # of a metadata file; the first that is there
METADATA_FILES = ("metadata.jsonl", "metadata.csv")
LABELS = "dataset.json"  # of StyleGAN's sets: {"labels": [["00000/img00000000.png", 6], ...]}, or null
MAX_TEXT_BYTES = 1 << 20  # of one image's text
# Tables by whose names their makers mean to tell of the images, though they are not what is looked for.
_LIKE_METADATA = re.compile(
    r"(?:.*[._-])?(?:metadata|captions?|prompts?|annotations?|labels?)(?:[._-].*)?\.(?:csv|tsv|jsonl?|ndjson|parquet|txt)",
    re.IGNORECASE,
)


class Files(Protocol):
    """Images among other files, by name (`evalkit.data.containers.base.FileContainer`)."""

    files: Collection[str]

    def __contains__(self, name: str) -> bool: ...
    def inner(self, name: str) -> str: ...
    def label(self, name: str) -> str: ...
    def size(self, name: str) -> int: ...


def find_prompts(
    files: Files, read: Reader, names: Sequence[str], records: Sequence[FileRecord], how: str | None
) -> tuple[str | None, ...]:
    """One prompt per image, or none.

    Args:
        files: what holds the images and the files next to them.
        read: reads one of these.
        names: of the images.
        records: of the images: what a PNG says of its own prompt.
        how: None: there are none. "sidecar": the text of the same stem next to each image. A metadata file (.jsonl,
            .csv, .tsv) by its name, with the columns `file_name` and `prompt` (or text, or caption). "auto": as this
            module's text says.

    Raises:
        ConfigError: the metadata file is missing.
        DataError: it names an image that is not there, or has no such columns; where prompts were asked for by name,
            an image has none.
    """
    if how is None:
        return (None,) * len(names)
    texts: dict[str, str | None] = {}
    if how == "auto":
        used = list(_metadata_files(files, names))
        for metadata in used:
            texts |= _metadata_prompts(files, read, metadata, required=False)
        _tell_of_unused(files, names, used, texts)
        texts = texts or png_prompts(names, records) | dict(_texts(files, read, names))
        return tuple(texts.get(name) for name in names)
    if how == "sidecar":
        texts = dict(_texts(files, read, names))
    elif (inner := files.inner(how)) in files:
        texts = _metadata_prompts(files, read, inner, required=True)
    else:
        raise ConfigError(
            f"{files.label(how)}: the file of prompts is missing (prompts={how}; or auto, sidecar, or null for none)"
        )
    bare = [name for name in names if texts.get(name) is None]
    if bare:
        more = f" and {len(bare) - 1:,} more of {len(names):,}" if len(bare) > 1 else ""
        raise DataError(
            f"{files.label(bare[0])}: no prompt for this image{more} (prompts={how}): add it, or set prompts=auto"
        )
    return tuple(texts[name] for name in names)


def png_prompts(names: Sequence[str], records: Sequence[FileRecord]) -> dict[str, str | None]:
    """The prompts that images hold themselves, by name: as a reader is to see them, without the tool's own syntax."""
    made = ((name, record.parameters) for name, record in zip(names, records, strict=True))
    return {name: about.get("plain_prompt", about["prompt"]) for name, about in made if about}


def find_classes(files: Files, read: Reader, names: Sequence[str]) -> Mapping[str, str]:
    """By name: the labels of StyleGAN's dataset.json (whole numbers; vectors are left out), else the .cls next to it,
    else the column `category` of the metadata file.

    Raises:
        DataError: dataset.json has other labels, or names an image that is not there.
    """
    if LABELS in files:
        return _stylegan_labels(files, read)
    labels = ((name, f"{os.path.splitext(name)[0]}.cls") for name in names)  # noqa: PTH122
    classes = {name: _text(files, read, label) for name, label in labels if label in files.files}
    return classes or metadata_column(files, read, names, "category")


def metadata_column(files: Files, read: Reader, names: Sequence[str], column: str) -> dict[str, str]:
    """A column of the metadata files by the images' names; the nearer file wins.

    Empty where they have no such column, or are not to be understood (where prompts are read, that is an error).
    """
    values: dict[str, str] = {}
    for metadata in _metadata_files(files, names):
        with contextlib.suppress(DataError):
            for _, row in parse_table(Path(metadata), read(metadata)):
                if column not in row or "file_name" not in row:
                    break
                if row[column] not in (None, ""):
                    values[_next_to(metadata, row["file_name"])] = str(row[column])
    return values


def _metadata_files(files: Files, names: Sequence[str]) -> Iterator[str]:
    """Those in the images' folders and above, the nearest last."""
    inner = {PurePosixPath(folder) for folder in {name.rpartition("/")[0] for name in names}}
    for folder in sorted({parent for own in inner for parent in (own, *own.parents)}):
        candidates = (str(folder / metadata) for metadata in METADATA_FILES)
        yield from [name for name in candidates if name in files][:1]


def _next_to(metadata: str, file_name: Any) -> str:
    """The name in the container of a file that a metadata file names."""
    return str(PurePosixPath(metadata).parent / str(file_name))


def _metadata_prompts(files: Files, read: Reader, metadata: str, *, required: bool) -> dict[str, str | None]:
    """Prompts by the images' names; none each where the file has no column of prompts and none is required."""
    where = files.label(metadata)
    texts: dict[str, str | None] = {}
    gone: list[tuple[int, Any]] = []
    twice, columns = 0, set[str]()
    for line, row in parse_table(Path(where), read(metadata)):
        columns |= row.keys()
        column = next((name for name in PROMPT_COLUMNS if name in row), None)
        if "file_name" not in row or (column is None and required):
            missing = "file_name" if "file_name" not in row else PROMPT_COLUMNS[0]
            raise DataError(f"{where}:{line}: no column '{missing}'. {nearest(missing, row)}")
        text = row[column] if column else None
        if text is not None and not isinstance(text, str):
            raise DataError(f"{where}:{line}: the prompt is not a text: {str(text)[:80]!r}")
        name = _next_to(metadata, row["file_name"])
        if name not in files:
            gone.append((line, row["file_name"]))
        twice += name in texts
        texts[name] = text.strip() if text else None
    if gone:
        more = f" ({len(gone) - 1:,} more rows like it)" if len(gone) > 1 else ""
        line, name = gone[0]
        raise DataError(
            f"{where}:{line}: names {str(name)[:200]!r}, which is not there{more}: is the set whole? Take the rows "
            "out, or set prompts=null"
        )
    if twice:
        log.warning("%s: %d rows name an image that an earlier row names: the last one counts", where, twice)
    if columns and not columns & {*PROMPT_COLUMNS, "category", "sha256"}:
        has = ", ".join(sorted(columns - {"file_name"})[:5]) or "file_name alone"
        log.warning("%s: seen, and not used: no column %s (it has %s)", where, ", ".join(PROMPT_COLUMNS), has)
    return texts


def _tell_of_unused(files: Files, names: Sequence[str], used: Sequence[str], texts: Mapping[str, str | None]) -> None:
    """One line each for tables and texts that seem to tell of the images and are not used, and images without rows."""
    folders = [PurePosixPath(folder) for folder in {name.rpartition("/")[0] for name in names}]
    places = {"" if str(place) == "." else str(place) for own in folders for place in (own, *own.parents)}
    images = {os.path.splitext(name)[0] for name in names}  # noqa: PTH122
    unused = sorted(
        name
        for name in files.files
        if _LIKE_METADATA.fullmatch(name.rpartition("/")[2])
        and name.rpartition("/")[0] in places
        and name not in used
        and os.path.splitext(name)[0] not in images  # noqa: PTH122
    )
    if unused:
        more = f" and {len(unused) - 1} more" if len(unused) > 1 else ""
        log.warning(
            "%s%s: seen, and not used: prompts are read from %s, or from what prompts=FILE names (.jsonl, .csv or .tsv "
            "with file_name and prompt)",
            *(files.label(unused[0]), more, " or ".join(METADATA_FILES)),
        )
    if not any(texts.values()):
        return
    bare = [name for name in names if not texts.get(name)]
    if bare:
        log.warning(
            "%s: %d of %d images have no row there, such as %s", files.label(used[-1]), len(bare), len(names), bare[0]
        )
    beside = sum(f"{stem}.txt" in files.files for stem in images)
    if beside:
        log.warning("%s: its prompts are taken; %d texts next to images are not used", files.label(used[-1]), beside)


def _texts(files: Files, read: Reader, names: Sequence[str]) -> Iterator[tuple[str, str | None]]:
    for name in names:
        stem = os.path.splitext(name)[0]  # noqa: PTH122 (pathlib takes a second for 50,000)
        if f"{stem}.txt" in files.files:
            yield name, _text(files, read, f"{stem}.txt")
        elif f"{stem}.json" in files.files:
            about = _json(files, read, f"{stem}.json")
            fields = about if isinstance(about, dict) else {}
            value = next((fields[key] for key in PROMPT_COLUMNS if key in fields), None)
            if value is not None and not isinstance(value, str):
                raise DataError(f"{files.label(f'{stem}.json')}: the prompt is not a text: {str(value)[:80]!r}")
            if value:
                yield name, value.strip()


def _text(files: Files, read: Reader, name: str) -> str:
    if files.size(name) > MAX_TEXT_BYTES:
        raise DataError(f"{files.label(name)}: more than {MAX_TEXT_BYTES:,} bytes for one image's text")
    try:
        return read(name).decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        raise DataError(f"{files.label(name)}: not UTF-8: save the file as UTF-8") from None


def _json(files: Files, read: Reader, name: str) -> Any:
    return parse_json(read(name), files.label(name))


def _stylegan_labels(files: Files, read: Reader) -> dict[str, str]:
    content = _json(files, read, LABELS)
    labels = content.get("labels") if isinstance(content, dict) else None
    where = files.label(LABELS)
    classes: dict[str, str] = {}
    for entry in labels if isinstance(labels, list) else ():
        if not isinstance(entry, list) or len(entry) != 2 or not isinstance(entry[0], str):
            raise DataError(f"{where}: labels must be [file name, label] each, not {str(entry)[:80]}")
        if entry[0] not in files:
            raise DataError(f"{where} names {entry[0]!r}, which is not there: is the set whole?")
        if isinstance(entry[1], int):
            classes[entry[0]] = str(entry[1])
    return classes
