"""A run's files appear together: they are made in a folder of their own, and put in place under a lock.

Two runs that write into one folder at once never mix their files. results.json goes first and comes back last: a kill
in between leaves a folder without one, which everybody reads as unfinished, and the same command finishes it.
"""

from __future__ import annotations

import filecmp
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from evalkit.errors import DataError, ReadOnlyError, StoreError
from evalkit.utils.blobs import Blobs
from evalkit.utils.files import sha256_file, sweep, temporary_path
from evalkit.utils.json_files import get_checked, put_checked

log = logging.getLogger(__name__)

RESULTS = "results.json"
_COPIED = "copied.json"  # of a store on a URL: the sha256 of each file of a run's results
LOCK = ".lock"
LONGEST = 120.0  # seconds that another run may take to put its files in place
_KEPT = (
    "thumbnails.json",
    "map.json",
    "parity.json",
    "report.html",
    "overview.png",
    "reference.png",
    "sheets/*.png",
    "nearest/*.png",
    "steps/*.png",
    "previous.json",  # `evalkit report --previous`
)
# Of an earlier run they would lie about this one.
_OPTIONAL = (
    *(
        "junit.xml",
        "gate.md",
        "categories.csv",
        "headings.csv",
        "nearest.csv",
        "map.json",
        "parity.json",
        "ratings.json",
    ),
    *("profile.json", "profile.csv", "profile/*.trace.json"),
)


@contextmanager
def staged(out: Path, check: Callable[[], None] = lambda: None) -> Iterator[Path]:
    """A folder that takes a run's files, which come into `out` together where no error ends it.

    What is slow to make (sheets, pictures, the report) is there already as `out` has it, to be left where it is right.

    Args:
        out: the run's folder.
        check: called before anything is put there, while no other run can: raises where it must not be.

    Raises:
        StoreError: another run holds the folder, and does not let go of it.
    """
    from filelock import FileLock, Timeout

    out.mkdir(parents=True, exist_ok=True)
    sweep(out)
    with temporary_path(out / "results") as folder:
        folder.mkdir()
        for path in (path for pattern in _KEPT for path in out.glob(pattern) if path.is_file()):
            _link(path, folder / path.relative_to(out))
        yield folder
        try:
            with FileLock(out / LOCK, timeout=LONGEST):
                check()
                _put(folder, out)
        except Timeout:
            what = "another run is writing its results there: wait for it, or give out=FOLDER"
            raise StoreError(f"{out}: {what}") from None


def copy_results(out: Path, blobs: Blobs) -> None:
    """Copies a run's files to a store on a URL; those that are there already, as a list of digests has it, stay.

    Exports are left out: an export has a URL of its own.

    Raises:
        StoreError: the store cannot be written. A read-only one is told in a line.
    """
    try:
        copied = get_checked(blobs, _COPIED)["files"]
    except (OSError, DataError, LookupError):
        copied = {}
    files = {
        path.relative_to(out).as_posix(): path
        for path in sorted(out.rglob("*"))
        if path.is_file() and path.relative_to(out).parts[0] not in (LOCK, "export")
    }
    digests = {name: sha256_file(path, anew=True) for name, path in files.items()}
    if digests == copied:
        return
    try:
        for name, path in files.items():
            if copied.get(name) != digests[name] and path.stat().st_size:
                blobs.put(name, path.read_bytes())
        for name in set(copied) - set(files):
            blobs.delete(name)
        put_checked(blobs, _COPIED, {"files": digests})
    except ReadOnlyError as error:
        log.warning("the results are not copied: %s", error)


def _link(path: Path, to: Path) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(path, to)  # files are replaced, never changed in place
    except OSError:
        shutil.copy2(path, to)


def _put(folder: Path, out: Path) -> None:
    names = [path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file()]
    changed = [name for name in names if not _same(folder / name, out / name)]
    there = [path.relative_to(out) for pattern in _OPTIONAL for path in out.glob(pattern)]
    stale = [out / name for name in there if not (folder / name).exists()]
    if not changed and not stale:
        return
    (out / RESULTS).unlink(missing_ok=True)
    for path in stale:
        path.unlink()
    for name in [*(name for name in changed if str(name) != RESULTS), Path(RESULTS)]:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).replace(out / name)


def _same(one: Path, other: Path) -> bool:
    return other.is_file() and (one.samefile(other) or filecmp.cmp(one, other, shallow=False))
