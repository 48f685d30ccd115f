"""What a baseline that is made again (`noise_floor`) changes around the calls of its model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any


@contextmanager
def remade(change: Mapping[str, Any]) -> Iterator[None]:
    """Inside, torch computes with the change's number of `threads`, and with its plain kernel of `attention`.

    Args:
        change: `Cell.remake`; where it names neither, nothing is done, and no torch imported.
    """
    with ExitStack() as stack:
        if "threads" in change:
            import torch

            stack.callback(torch.set_num_threads, torch.get_num_threads())
            torch.set_num_threads(change["threads"])
        if "attention" in change:
            from torch.nn.attention import SDPBackend, sdpa_kernel

            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        yield
