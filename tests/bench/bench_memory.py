"""Peak memory and time of whole runs as N grows: `python tests/bench/bench_memory.py [--n 1000 50000]`.

Two folders of N small PNGs each, through the command line: reading, lint, feature store, states, estimators, report.
The extractor is one random matrix (3,072 -> 2,048), since a network's memory does not depend on N. Moment metrics
should be flat in N; metrics of neighbours and kernels keep the features (2 x N x 2,048 x 4 bytes) and work in blocks.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from evalkit.data.codec import encode_png

ROOT = Path(__file__).resolve().parents[2]
GROUPS = {"moments": ["frechet"], "neighbours": ["precision", "recall", "density", "coverage", "kid"]}


def write_images(folder: Path, count: int, seed: int) -> None:
    """Smooth random pictures of 32 px; a folder that is there is used as it is."""
    if folder.is_dir():
        return
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    for i in range(count):
        coarse = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        (folder / f"{i:06d}.png").write_bytes(encode_png(coarse.repeat(4, 0).repeat(4, 1)))


def measure(images: Path, n: int, metrics: list[str]) -> tuple[float, float]:
    """Peak resident memory in MiB and seconds of one run, on an empty store, in a process of its own."""
    for seed, side in enumerate("ab"):
        write_images(images / f"{side}{n}", n, seed)
    overrides = [
        "model=[folder]",
        f"model.folder.path={images / f'a{n}'}",
        "reference=folder",
        f"reference.folder.path={images / f'b{n}'}",
        f"metric=[{','.join(metrics)}]",
        *(f"metric.{name}.features=wide/x" for name in metrics),
        "+extractor.wide._target_=wide_features.WideFeatures",
    ]
    paths = [str(ROOT), str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    with tempfile.TemporaryDirectory() as work, tempfile.TemporaryFile("w+") as log:
        command = [sys.executable, str(ROOT / "run_eval.py"), *overrides]
        start = time.perf_counter()
        process = subprocess.Popen(command, env=environment, cwd=work, stdout=log, stderr=log)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        if status:
            log.seek(0)
            sys.exit(log.read())
    return usage.ru_maxrss / 1024, seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, nargs="+", default=[1000, 50_000])
    parser.add_argument("--groups", nargs="+", choices=list(GROUPS), default=list(GROUPS))
    parser.add_argument("--images", type=Path, help="a folder that keeps the images for the next call")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        images = options.images or Path(temporary)
        for group in options.groups:
            first = None
            for n in options.n:
                peak, seconds = measure(images, n, GROUPS[group])
                first = first or peak
                print(
                    f"{group:11s} N = {n:6d}: {peak:7.0f} MiB at most ({100 * (peak / first - 1):+.0f} %), "
                    f"{seconds:6.1f} s  ({', '.join(GROUPS[group])})",
                    flush=True,
                )


if __name__ == "__main__":
    main()
