"""How float32 products and convolutions are carried out: set for a while, whatever API the process used, and put back.

torch 2.9 replaced `allow_tf32` and `set_float32_matmul_precision` by an `fp32_precision` per backend and operation,
and its old getters raise where a process used the new ones. Imports torch only where it is used.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def float32_arithmetic(*, tf32: bool = False) -> Iterator[None]:
    """Products and convolutions of float32 with all 24 bits; `tf32`: with 11 bits where the device has units for it."""
    import torch

    backends = torch.backends
    if not hasattr(backends, "fp32_precision"):  # before 2.9
        products, convolutions = torch.get_float32_matmul_precision(), backends.cudnn.allow_tf32
        torch.set_float32_matmul_precision("high" if tf32 else "highest")
        backends.cudnn.allow_tf32 = tf32
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(products)
            backends.cudnn.allow_tf32 = convolutions
        return
    wanted = "tf32" if tf32 else "ieee"
    # An unset setting follows its backend's, and that the root: one that does not follow was set, and can be put back
    # as it was. cuDNN's convolutions and RNNs are unset in a way of their own (TF32), which no setting brings back.
    cuda, cpu = backends.cudnn, backends.mkldnn
    settings = [backends, cuda, cpu, backends.cuda.matmul, cuda.conv, cuda.rnn, cpu.matmul, cpu.conv]  # type: ignore[attr-defined]
    changed = []
    try:
        for setting in settings:
            before = setting.fp32_precision
            if before != wanted:
                setting.fp32_precision = wanted
                changed.append((setting, before))
        yield
    finally:
        for setting, before in reversed(changed):
            setting.fp32_precision = before
