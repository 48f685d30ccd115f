"""A store on a URL that fails as buckets and shared folders do, the same in a run's process and in its workers'.

It lies in a folder; its faults are told to other processes by the environment. Workers are started with this module's
`open_worker`, or as `python -m flaky_store STORE KEY --stripe I/N`.
"""

from __future__ import annotations

import functools
import json
import os
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from flaky_blobs import FlakyBlobs

from evalkit.engines.base import Run
from evalkit.samples import sample_set, store
from evalkit.utils import blobs
from evalkit.utils.blobs import LocalBlobs, PersistentBlobs
from evalkit.work import stages, stored_plan, worker

SCHEME = "memory://"  # one that stores may have
VARIABLE = "FLAKY_STORE"

looks: Counter[str] = Counter()  # by path, of this process: listings that did not show it


@dataclass(frozen=True)
class Faults:
    """Shares of calls: see FlakyBlobs. `late`: how many listings of each process do not show a key that is there yet.

    Looks are counted, where shared folders take seconds: a busy machine changes nothing then.
    """

    errors: float = 0.0
    lost: float = 0.0
    cut: float = 0.0
    late: int = 0


@dataclass(frozen=True)
class LateFolder(LocalBlobs):
    """A folder that calls itself by a URL, and whose listings are late."""

    late: int = 0

    @property
    def where(self) -> str:
        return f"{SCHEME}{self.root}"

    def list(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        for key, size in super().list(prefix):
            path = str(self.root / key)
            if looks[path] < self.late:
                looks[path] += 1
            else:
                yield key, size

    def below(self, prefix: str) -> LateFolder:
        return LateFolder(self.root / prefix, self.late)


def url_of(folder: Path) -> str:
    return f"{SCHEME}{folder}"


def set_faults(faults: Faults) -> None:
    """For this process and those that it starts."""
    os.environ[VARIABLE] = json.dumps(asdict(faults))


def open_flaky(place: str | os.PathLike[str]) -> LocalBlobs | PersistentBlobs:
    """Stands for `open_blobs`."""
    text = os.fspath(place)
    if not text.startswith(SCHEME):
        return LocalBlobs(Path(text))
    return PersistentBlobs(_flaky(Path(text.removeprefix(SCHEME)), os.environ[VARIABLE]))


@functools.cache  # the faults go on where they were
def _flaky(folder: Path, told: str) -> FlakyBlobs:
    faults = Faults(**json.loads(told))
    return FlakyBlobs(LateFolder(folder, faults.late), faults.errors, faults.lost, faults.cut)


def install() -> None:
    """Has stores opened by `open_flaky` in this process, and nobody wait long."""
    store.open_blobs = stored_plan.open_blobs = open_flaky  # type: ignore[attr-defined]
    stages.open_worker = open_worker
    blobs.WAITS = (0.0,) * 9
    sample_set._POLL = 0.01


def open_worker(place: str, key: str) -> Run:
    """Stands for `evalkit.work.worker.open_worker`."""
    install()
    return worker.open_worker(place, key)


if __name__ == "__main__":
    from evalkit.work.__main__ import main

    install()
    sys.exit(main())
