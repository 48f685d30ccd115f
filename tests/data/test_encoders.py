"""Processes that encode PNGs: the same bytes, and nothing left of them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from evalkit.data import codec
from evalkit.data.encoders import Encoders


def test_bytes_are_those_of_encode_png_and_processes_end() -> None:
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (40 + i, 700, 3), dtype=np.uint8) for i in range(8)]
    images.append(images[0][::2, ::-1])  # not contiguous
    with Encoders() as encode, ThreadPoolExecutor(2) as pool:
        made = list(pool.map(encode, images))
        processes = list(encode._all)
        assert 1 <= len(processes) <= 2
    assert made == [codec.encode_png(image) for image in images]
    assert [process.returncode for process in processes] == [0] * len(processes)


def test_a_lost_process_loses_no_image() -> None:
    image = np.zeros((8, 8, 3), np.uint8)
    with Encoders() as encode:
        assert encode(image) == codec.encode_png(image)
        encode._all[0].kill()
        encode._all[0].wait()
        assert encode(image) == codec.encode_png(image)
        assert encode(image) == codec.encode_png(image)
        assert len(encode._all) == 1, "no other is started"
        with pytest.raises(ValueError, match="must be uint8"):
            encode(image.astype(np.float32))  # type: ignore[arg-type]
