"""How fast a device multiplies matrices, measured: what the rates of networks are held against."""

from __future__ import annotations

import os
import time

from evalkit.utils import devices

_SIDE = {"cpu": 1024, "mps": 4096, "cuda": 8192}
_SECONDS, _ROUND = 1.0, 0.05  # in all, and of each round: the fastest counts
_MEASURED: dict[tuple[str, str], tuple[float, int]] = {}  # of this process's devices


def measured(device: str) -> dict[str, tuple[float, int]]:
    """By dtype what `matrix_rate` gave of a device so far."""
    return {dtype: rate for (where, dtype), rate in _MEASURED.items() if where == device}


def matrix_rate(device: str, dtype: str) -> tuple[float, int]:
    """FLOP/s of a product of two square matrices, and their side; measured once per process.

    A product counts 2 n**3. Float32 is multiplied as torch is set (TF32 or not).

    Args:
        device: "cpu", "cuda", "mps".
        dtype: a floating-point type's name in torch ("bfloat16").
    """
    if (device, dtype) not in _MEASURED:
        _MEASURED[device, dtype] = _measure(device, dtype)
    return _MEASURED[device, dtype]


def _measure(device: str, dtype: str) -> tuple[float, int]:
    import torch

    n = _SIDE[device.partition(":")[0]]
    a, b = (torch.randn(n, n, device=device).to(getattr(torch, dtype)) for _ in range(2))
    _products(a, b, 1, device)  # kernels are chosen, threads started
    one = _products(a, b, 1, device)
    count = max(int(_ROUND / max(one, 1e-6)), 1)
    rounds = min(max(int(_SECONDS / max(count * one, 1e-6)), 3), 50)
    fastest = min(_products(a, b, count, device) / count for _ in range(rounds))
    return 2 * n**3 / fastest, n


def _products(a: object, b: object, count: int, device: str) -> float:
    """Seconds of some products, one after another; on the CPU those that its threads had."""
    import torch

    clock = time.process_time if device == "cpu" else time.perf_counter
    shared = min(torch.get_num_threads(), os.cpu_count() or 1) if device == "cpu" else 1
    devices.synchronize(device)
    began = clock()
    for _ in range(count):
        a @ b  # type: ignore[operator]
    devices.synchronize(device)
    return (clock() - began) / shared
