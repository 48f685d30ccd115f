"""Images in a zip or a tar (WebDataset), read in place: an index of the members, and each image by its offset.

In memory there are the index and the images being read. What an image is asked to show comes, in this order, from a
metadata.jsonl or metadata.csv in the archive, from a text of the same stem beside the image (000.txt, or 000.json with
a "prompt", "text" or "caption"), or from the PNG's own text. Classes come from StyleGAN's dataset.json or WebDataset's
.cls files.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

from evalkit.errors import ConfigError, DataError, nearest
from evalkit.folders import METADATA_FILES, PROMPT_COLUMNS, FileRecord, own_prompts, scan_inside
from evalkit.members import Member, list_members, read_member
from evalkit.prompts import parse_table
from evalkit.readers import THREADED_FROM, FolderImages, decode_verified, keep_whole

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LABELS = "dataset.json"  # of StyleGAN's zips: {"labels": [["00000/img00000000.png", 6], ...]}, or null
_SIDECAR_BYTES = 1 << 20


@dataclass(frozen=True, eq=False)
class ArchiveImages(FolderImages):
    """The images of an archive, sorted by their names in it; `folder` is the archive.

    Attributes:
        members: where they lie, by name.
        classes: what dataset.json or a .cls says of an image, by name.
    """

    members: Mapping[str, Member] = field(default_factory=dict)
    classes: Mapping[str, str] = field(default_factory=dict)

    def read(self, indices: range) -> list[NDArray[np.uint8]]:
        items: list[tuple[str, str, Callable[[], bytes]]] = []
        with _open(self.folder) as file:
            for i in indices:
                name = self.files[i]
                load = functools.partial(read_member, file, self.folder, name, self.members[name])
                items.append((f"{self.folder}: {name}", self.records[i].sha256, load))
            threaded = bool(items) and self.members[self.files[indices[0]]].packed >= THREADED_FROM
            return decode_verified(items, "pack the archive again and start again", threaded=threaded)

    def location(self, index: int) -> str:
        return f"{self.folder.absolute()}[{index}]"

    @property
    def categories(self) -> Sequence[str | None]:
        """The class of each image as text, or none."""
        return [self.classes.get(name) for name in self.files]


def list_images(path: Path, extensions: Sequence[str], *, recursive: bool) -> tuple[dict[str, Member], list[str]]:
    """All members of an archive, and the sorted names of its images; hidden ones are left out, as in a folder.

    Raises:
        ConfigError: the archive is missing, or holds no images.
        DataError: it is refused (`evalkit.members`).
    """
    members = list_members(path)
    wanted = {f".{extension.lower().lstrip('.')}" for extension in extensions}
    names = sorted(
        name
        for name in members
        if os.path.splitext(name)[1].lower() in wanted  # noqa: PTH122
        and not (name.startswith(".") or "/." in name)
        and (recursive or "/" not in name)
    )
    if not names:
        raise ConfigError(f"{path}: no images in it ({', '.join(sorted(wanted))}), {len(members)} other files")
    return members, names


def open_archive(
    path: Path,
    *,
    recursive: bool = True,
    prompts: str | None = "auto",
    on_error: Literal["refuse", "skip"] = "refuse",
    mixed_sizes: bool = False,
    extensions: Sequence[str],
    cache: Path | None = None,
) -> ArchiveImages:
    """The images of a .zip or .tar; arguments as of `FolderImages.open` (metadata files are those in the archive).

    Raises:
        ConfigError: the archive is missing, holds no images, or lacks the file of prompts that is asked for.
        DataError: it is refused, an image is broken, sizes differ, or metadata names an image that is not there.
    """
    members, names = list_images(path, extensions, recursive=recursive)
    with _open(path) as file:
        records = scan_inside(
            path,
            names,
            lambda name: read_member(file, path, name, members[name]),
            decode=on_error == "skip",
            cache=cache,
        )
        kept, broken = keep_whole(path, list(zip(names, records, strict=True)), on_error, mixed_sizes=mixed_sizes)
        files, whole = tuple(name for name, _ in kept), tuple(record for _, record in kept)
        inside = _Inside(file, path, members)
        texts = _find_prompts(inside, files, whole, prompts)
        classes = _find_classes(inside, files)
    images = {name: members[name] for name in files}
    return ArchiveImages(path, files, whole, texts, broken, members=images, classes=classes)


def _open(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}: check the path") from error


@dataclass(frozen=True)
class _Inside:
    """Reads the small files beside the images."""

    file: BinaryIO
    path: Path
    members: Mapping[str, Member]

    def __contains__(self, name: str) -> bool:
        return name in self.members

    def read(self, name: str) -> bytes:
        return read_member(self.file, self.path, name, self.members[name])

    def text(self, name: str) -> str:
        if self.members[name].size > _SIDECAR_BYTES:
            raise DataError(f"{self.path}: {name}: more than {_SIDECAR_BYTES:,} bytes for one image's text")
        try:
            return self.read(name).decode("utf-8-sig").strip()
        except UnicodeDecodeError:
            raise DataError(f"{self.path}: {name}: not UTF-8: save the file as UTF-8") from None

    def json(self, name: str) -> Any:
        try:
            return json.loads(self.read(name))
        except (ValueError, RecursionError) as error:
            raise DataError(f"{self.path}: {name}: not JSON: {' '.join(str(error).split())}") from None


def _find_prompts(
    inside: _Inside, files: Sequence[str], records: Sequence[FileRecord], how: str | None
) -> tuple[str | None, ...]:
    """As `folders.find_prompts`, in the archive."""
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
        raise ConfigError(f"{inside.path}: holds no file of prompts {how!r} (or auto, sidecar, or null for none)")
    for name in files:
        if texts.get(name) is None:
            raise DataError(
                f"{inside.path}: {name}: no prompt for this image (prompts={how}): add it, or set prompts=auto"
            )
    return tuple(texts[name] for name in files)


def _join(folder: str, name: str) -> str:
    return name if folder == "." else f"{folder}/{name}"


def _sidecars(inside: _Inside, files: Sequence[str]) -> Iterator[tuple[str, str | None]]:
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
                raise DataError(f"{inside.path}: {stem}.json: the prompt is not a text: {str(value)[:80]!r}")
            if value:
                yield name, value.strip()


def _metadata_prompts(inside: _Inside, metadata: str, *, required: bool) -> dict[str, str | None]:
    """Prompts by name in the archive; empty where the file has no column of prompts and none is required."""
    base, where = str(PurePosixPath(metadata).parent), f"{inside.path}: {metadata}"
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
                raise DataError(
                    f"{where}:{line}: names '{row['file_name']}', which is not there: is the archive whole?"
                )
            texts[name] = text.strip() if text else None
    except (ValueError, RecursionError) as error:  # JSON of thousands of brackets or digits
        raise DataError(f"{where}: not a table: {' '.join(str(error).split())}") from None
    return texts


def _find_classes(inside: _Inside, files: Sequence[str]) -> dict[str, str]:
    """By name: the labels of StyleGAN's dataset.json (whole numbers; vectors are left out), else the .cls beside it."""
    if LABELS not in inside:
        beside = ((name, f"{os.path.splitext(name)[0]}.cls") for name in files)  # noqa: PTH122
        return {name: inside.text(label) for name, label in beside if label in inside}
    content = inside.json(LABELS)
    labels = content.get("labels") if isinstance(content, dict) else None
    classes: dict[str, str] = {}
    for entry in labels if isinstance(labels, list) else ():
        if not isinstance(entry, list) or len(entry) != 2 or not isinstance(entry[0], str):
            raise DataError(f"{inside.path}: {LABELS}: labels must be [file name, label] each, not {str(entry)[:80]}")
        if entry[0] not in inside:
            raise DataError(f"{inside.path}: {LABELS} names {entry[0]!r}, which is not there: is the archive whole?")
        if isinstance(entry[1], int):
            classes[entry[0]] = str(entry[1])
    return classes
