"""One run by every engine and on every store: the digests of its samples and features, and its scores in hex.

    uv run --group dev --group cluster python tests/cluster/equal_everywhere.py [NAME ...]

Each way starts with an empty store. Ways whose programs are not here (Ray, Slurm) are left out, and named; one that
fails is told of, and the others go on. Ends with 1 where one failed or differs from the first. Processes of some ways
have two threads, of others one: the bits are the same.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "helpers"), str(ROOT / "tests" / "cluster")]

from evalkit.utils.blobs import open_blobs  # noqa: E402

GRID = ("experiment=digits", "model=[digits_dcgan]", "num_samples=600", "device=cpu", "report=false")  # 3 shards
METRICS = ("fid_digits", "kid_digits", "is_digits", "precision_digits", "recall_digits", "vendi_digits")
BOUND = 300  # seconds for a run; it takes about 20 on two quiet cores


@dataclass(frozen=True)
class Outcome:
    """What a way made: digests, the number of files of features, scores in hex by metric."""

    samples: str
    features: str
    files: int
    scores: tuple[tuple[str, str], ...]
    images: int


def outcome(store: str, results: Path) -> Outcome:
    """Reads a finished run's store, whatever it lies on, and its results."""
    blobs = open_blobs(store)
    images: dict[str, str] = {}
    for key, size in sorted(blobs.list("samples/")):
        if key.endswith(".png"):
            images[PurePosixPath(key).stem] = _digest(blobs.get(key, 0, size))
        elif key.endswith(".zip"):
            with zipfile.ZipFile(io.BytesIO(blobs.get(key, 0, size))) as shard:
                pngs = [name for name in shard.namelist() if name.endswith(".png")]
                images |= {PurePosixPath(name).stem: _digest(shard.read(name)) for name in pngs}
    features = {key: _digest(blobs.get(key, 0, size)) for key, size in sorted(blobs.list("features/"))}
    rows = json.loads((results / "results.json").read_text())["rows"]
    scores = tuple(
        (row["metric"], f"{row['value'].hex()} ± {(row['stderr'] or 0.0).hex()}")
        for row in rows
        if row["metric"] in METRICS
    )
    return Outcome(_digest(repr(sorted(images.items()))), _digest(repr(features)), len(features), scores, len(images))


def _digest(data: bytes | str) -> str:
    return hashlib.sha256(data.encode() if isinstance(data, str) else data).hexdigest()


