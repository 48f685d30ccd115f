"""The images of a folder: which files there are."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from evalkit.data.scan import EXTENSIONS
from evalkit.data.shard_format import superseded
from evalkit.errors import ConfigError


def list_files(folder: Path, extensions: Sequence[str] = EXTENSIONS, *, recursive: bool = True) -> list[str]:
    """Relative posix paths of a folder's images, sorted; hidden files and folders are left out, links are followed.

    In a cell's folder of a store each shard counts once: in its longest version.

    Raises:
        ConfigError: there is no such folder, or there are no images in it.
    """
    if not folder.is_dir():
        what = "is a file, not a folder" if folder.exists() else "is missing"
        raise ConfigError(f"{folder}: the folder of images {what}: check the path")
    wanted = {f".{extension.lower().lstrip('.')}" for extension in extensions}
    found: list[str] = []
    others = 0
    for parent, names in _walk(folder, recursive):
        inner = PurePosixPath(parent.relative_to(folder).as_posix())
        kept = [name for name in names if not name.startswith(".") and os.path.splitext(name)[1].lower() in wanted]  # noqa: PTH122
        others += len(names) - len(kept)
        found += [str(inner / name) for name in kept]
    if not found:
        hint = "" if recursive else "; folders inside it are not looked into (recursive=false)"
        raise ConfigError(
            f"{folder}: no images here ({', '.join(sorted(wanted))}), {others} other files{hint}: check the path"
        )
    return sorted(found)


def _walk(folder: Path, recursive: bool) -> Iterator[tuple[Path, list[str]]]:
    shorter = superseded(folder)
    seen: set[str] = set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen:  # a link to a folder above
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(
            f for f in folders if recursive and not f.startswith(".") and Path(parent, f) not in shorter
        )
        yield Path(parent), names
