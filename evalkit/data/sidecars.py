"""The small files beside images that lie in an archive or a remote folder: what they are asked to show, and classes.

What an image is asked to show comes, in this order, from a metadata.jsonl or metadata.csv, from a text of the same
stem beside the image (000.txt, or 000.json with a "prompt", "text" or "caption"), or from the PNG's own text. Classes
come from StyleGAN's dataset.json or WebDataset's .cls files.
"""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from evalkit.data.remote import Place
from evalkit.data.scan import METADATA_FILES, PROMPT_COLUMNS, FileRecord, category_column, own_prompts
from evalkit.errors import ConfigError, DataError, nearest
from evalkit.utils.tables import parse_table

LABELS = "dataset.json"  # of StyleGAN's zips: {"labels": [["00000/img00000000.png", 6], ...]}, or null
_SIDECAR_BYTES = 1 << 20


class Inside(ABC):
    """What holds the images, by the names in it.

    Attributes:
        place: what errors call it.
    """

    place: Place

    @abstractmethod
    def __contains__(self, name: str) -> bool: ...

    @abstractmethod
    def size(self, name: str) -> int:
        """Bytes of a file; 0 where nothing tells before it is read."""

    @abstractmethod
    def read(self, name: str) -> bytes:
        """A file's bytes."""

    def text(self, name: str) -> str:
        if self.size(name) > _SIDECAR_BYTES:
            raise DataError(f"{self.place}: {name}: more than {_SIDECAR_BYTES:,} bytes for one image's text")
        try:
            return self.read(name).decode("utf-8-sig").strip()
        except UnicodeDecodeError:
            raise DataError(f"{self.place}: {name}: not UTF-8: save the file as UTF-8") from None

    def json(self, name: str) -> Any:
        try:
            return json.loads(self.read(name))
        except (ValueError, RecursionError) as error:
            raise DataError(f"{self.place}: {name}: not JSON: {' '.join(str(error).split())}") from None


def pick_images(place: Place, names: Collection[str], extensions: Sequence[str], *, recursive: bool) -> list[str]:
    """The sorted names of images; hidden files and folders are left out, as in a folder.

    Raises:
        ConfigError: there are none.
    """
    wanted = {f".{extension.lower().lstrip('.')}" for extension in extensions}
    picked = sorted(
        name
        for name in names
        if os.path.splitext(name)[1].lower() in wanted  # noqa: PTH122
        and not (name.startswith(".") or "/." in name)
        and (recursive or "/" not in name)
    )
    if not picked:
        raise ConfigError(f"{place}: no images in it ({', '.join(sorted(wanted))}), {len(names)} other files")
    return picked


def find_prompts(
    inside: Inside, files: Sequence[str], records: Sequence[FileRecord], how: str | None
) -> tuple[str | None, ...]:
    """One prompt an image, or none; `how` as of `folders.find_prompts`, metadata files by their names inside."""
    if how is None:
        return (None,) * len(files)
    texts: dict[str, str | None] = {}
    if how == "auto":
        folders = {str(parent) for name in files for parent in PurePosixPath(name).parents}
        for folder in sorted(folders):  # the nearer one wins
            found = next((name for name in (_join(folder, m) for m in METADATA_FILES) if name in inside), None)
            if found:
                texts |= _metadata_prompts(inside, found, required=False)
        texts = texts or own_prompts(files, records) | dict(_sidecars(inside, files))
        return tuple(texts.get(name) for name in files)
    if how == "sidecar":
        texts = dict(_sidecars(inside, files))
    elif how in inside:
        texts = _metadata_prompts(inside, how, required=True)
    else:
        raise ConfigError(f"{inside.place}: holds no file of prompts {how!r} (or auto, sidecar, or null for none)")
    for name in files:
        if texts.get(name) is None:
            raise DataError(
                f"{inside.place}: {name}: no prompt for this image (prompts={how}): add it, or set prompts=auto"
            )
    return tuple(texts[name] for name in files)


def _join(folder: str, name: str) -> str:
    return name if folder == "." else f"{folder}/{name}"


def _sidecars(inside: Inside, files: Sequence[str]) -> Iterator[tuple[str, str | None]]:
    for name in files:
        stem = os.path.splitext(name)[0]  # noqa: PTH122
        if f"{stem}.txt" in inside:
            yield name, inside.text(f"{stem}.txt")
        elif f"{stem}.json" in inside:
            about = inside.json(f"{stem}.json")
            value = (
                next((about[key] for key in PROMPT_COLUMNS if key in about), None) if isinstance(about, dict) else None
            )
            if value is not None and not isinstance(value, str):
                raise DataError(f"{inside.place}: {stem}.json: the prompt is not a text: {str(value)[:80]!r}")
            if value:
                yield name, value.strip()


def _metadata_prompts(inside: Inside, metadata: str, *, required: bool) -> dict[str, str | None]:
    """Prompts by the images' names; empty where the file has no column of prompts and none is required."""
    base, where = str(PurePosixPath(metadata).parent), f"{inside.place}: {metadata}"
    texts: dict[str, str | None] = {}
    try:
        for line, row in parse_table(Path(where), inside.read(metadata)):
            column = next((name for name in PROMPT_COLUMNS if name in row), None)
            if "file_name" not in row or (column is None and required):
                wanted = "file_name" if "file_name" not in row else PROMPT_COLUMNS[0]
                raise DataError(f"{where}:{line}: no column '{wanted}'. {nearest(wanted, row)}")
            text = row[column] if column else None
            if text is not None and not isinstance(text, str):
                raise DataError(f"{where}:{line}: the prompt is not a text: {str(text)[:80]!r}")
            name = _join(base, str(row["file_name"]))
            if name not in inside:
                raise DataError(f"{where}:{line}: names '{row['file_name']}', which is not there: is it whole?")
            texts[name] = text.strip() if text else None
    except (ValueError, RecursionError) as error:  # JSON of thousands of brackets or digits
        raise DataError(f"{where}: not a table: {' '.join(str(error).split())}") from None
    return texts


def _metadata_classes(inside: Inside, files: Sequence[str]) -> dict[str, str]:
    classes: dict[str, str] = {}
    for parent in sorted({parent for name in files for parent in PurePosixPath(name).parents}):
        found = next((name for name in (_join(str(parent), m) for m in METADATA_FILES) if name in inside), None)
        if found is not None:
            classes |= category_column(parse_table(Path(found), inside.read(found)), parent)
    return classes


def find_classes(inside: Inside, files: Sequence[str]) -> dict[str, str]:
    """By name: the labels of StyleGAN's dataset.json (whole numbers; vectors are left out), else the .cls beside it,
    else the column `category` of a metadata.jsonl or metadata.csv."""
    if LABELS not in inside:
        beside = ((name, f"{os.path.splitext(name)[0]}.cls") for name in files)  # noqa: PTH122
        return {name: inside.text(label) for name, label in beside if label in inside} or _metadata_classes(
            inside, files
        )
    content = inside.json(LABELS)
    labels = content.get("labels") if isinstance(content, dict) else None
    classes: dict[str, str] = {}
    for entry in labels if isinstance(labels, list) else ():
        if not isinstance(entry, list) or len(entry) != 2 or not isinstance(entry[0], str):
            raise DataError(f"{inside.place}: {LABELS}: labels must be [file name, label] each, not {str(entry)[:80]}")
        if entry[0] not in inside:
            raise DataError(f"{inside.place}: {LABELS} names {entry[0]!r}, which is not there: is it whole?")
        if isinstance(entry[1], int):
            classes[entry[0]] = str(entry[1])
    return classes
