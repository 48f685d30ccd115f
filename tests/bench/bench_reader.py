"""Decoding: evalkit's reader against Pillow in one thread, torch-fidelity's DataLoader, and other decoders.

    python tests/bench/bench_reader.py [--sizes 64 256 512 1024] [--kinds png jpeg webp] [--repeats 3]
    python tests/bench/bench_reader.py --readers 1 2 [4 8 16]     # threads against processes, of evalkit's own

Images a second, whole files from a warm page cache, ways interleaved, the fastest turn of each counts. `evalkit` is the
feature pass's own reading: files verified by their sha256, decoded in threads, blocks of 64 read ahead. With --readers
also what an image takes of the CPU, here and in the processes, and how often this process stopped to wait (for the GIL,
for a process): that number times the cores is what keeps threads from being faster.
"""

from __future__ import annotations

import argparse
import io
import os
import resource
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

from evalkit.data import reading
from evalkit.data.codec import encode_png
from evalkit.data.open import open_images
from evalkit.features.run import ahead, blocks_of

BYTES = 48_000_000  # of pixels a turn


def write_images(folder: Path, kind: str, size: int, count: int) -> None:
    """Smooth pictures with a little noise: they compress about as photographs do."""
    rng = np.random.default_rng(size)
    folder.mkdir()
    for i in range(count):
        coarse = rng.integers(0, 256, (max(size // 16, 4), max(size // 16, 4), 3), dtype=np.uint8)
        smooth = np.asarray(Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC)).astype(np.int16)
        pixels = np.clip(smooth + rng.normal(0, 3, smooth.shape), 0, 255).astype(np.uint8)
        if kind == "fpng":
            data = encode_png(pixels)
        else:
            file = io.BytesIO()
            Image.fromarray(pixels).save(file, kind, **({"quality": 95} if kind != "png" else {}))
            data = file.getvalue()
        (folder / f"{i:04d}.{'png' if kind == 'fpng' else kind}").write_bytes(data)


def by_evalkit(folder: Path, files: list[Path]) -> int:
    source = open_images(folder)
    return sum(len(block) for block in ahead(source.read, blocks_of(range(len(source))), reading.blocks_ahead()))


def by_pillow(folder: Path, files: list[Path]) -> int:
    return len([np.asarray(Image.open(file).convert("RGB")) for file in files])


def by_torch_fidelity(folder: Path, files: list[Path]) -> int:
    from torch.utils.data import DataLoader
    from torch_fidelity.datasets import ImagesPathDataset

    workers = min(4, 2 * (os.cpu_count() or 1))  # its default
    loader = DataLoader(ImagesPathDataset([str(f) for f in files]), batch_size=64, num_workers=workers)
    return sum(len(batch) for batch in loader)


def by_torchvision(folder: Path, files: list[Path]) -> int:
    from torchvision.io import ImageReadMode, decode_image, read_file

    return len([decode_image(read_file(str(file)), ImageReadMode.RGB) for file in files])


WAYS: dict[str, Callable[[Path, list[Path]], int]] = {
    "evalkit": by_evalkit,
    "Pillow": by_pillow,
    "torch-fidelity": by_torch_fidelity,
    "torchvision": by_torchvision,
}


def rate(way: Callable[[Path, list[Path]], int], folder: Path, files: list[Path]) -> float:
    """Images a second; 0 where the way does not read this kind."""
    start = time.perf_counter()
    try:
        count = way(folder, files)
    except RuntimeError:
        return 0.0
    return count / (time.perf_counter() - start)


def own_ways(counts: list[int], kinds: list[str], sizes: list[int], repeats: int) -> None:
    """Prints what evalkit's own threads and processes take, so many of each."""
    ways = [(name, count) for name in ("threads", "processes") for count in counts]
    print(f"{os.cpu_count()} cores; CPU per image: here + in processes; stops of this one per image")
    print(f"{'kind':6}{'size':>6}" + "".join(f"{f'{count} {name}':>34}" for name, count in ways))
    for kind in kinds:
        for size in sizes:
            with tempfile.TemporaryDirectory() as temporary:
                folder = Path(temporary) / "images"
                write_images(folder, kind, size, max(64, min(1024, 2 * BYTES // (3 * size * size))))
                turns = [[own_way(folder, name, count) for name, count in ways] for _ in range(repeats)]
            cells = (min(taken, key=lambda each: each[1] + each[2]) for taken in zip(*turns, strict=True))
            rows = [f"{rate:.0f}/s {here:.0f} + {there:.0f} us, {stops:.1f}" for rate, here, there, stops in cells]
            print(f"{kind:6}{size:6}" + "".join(f"{row:>34}" for row in rows), flush=True)


def own_way(folder: Path, name: str, count: int) -> tuple[float, float, float, float]:
    """Images/s; microseconds of CPU per image, here and in processes; stops per image. Start-up is not counted."""
    pool = ThreadPoolExecutor(count)
    vars(reading)["read_pool"] = lambda: pool
    reading.use(count if name == "processes" else 0)
    source = open_images(folder)
    for _ in range(count):  # every process has imported what it needs
        source.read(range(64))
    before, start = usage(), time.perf_counter()
    images = sum(len(block) for block in ahead(source.read, blocks_of(range(len(source))), 4))
    seconds = time.perf_counter() - start
    here, there, stops = ((b - a) / images for a, b in zip(before, usage(), strict=True))
    reading.use(0)
    pool.shutdown()
    return images / seconds, here * 1e6, there * 1e6, stops


def usage() -> tuple[float, float, float]:
    """CPU seconds of this process and of its children, and how often it stopped to wait."""
    own = resource.getrusage(resource.RUSAGE_SELF)
    there = [child.cpu_times() for child in psutil.Process().children()]
    return own.ru_utime + own.ru_stime, sum(t.user + t.system for t in there), own.ru_nvcsw


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 256, 512, 1024])
    parser.add_argument("--kinds", nargs="+", default=["png", "fpng", "jpeg", "webp"])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--readers", type=int, nargs="+", help="so many threads, and so many processes")
    options = parser.parse_args()
    if options.readers:
        own_ways(options.readers, options.kinds, options.sizes, options.repeats)
        return
    print(f"{os.cpu_count()} cores; images/s; fpng: PNGs as evalkit writes them; torchvision: in one thread")
    print(f"{'kind':6}{'size':>6}" + "".join(f"{name:>16}" for name in WAYS) + "   evalkit/Pillow  evalkit/fidelity")
    for kind in options.kinds:
        for size in options.sizes:
            with tempfile.TemporaryDirectory() as temporary:
                folder = Path(temporary) / "images"
                write_images(folder, kind, size, max(32, min(1000, BYTES // (3 * size * size))))
                files = sorted(folder.iterdir())
                turns = [[rate(way, folder, files) for way in WAYS.values()] for _ in range(options.repeats)]
            best = [max(rates) for rates in zip(*turns, strict=True)]
            print(
                f"{kind:6}{size:6}"
                + "".join(f"{r:16.0f}" if r else f"{'-':>16}" for r in best)
                + f"{best[0] / best[1]:16.1f}x{best[0] / best[2]:17.1f}x",
                flush=True,
            )


if __name__ == "__main__":
    main()
