"""What the sections of bench_gpu.py share: time left, figures, rates, random pictures and weights."""

from __future__ import annotations

import json
import os
import resource
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

ROOT = Path(__file__).resolve().parents[3]
for folder in (ROOT, ROOT / "tests" / "helpers"):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


@dataclass
class Bench:
    """One call of the script.

    Attributes:
        device: cuda or cpu.
        tiny: sizes that end in a minute on a CPU: a check of the script, not a measurement.
        out: where the figures go.
        work: inputs and stores; it may hold those of an earlier call.
        budget: seconds for all sections.
    """

    device: str
    tiny: bool
    out: Path
    work: Path
    budget: float
    started: float = field(default_factory=time.perf_counter)
    rows: list[tuple[str, str, str]] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    section_ends: float = float("inf")

    @property
    def cuda(self) -> bool:
        return self.device.startswith("cuda")

    def now(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self.started

    def left(self) -> float:
        """Seconds, of this section and of all."""
        return min(self.budget, self.section_ends) - self.now()

    def say(self, name: str, value: object, note: str = "") -> None:
        """Prints a figure, and writes it as a line of JSON."""
        text = f"{value:.4g}" if isinstance(value, float) else str(value)
        self.rows.append((name, text, note))
        print(f"[{self.now():4.0f} s] {name}: {text}  {note}", flush=True)
        with (self.out / "figures.jsonl").open("a") as lines:
            lines.write(json.dumps({"name": name, "value": value, "note": note}, default=str) + "\n")

    def check(self, name: str, value: float, bound: float) -> None:
        """A claim: `value` is at most `bound`."""
        right = value <= bound
        if not right:
            self.failed.append(name)
        self.say(name, float(value), f"{'ok' if right else 'WRONG'}: at most {bound:g}")

    @contextmanager
    def attempt(self, name: str, needs: float = 0) -> Iterator[bool]:
        """A part that may fail, which is then told; it is given whether as many seconds as it `needs` are left."""
        if not self.tiny and self.left() < needs:
            self.say(name, "skipped", f"{self.left():.0f} s left of {needs:.0f} s")
            yield False
            return
        try:
            yield True
        except Exception as error:
            self.failed.append(name)
            self.say(name, "FAILED", f"{type(error).__name__}: {str(error)[:300]}")
            traceback.print_exc()

    # -- time and memory

    def sync(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()

    def rate(self, call: Callable[[], object], items: int, seconds: float = 1.0, warm: int = 2) -> float:
        """Items per second: the median of 3 calls or more; where it is `tiny`, of one."""
        if self.tiny:
            return items / self.seconds(call)
        for _ in range(warm):
            call()
        self.sync()
        taken: list[float] = []
        while len(taken) < 3 or (sum(taken) < seconds and len(taken) < 50):
            taken.append(self.seconds(call))
        return items / statistics.median(taken)

    def seconds(self, call: Callable[[], object]) -> float:
        """Of one call, all work of the device done."""
        self.sync()
        start = time.perf_counter()
        call()
        self.sync()
        return time.perf_counter() - start

    def timed(self, name: str, call: Callable[[], Any], note: str = "", needs: float = 15) -> Any:
        """One call, its seconds and the peak of the device's memory; none where it was skipped or failed."""
        with self.attempt(name, needs) as go:
            if go:
                if self.cuda:
                    torch.cuda.reset_peak_memory_stats()
                found: list[Any] = []
                seconds = self.seconds(lambda: found.append(call()))
                self.say(f"{name}, s", round(seconds, 3), f"{note} {self.peak()}".strip())
                return found[0]
        return None

    def peak(self) -> str:
        if self.cuda:
            return f"peak {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB"
        return f"peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB resident"

    # -- inputs

    def inception_weights(self) -> Path:
        """Seeded weights of the FID network."""
        from seeded_inception import write_weights

        file = self.work / "seeded_inception.pth"
        if not file.exists():
            partial = file.with_suffix(f".{os.getpid()}")
            write_weights(partial)
            partial.rename(file)
        return file

    def folder(self, count: int, size: int, seed: int = 0) -> Path:
        """A folder of PNGs, size x size, written by all cores; made once per `work`."""
        folder = self.work / f"png-{size}-{count}-{seed}"
        if folder.exists():
            return folder
        partial = folder.with_suffix(f".{os.getpid()}")
        partial.mkdir()
        start, step = time.perf_counter(), max(1, -(-count // (4 * (os.cpu_count() or 1))))
        jobs = [(partial, first, min(step, count - first), size, seed) for first in range(0, count, step)]
        with ProcessPoolExecutor() as pool:
            list(pool.map(_write, jobs))
        partial.rename(folder)
        self.say(f"{count} PNGs of {size} px written, s", round(time.perf_counter() - start, 1))
        return folder


def pass_rate(bench: Bench, source: Any, extractor: Any, layer: str) -> float:
    """Images per second of a feature pass as a run makes it, over a source, into a store of its own."""
    from evalkit.metric import Batch, SampleMetric, Score, Sums
    from evalkit.samples.store import Store
    from evalkit.scoring import Against, score_sources

    class Count(SampleMetric[Sums]):
        title, better, needs = "count", "higher", (f"{extractor.name}/{layer}",)

        def observe(self, batch: Batch) -> Sums:
            return Sums({"n": torch.tensor(float(len(batch.index)))})

        def score(self, *, generated: Sums) -> Score:
            return Score(float(generated["n"]), len(source))

    extractor.check()
    extractor.load(bench.device)
    seconds = bench.seconds(
        lambda: score_sources(
            {"cell": source},
            metrics={"count": ({}, Count())},
            extractors={extractor.name: extractor},
            against=Against(None),
            store=Store(bench.work / f"pass-{time.monotonic_ns()}"),
            device=bench.device,
            progress=lambda name, done, total: None,
        )
    )
    return len(source) / seconds


def in_memory(count: int, size: int) -> Any:
    """A source of pictures that are decoded already, all different: equal chunks would be extracted once."""
    from evalkit.data.arrays import ArrayImages

    base = pictures(min(count, 16), size)
    pixels = np.stack([base[i % len(base)] for i in range(count)])
    pixels[:, 0, 0] = np.arange(count, dtype=">u4").view(np.uint8).reshape(count, 4)[:, 1:]
    return ArrayImages("pictures", pixels)


def pictures(count: int, size: int, seed: int = 0) -> list[NDArray[np.uint8]]:
    """Smooth colours with noise, u8 [size,size,3], all different: they compress about as photographs do."""
    from PIL import Image

    rng, images = np.random.default_rng(seed), []
    noise = rng.integers(-6, 7, (size, size, 3), dtype=np.int16)
    for i in range(count):
        coarse = rng.integers(0, 256, (size // 8, size // 8, 3), dtype=np.uint8)
        smooth = np.asarray(Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC)).astype(np.int16)
        images.append(np.clip(smooth + np.roll(noise, 7 * i, (0, 1)), 0, 255).astype(np.uint8))
    return images


def _write(job: tuple[Path, int, int, int, int]) -> None:
    from evalkit.data.codec import encode_png

    folder, first, count, size, seed = job
    for i, image in enumerate(pictures(count, size, 1000 * seed + first)):
        (folder / f"{first + i:06d}.png").write_bytes(encode_png(image))


def relative(a: Tensor, b: Tensor) -> float:
    """|a - b| / |b|, in float64 on the CPU."""
    a, b = a.double().cpu(), b.double().cpu()
    return float((a - b).norm() / b.norm())


@contextmanager
def tf32(on: bool) -> Iterator[None]:
    """Convolutions and products in TF32, or in full float32."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = on
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before
