"""What is known of a set's files without decoding them, and whether they still agree with their recorded checksums."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from evalkit.data.remote import Remote
from evalkit.data.scan import METADATA_FILES
from evalkit.data.source import FolderImages
from evalkit.errors import EvalkitError
from evalkit.samples.store import SampleSet
from evalkit.utils.files import sha256_file
from evalkit.utils.tables import read_table

if TYPE_CHECKING:
    from evalkit.data.source import Source
    from evalkit.lint.cache import Stamp

LOSSY = frozenset({"JPEG", "MPO", "WEBP", "JPEG2000", "AVIF"})
GREY_MODES = frozenset({"1", "L", "LA", "La", "I"})


@dataclass(frozen=True)
class Headers:
    """One entry an image in each; empty where the set has no files.

    Attributes:
        sizes: (width, height).
        formats: Pillow's names.
        kinds: what is unusual: "grey", "palette", "16bit", "cmyk", "alpha_dropped", "blanked", "prompt_truncated", ...
        sha256s: of the files.
    """

    sizes: Sequence[tuple[int, int]] = ()
    formats: Sequence[str] = ()
    kinds: Sequence[frozenset[str]] = ()
    sha256s: Sequence[str] = ()

    def of_kind(self, kind: str) -> list[int]:
        """The images that have a kind."""
        return [i for i, kinds in enumerate(self.kinds) if kind in kinds]


def read_headers(source: Source) -> Headers:
    """From what the store or the folder's scan recorded; nothing is read."""
    if isinstance(source, SampleSet):
        return Headers(
            sizes=[(int(row["width"]), int(row["height"])) for row in source.rows],
            formats=["PNG"] * len(source),
            kinds=[_kinds("RGB", tuple(row["warnings"])) for row in source.rows],
            sha256s=[str(row["sha256"]) for row in source.rows],
        )
    if isinstance(source, FolderImages):
        return Headers(
            sizes=[(record.width, record.height) for record in source.records],
            formats=[record.format for record in source.records],
            kinds=[_kinds(record.mode, tuple(record.notes)) for record in source.records],
            sha256s=[record.sha256 for record in source.records],
        )
    return Headers()


@functools.cache  # few differ, and there may be a million images
def _kinds(mode: str, notes: tuple[str, ...]) -> frozenset[str]:
    kinds = set(notes)
    if mode in GREY_MODES or mode.startswith("I;"):
        kinds.add("grey")
    elif mode in ("P", "PA"):
        kinds.add("palette")
    return frozenset(kinds)


def unlike_metadata(source: Source) -> list[int]:
    """Images of a folder whose sha256 is not the one that a metadata.jsonl or metadata.csv beside them records."""
    if not isinstance(source, FolderImages) or isinstance(source.folder, Remote):
        return []
    recorded: dict[str, str] = {}
    folders = {PurePosixPath(name.rpartition("/")[0]) for name in source.files}
    for parent in sorted({parent for folder in folders for parent in (folder, *folder.parents)}):
        for metadata in (source.folder / parent / name for name in METADATA_FILES):
            if metadata.is_file():
                recorded |= _recorded(metadata, parent)
                break
    return [
        i
        for i, (name, record) in enumerate(zip(source.files, source.records, strict=True))
        if recorded.get(name, record.sha256) != record.sha256
    ]


def _recorded(metadata: Path, parent: PurePosixPath) -> Mapping[str, str]:
    """sha256 by relative path; empty where the file records none, or is not to be understood."""
    found: dict[str, str] = {}
    try:
        for _, row in read_table(metadata):
            if not row.get("sha256") or not row.get("file_name"):
                break
            found[str(parent / str(row["file_name"]))] = str(row["sha256"]).lower()
    except EvalkitError:
        return {}  # where its prompts are wanted, reading them has said so
    return found


def changed(source: SampleSet, before: Sequence[Stamp], now: Sequence[Stamp]) -> list[int]:
    """Samples whose file is missing or not the recorded one; only files whose stamp changed are read."""
    bad = []
    for i, stamp in enumerate(now):
        if i < len(before) and list(before[i]) == stamp:
            continue
        try:
            same = sha256_file(source.files[i]) == source.rows[i]["sha256"]
        except OSError:
            same = False
        if not same:
            bad.append(i)
    return bad