def run(store: str, out: Path, *words: str, env: dict[str, str] | None = None, processes: int = 1) -> None:
    """The command, in so many processes of one gang."""
    command = [
        sys.executable,
        str(ROOT / "run_eval.py"),
        *GRID,
        f"metric=[{','.join(METRICS)}]",
        f"store={store}",
        f"out={out}",
        *words,
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **(env or {})}
    gang = [
        {"RANK": str(rank), "WORLD_SIZE": str(processes), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(processes)}
        for rank in range(processes)
    ]
    started = [
        subprocess.Popen(
            command,
            env=environment | (ranks if processes > 1 else {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=out.parent,
        )
        for ranks in gang
    ]
    try:
        for process in started:
            said, _ = process.communicate(timeout=BOUND)
            if process.returncode:
                raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}: {said[-2000:]}")
    finally:
        for process in started:
            process.kill()


@contextlib.contextmanager
def ray() -> Iterator[tuple[str, ...]]:
    from ray_nodes import ray_nodes

    with ray_nodes((1, 1)) as nodes:
        os.environ.update({name: value for name, value in nodes.environment.items() if name.startswith("RAY_")})
        yield "engine=ray", f"engine.ray.address={nodes.address}", "engine.ray.num_cpus=1"


@contextlib.contextmanager
def slurm() -> Iterator[tuple[str, ...]]:
    from slurm_cluster import slurm_cluster

    with tempfile.TemporaryDirectory(prefix="slurm-") as folder, slurm_cluster(Path(folder)) as environment:
        os.environ.update(environment)
        small = ("workers=2", "gpus=0", "cpus=1", "memory=1GB", "minutes=20", "poll=1", "patience=5")
        yield "engine=slurm", *(f"engine.slurm.{setting}" for setting in small)


@contextlib.contextmanager
def engine(*words: str) -> Iterator[tuple[str, ...]]:
    yield words


def pool(workers: int) -> tuple[str, ...]:
    return "engine=local", f"engine.local.workers={workers}", f"engine.local.threads={1 + workers % 2}"


def stripes(number: int) -> contextlib.AbstractContextManager[tuple[str, ...]]:
    return engine("engine=stripe", *(["engine.stripe.rank=0", "engine.stripe.world=1"] if number == 1 else []))


Way = tuple[str, Callable[[], contextlib.AbstractContextManager[tuple[str, ...]]], int, bool]  # name, .., processes, s3

WAYS: list[Way] = [
    ("in process", lambda: engine(), 1, False),
    ("in process, 2 threads", lambda: engine(), 1, False),
    *((f"pool of {n}", lambda n=n: engine(*pool(n)), 1, False) for n in (1, 2, 3)),  # type: ignore[misc]
    *((f"stripes, {n}", lambda n=n: stripes(n), n, False) for n in (1, 2, 3)),  # type: ignore[misc]
    ("in process, S3", lambda: engine(), 1, True),
    ("pool of 2, S3", lambda: engine(*pool(2)), 1, True),
    ("stripes, 2, S3", lambda: stripes(2), 2, True),
    ("Ray, 2 nodes", ray, 1, False),
    ("Ray, 2 nodes, S3", ray, 1, True),
    ("Slurm, 2 slurmd", slurm, 1, False),
    ("Slurm, 2 slurmd, S3", slurm, 1, True),
]
TWO_THREADS = ("in process, 2 threads", "stripes, 2", "in process, S3")  # and pools of 1 and 3


def main(names: list[str]) -> int:
    from moto_s3 import serve_s3

    first: Outcome | None = None
    same, began = True, time.monotonic()
    print(f"{'way':24} {'images':>6} {'samples':8} {'features':8} {'files':>5} {'s':>4}  scores", flush=True)
    with (
        tempfile.TemporaryDirectory(prefix="equal-") as folder,
        serve_s3() as s3,
        contextlib.ExitStack() as clusters,
    ):
        os.environ.update(s3.environment)
        settings: dict[object, tuple[str, ...]] = {}  # one Ray and one Slurm serve all their ways
        for number, (name, way, processes, bucket) in enumerate(WAYS):
            lacks = _lacks(name)
            if lacks or (names and number and not any(wanted in name for wanted in names)):
                print(f"{name:24} left out{f': {lacks}' if lacks else ''}", flush=True)
                continue
            place = Path(folder, str(number))
            place.mkdir()
            store = f"s3://bucket/{number}" if bucket else str(place / "store")
            try:
                if way not in settings:
                    settings[way] = clusters.enter_context(way())
                started = time.monotonic()
                s3.counts.clear()
                env = {"OMP_NUM_THREADS": "2"} if name in TWO_THREADS else {}
                run(store, place / "out", *settings[way], env=env, processes=processes)
                took, requests = time.monotonic() - started, dict(s3.counts)
                made = outcome(store, place / "out")
            except Exception as error:  # whatever it is, the other ways are of use
                print(f"{name:24} FAILED: {type(error).__name__}: {error}", flush=True)
                same = False
                continue
            first = first or made
            same = _compare(name, made, first, took, requests) and same
    print(f"all of it took {time.monotonic() - began:.0f} s; {'all are equal' if same else 'NOT all are equal'}")
    return 0 if same else 1


def _compare(name: str, made: Outcome, first: Outcome, took: float, requests: dict[str, int]) -> bool:
    """Prints a way's line; whether it is as it should be."""
    differs = [part for part in ("samples", "features", "scores") if getattr(made, part) != getattr(first, part)]
    told = f"DIFFER: {', '.join(differs)}" if differs else "equal" if made is not first else ""
    print(
        f"{name:24} {made.images:6} {made.samples[:8]} {made.features[:8]} {made.files:5} {took:4.0f}  "
        f"{_digest(repr(made.scores))[:8]} {told} {requests or ''}",
        flush=True,
    )
    for metric, value in made.scores if made is first or differs else ():
        print(f"{'':26}{metric} {value}", flush=True)
    return not differs


def _lacks(name: str) -> str:
    from slurm_cluster import missing_programs

    if "Ray" in name and find_spec("ray") is None:
        return "Ray is not installed"
    if "Slurm" in name and (missing_programs() or os.getuid()):
        return f"needs root and {', '.join(missing_programs())}"
    return ""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
