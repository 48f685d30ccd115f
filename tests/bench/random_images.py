"""A model that costs nothing: smooth random pictures of 64 px, of their seeds alone (bench_scale.py)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def draw(prompts: Sequence[str], seeds: Sequence[int]) -> NDArray[np.uint8]:
    """u8 [B,64,64,3]."""
    coarse = np.stack([np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8) for seed in seeds])
    return coarse.repeat(4, 1).repeat(4, 2)
