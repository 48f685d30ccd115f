"""What the machine gives: matrix rates, memory and copies. All else is measured against these."""

from __future__ import annotations

import hashlib
import os
import sys
import time

import torch

from gpu.bench import Bench, tf32


def run(bench: Bench) -> None:
    name = torch.cuda.get_device_name() if bench.cuda else "cpu"
    bench.say("machine", f"{name}, {os.cpu_count()} cores, torch {torch.__version__}, Python {sys.version.split()[0]}")
    for label, dtype, fast in (
        ("bf16", torch.bfloat16, True),
        ("tf32", torch.float32, True),
        ("fp32", torch.float32, False),
        ("fp64", torch.float64, False),
    ):
        bench.say(f"product {label}, TFLOP/s", round(matrix_rate(bench, dtype, fast), 1))
    size = 2**20 if bench.tiny else 2**30
    x = torch.empty(size, dtype=torch.uint8, device=bench.device)
    y = torch.empty_like(x)
    bench.say(
        "copy on the device, TB/s read and written", round(2 * size * bench.rate(lambda: y.copy_(x), 1) / 1e12, 2)
    )
    host = torch.empty(size // 4, dtype=torch.uint8)
    pinned = host.pin_memory() if bench.cuda else host
    rates = [round(len(h) * bench.rate(lambda h=h: x[: len(h)].copy_(h), 1, 0.3) / 1e9, 1) for h in (host, pinned)]  # type: ignore[misc]
    bench.say("copy to the device, GB/s pageable, pinned", rates)
    blob, start = bytes(2**22 if bench.tiny else 2**27), time.perf_counter()
    hashlib.sha256(blob).digest()
    bench.say("sha256, MB/s per core", round(len(blob) / 1e6 / (time.perf_counter() - start)))


def matrix_rate(bench: Bench, dtype: torch.dtype, fast: bool) -> float:
    """TFLOP/s of a product of square matrices; `fast`: float32 in TF32."""
    n = 256 if bench.tiny else 8192
    a, b = (torch.randn(n, n, device=bench.device).to(dtype) for _ in range(2))
    with tf32(fast):
        return 2 * n**3 * bench.rate(lambda: a @ b, 1, 0.3) / 1e12
