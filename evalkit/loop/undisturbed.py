"""An evaluation in the middle of another program: what that program set up stays as it was."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from evalkit.numerics.precision import float32_arithmetic


@contextmanager
def undisturbed() -> Iterator[None]:
    """Exact float32 without gradients, autocast, default dtype or device of the caller's; all is put back at the end.

    Put back are the random states (Python, numpy, torch on the CPU and each CUDA device), TF32, autocast, gradients,
    the default dtype and device, cuDNN's benchmark flag, deterministic algorithms and the number of threads.
    """
    import numpy as np
    import torch

    python, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002 (the caller's)
    cudnn, threads = torch.backends.cudnn.benchmark, torch.get_num_threads()
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    dtype = torch.get_default_dtype()
    cuda = bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]
    devices = range(torch.cuda.device_count()) if cuda else range(0)
    try:
        with ExitStack() as stack:
            stack.enter_context(torch.random.fork_rng(devices=devices))
            stack.enter_context(torch.no_grad())
            stack.enter_context(torch.device("cpu"))  # the default device: extractors say where they go
            for kind in ("cpu", "cuda") if cuda else ("cpu",):
                stack.enter_context(torch.autocast(kind, enabled=False))
            stack.enter_context(float32_arithmetic())
            torch.set_default_dtype(torch.float32)
            yield
    finally:
        torch.set_default_dtype(dtype)
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
        torch.backends.cudnn.benchmark = cudnn
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        np.random.set_state(numpy_state)  # noqa: NPY002
        random.setstate(python)
