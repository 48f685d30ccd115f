"""`evalkit verify STORE`: reads all that a store holds, compares it with its digests, and says what is wrong.

A run believes a file whose size, times and inode are those of the last look; this looks at every byte. Nothing is
changed but leftovers of killed runs, which are removed.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from evalkit.data.scan import INDEX, read_index
from evalkit.data.shard_format import METADATA, ZIP, parse_shard
from evalkit.errors import EXIT_DONE, EXIT_ERROR, DataError, EvalkitError, StoreError
from evalkit.features.store import verify_file
from evalkit.judges.answers import verify_file as verify_answers
from evalkit.results import export, feature_map, sheets, thumbnails
from evalkit.results.table import ResultTable
from evalkit.samples import manifest
from evalkit.samples.cells import CELL, parse_cell
from evalkit.samples.shards import FolderShard, Shard, ZipShard
from evalkit.scoring.cache import ENDING, file_name, load, score_from
from evalkit.utils.blobs import LocalBlobs
from evalkit.utils.files import read_file, sha256_file, stamp_of_file, sweep
from evalkit.utils.json_files import CHECK, read_checked, read_json

_ANEW = "delete it, and the next run makes it again"


@dataclass
class Part:
    """One kind of what a store holds.

    Attributes:
        name: of the kind.
        files, size: how many were read, and their bytes.
        old: files of an earlier evalkit, which nothing reads any more.
        wrong: what is wrong, each with how to fix it.
    """

    name: str
    files: int = 0
    size: int = 0
    old: int = 0
    wrong: list[str] = field(default_factory=list)

    def read(self, path: Path, check: Callable[[Path], Any], fix: str = _ANEW) -> Any:
        """What `check` makes of a file; where it raises, that is what is wrong."""
        self.files += 1
        try:
            self.size += path.stat().st_size
            return check(path)
        except (EvalkitError, OSError, LookupError, TypeError, ValueError, AttributeError) as error:
            why = str(error).removeprefix(f"{path}: ") if isinstance(error, EvalkitError) else _said(error)
            self.wrong.append(f"{path}: {why}" if "delete" in why else f"{path}: {why}: {fix}")
            return None


def verify(root: Path) -> list[Part]:
    """Reads everything in a store.

    Raises:
        StoreError: there is no store.
    """
    if not any((root / name).is_dir() for name in ("samples", "features", "scores", "cache")):
        raise StoreError(f"{root}: no store: none of samples, features, scores and cache is in it: check the path")
    samples, metadata = _samples(root)
    parts = [samples, metadata, _features(root), _answers(root), _scores(root), _scans(root), _lints(root)]
    return [*parts, _exports(root), _results(root)]


def print_verification(root: Path) -> int:
    """Prints a table and what is wrong; returns the exit code."""
    removed = _sweep(root)
    parts = verify(root)
    print(f"{'':10}{'files':>10}{'MB':>10}{'wrong':>8}")
    for part in parts:
        old = f"  ({part.old} of an earlier evalkit, not used any more)" if part.old else ""
        print(f"{part.name:10}{part.files:>10,}{part.size / 1e6:>10.1f}{len(part.wrong):>8}{old}")
    if removed:
        print(f"{removed} leftovers of killed runs were removed")
    wrong = [line for part in parts for line in part.wrong]
    for line in wrong:
        print(f"- {line}")
    return EXIT_ERROR if wrong else EXIT_DONE


def _said(error: Exception) -> str:
    return (
        f"{error.strerror}"
        if isinstance(error, OSError) and error.strerror
        else f"not what was written there ({error})"
    )


def _folders(path: Path) -> list[Path]:
    """The folders in it; none where it is not there."""
    return sorted(inner for inner in path.iterdir() if inner.is_dir()) if path.is_dir() else []


def _files(folder: Path, pattern: str) -> list[Path]:
    return [path for path in sorted(folder.glob(pattern)) if path.is_file() and not path.name.startswith(".")]


def _sweep(root: Path) -> int:
    folders = {path.parent for path in root.rglob(".tmp-*")}
    before = sum(1 for folder in folders for _ in folder.glob(".tmp-*"))
    for folder in folders:
        sweep(folder)
    return before - sum(1 for folder in folders for _ in folder.glob(".tmp-*"))


def _samples(root: Path) -> tuple[Part, Part]:
    images, metadata = Part("samples"), Part("metadata")
    for folder in _folders(root / "samples"):
        cell = folder / CELL
        about = metadata.read(cell, _cell, f"put it back, or delete {folder} to make it again")
        for path in _files(folder, "manifest-*.safetensors") if about is not None else ():
            metadata.read(path, partial(_manifest, str(about.get("key"))), "delete it, and it is made again")
        for path in sorted((folder / "shards").iterdir()) if (folder / "shards").is_dir() and about is not None else ():
            shard = _shard(path, int(about["shard_size"]))
            if shard is not None:
                _read_shard(shard, path, str(about.get("key")), images, metadata)
    return images, metadata


def _cell(path: Path) -> dict[str, Any]:
    return parse_cell(read_file(path), str(path))


def _manifest(key: str, path: Path) -> None:
    manifest.load(read_file(path), key, str(path))


def _shard(path: Path, size: int) -> Shard | None:
    parsed = parse_shard(path.name.removesuffix(ZIP))
    if parsed is None or path.is_dir() == path.name.endswith(ZIP):
        return None
    start, count = parsed[0] * size, parsed[1] or size
    if path.is_dir():
        return FolderShard(path, start, count)
    return ZipShard(LocalBlobs(path.parent), path.name, path.stat().st_size, start, count)


def _read_shard(shard: Shard, path: Path, key: str, images: Part, metadata: Part) -> None:
    fix = f"delete {path}, and the next run makes it again"
    text = path / METADATA if path.is_dir() else path
    rows = metadata.read(text, lambda _: shard.rows(key), fix)
    kept = {row["index"]: row["sha256"] for row in rows or () if row.get("kept", True)}

    def check(indices: list[int], path: Path) -> None:
        for index in indices:
            if path.exists() and not shard.same(index, kept[index]):
                raise DataError(f"sample {index} is altered (its sha256 is not the recorded one)")

    if path.is_dir():
        for index in kept:
            images.read(Path(shard.location(index)), partial(check, [index]), fix)
    elif kept:
        images.read(path, partial(check, list(kept)), fix)
        images.files += len(kept) - 1


def _features(root: Path) -> Part:
    part = Part("features")
    folder = root / "features"
    for path in _files(folder, "**/*.safetensors"):
        part.old += part.read(path, partial(verify_file, folder)) == "old"
    return part


def _answers(root: Path) -> Part:
    part = Part("answers")
    for path in _files(root / "answers", "*/*.jsonl"):
        part.read(path, verify_answers, "delete the line, and it is asked for again")
    return part


def _scores(root: Path) -> Part:
    part = Part("scores")

    def check(path: Path) -> None:
        entry = load(read_file(path), str(path))
        score_from(entry["score"])
        if file_name(entry["key"]) != path.name:
            raise DataError("the score of something else")

    for path in _files(root / "scores", f"*{ENDING}"):
        part.read(path, check)
    for path in _files(root / "scores", "*.json"):
        part.old += part.read(path, lambda path: "old") == "old"
    return part


def _scans(root: Path) -> Part:
    part = Part("scans")

    def check(path: Path) -> None:
        head, records, altered = read_index(path)
        folder = Path(json.loads(head)["place"])
        if altered:
            raise DataError(f"{altered} lines are altered or cut short")
        for name, record in records.items() if folder.is_dir() else ():
            file = folder / name
            if file.is_file() and stamp_of_file(file) == record.stamp and sha256_file(file, anew=True) != record.sha256:
                raise DataError(f"{file} changed under its size, times and inode")

    for path in _files(root / "cache", f"{INDEX}*.jsonl"):
        part.read(path, check)
    return part


def _lints(root: Path) -> Part:
    part = Part("lint")

    def check(path: Path) -> str | None:
        data = read_json(path)
        if set(data) == {CHECK, "stamps", "measured"}:
            return "old"
        if not str(read_checked(path)["about"][0]).startswith(path.stem):
            raise DataError("of other images")
        return None

    for path in _files(root / "lint", "*.json"):
        part.old += part.read(path, check) == "old"
    return part


def _exports(root: Path) -> Part:
    part = Part("exports")
    for record in _files(root, f"*/export/{export.RECORD}"):
        for title, entry in export.read_record(record).items():
            path = record.parent / title
            if "sha256" not in entry or "://" in title:
                continue

            def check(path: Path, sha256: str = entry["sha256"]) -> None:
                if export.fingerprint(path)["sha256"] != sha256:
                    raise DataError("altered since it was written")

            part.read(path, check)
            if path.is_dir():
                files = export.files_of(path)
                part.files += len(files) - 1
                part.size += sum(file.stat().st_size for _, file in files)
    return part


def _results(root: Path) -> Part:
    part = Part("results")

    def sheet(path: Path) -> None:
        if sheets.mark_of(path) is None:
            raise DataError("no whole PNG")

    fix = "give the run's command again, which writes it"
    for path in _files(root, "*/results.json"):
        part.read(path, ResultTable.load, fix)
        for file in _files(path.parent, f"**/{thumbnails.NAME}"):
            part.read(file, thumbnails.read_thumbnails, fix)
        for file in _files(path.parent, f"**/{feature_map.NAME}"):
            part.read(file, feature_map.read_map, fix)
        for file in _files(path.parent, "sheets/*.png"):
            part.read(file, sheet, fix)
    return part
