"""Archives read in place against a folder of the same images: images a second and peak memory.

    python tests/bench/bench_archives.py [--counts 5000 50000] [--size 32] [--repeats 3]

The same PNGs as a folder, a stored and a deflated .zip, a .tar and (with pyarrow) a .parquet. `open` lists and scans
all (sha256 and header), `read` goes through all images in blocks of 64. Each turn is a process of its own, the page
cache is warm, ways are interleaved, and the fastest turn of each counts. Peak memory is that of the whole process
(Linux: VmHWM), less what it had before anything was opened. `CPU` compares CPU seconds: what a busy machine does not
disturb. Both ratios are speeds: above 1 is faster than the folder.
"""

from __future__ import annotations

import argparse
import io
import os
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from pathlib import Path

KINDS = ("folder", "stored.zip", "deflated.zip", "a.tar", "a.parquet")
COMMON = 500  # different images; the others repeat them


def write(root: Path, count: int, size: int) -> None:
    """Noise with coarse grain, as PNGs of some kilobytes; each file is the same in all kinds."""
    import numpy as np
    from PIL import Image

    from evalkit.data.codec import encode_png

    rng = np.random.default_rng(0)
    pngs = []
    for _ in range(COMMON):
        coarse = Image.fromarray(rng.integers(0, 256, (max(size // 8, 2), max(size // 8, 2), 3), dtype=np.uint8))
        pngs.append(encode_png(np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC))))
    names = [f"{i:06d}.png" for i in range(count)]
    (root / "folder").mkdir()
    with (
        zipfile.ZipFile(root / "stored.zip", "w") as stored,
        zipfile.ZipFile(root / "deflated.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as deflated,
        tarfile.open(root / "a.tar", "w") as tar,
    ):
        for i, name in enumerate(names):
            png = pngs[i % COMMON]
            (root / "folder" / name).write_bytes(png)
            stored.writestr(name, png)
            deflated.writestr(name, png)
            info = tarfile.TarInfo(name)
            info.size = len(png)
            tar.addfile(info, io.BytesIO(png))
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        return
    schema = pyarrow.schema([("image", pyarrow.binary())])
    with pyarrow.parquet.ParquetWriter(root / "a.parquet", schema) as file:
        for start in range(0, count, 1000):
            rows = [pngs[i % COMMON] for i in range(start, min(start + 1000, count))]
            file.write_table(pyarrow.table({"image": rows}, schema))


def turn(path: Path) -> None:
    """One way, in this process: seconds to open, seconds to read, CPU seconds of both, bytes of memory that it took."""
    import numpy  # noqa: F401
    import PIL.Image  # noqa: F401

    from evalkit.data.containers import archive  # noqa: F401
    from evalkit.data.open import open_images

    if path.suffix == ".parquet":
        import pyarrow.parquet  # noqa: F401

    before = peak_kib()
    start, busy = time.perf_counter(), time.process_time()
    source = open_images(path)
    opened = time.perf_counter()
    for at in range(0, len(source), 64):
        source.read(range(at, min(at + 64, len(source))))
    done = time.perf_counter()
    print(opened - start, done - opened, time.process_time() - busy, (peak_kib() - before) * 1024)


def peak_kib() -> int:
    """Of this process alone: ru_maxrss begins with the parent's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def measure(path: Path) -> tuple[float, ...]:
    command = [sys.executable, __file__, "--turn", str(path)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    return tuple(map(float, done.stdout.split()))


ROOT = Path(__file__).resolve().parents[2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", type=int, nargs="+", default=[5000, 50_000])
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--turn", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.turn:
        turn(options.turn)
        return
    print(f"{os.cpu_count()} cores, {options.size} px; images/s; MiB beyond what was there before")
    print(
        f"{'images':>7} {'kind':13}{'open':>9}{'read':>9}{'all':>9}{'all/folder':>12}{'CPU/folder':>12}{'peak MiB':>10}"
    )
    for count in options.counts:
        with tempfile.TemporaryDirectory() as temporary:
            root = Path(temporary)
            write(root, count, options.size)
            kinds = [kind for kind in KINDS if (root / kind).exists()]
            turns = [[measure(root / kind) for kind in kinds] for _ in range(options.repeats)]
        folder = busy = 0.0
        for kind, found in zip(kinds, zip(*turns, strict=True), strict=True):
            opened, read = min(t[0] for t in found), min(t[1] for t in found)
            folder, busy = folder or opened + read, busy or min(t[2] for t in found)
            print(
                f"{count:7} {kind:13}{count / opened:9.0f}{count / read:9.0f}{count / (opened + read):9.0f}"
                f"{folder / (opened + read):12.2f}{busy / min(t[2] for t in found):12.2f}"
                f"{max(t[3] for t in found) / 2**20:10.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
