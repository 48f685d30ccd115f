"""Stores on a URL: their runs' tables are copied to this machine, what scores rest on only where it is asked for."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from evalkit.errors import ConfigError
from evalkit.utils.blobs import Blobs, is_url, open_blobs

RESULTS = "results.json"
_KEPT: list[tempfile.TemporaryDirectory[str]] = []  # go with this process
_ORIGINS: dict[Path, tuple[Blobs, str]] = {}  # by copied run's folder: where it lies


def on_this_machine(place: str | Path) -> Path:
    """A folder as it is; of a store on a URL a copy of its runs' results.json, which goes with this process.

    Raises:
        ConfigError: the URL is of a kind that no store lies on, or no run of a store is there.
        StoreError: it cannot be reached.
    """
    text = str(place)
    if not is_url(text):
        return Path(text).expanduser()
    blobs = open_blobs(text)
    listed = list(blobs.list("results/")) or blobs.list()  # of a store, whose samples are millions; of a run's folder
    keys = [key for key, _ in listed if key == RESULTS or key.endswith(f"/{RESULTS}")]
    if not keys:
        raise ConfigError(f"{text}: no run's {RESULTS} is below it: give a store, whose runs lie in results/")
    _KEPT.append(tempfile.TemporaryDirectory(prefix="evalkit-"))
    copy = Path(_KEPT[-1].name)
    for key in keys:
        folder = copy / key.removesuffix(RESULTS).removeprefix("results/")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / RESULTS).write_bytes(blobs.get(key))
        os.utime(folder / RESULTS, (0, 0))  # of a file that tells no date it stands for it: better old than new
        _ORIGINS[folder] = (blobs, key.removesuffix(RESULTS))
    return copy


def fetch(path: Path) -> Path:
    """A file next to a run's results.json; of a copied run it is copied now, if it is there. StoreError as above."""
    if path.parent in _ORIGINS and not path.exists():
        blobs, folder = _ORIGINS[path.parent]
        with contextlib.suppress(FileNotFoundError):
            path.write_bytes(blobs.get(folder + path.name))
    return path
