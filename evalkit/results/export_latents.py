"""Writes the starting noise that each cell's samples began with, so that another engine can be fed the same.

One <cell>.latents.safetensors per cell: a tensor `latents` f32 [N, ...], or, where the samples' sizes differ, one
tensor [1, ...] per sample, named by its index. `model.NAME.latents=FILE` takes either. What is written is what a
pipeline takes as its argument `latents`: unit noise, before the scheduler's `init_noise_sigma` scales it; z of a GAN.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from evalkit.errors import DataError
from evalkit.models.starting_noise import CELL, SHA256, TENSOR
from evalkit.results.export import Export, Set
from evalkit.utils.files import atomic_path, temporary_path


class LatentsExport(Export):
    """<cell>.latents.safetensors: the starting noise of each sample; its metadata names the cell and the digest."""

    ending = ".latents.safetensors"
    of_noise = True

    def write(self, images: Set, path: Path) -> None:
        """Draws the noise of one sample after another; memory does not depend on their number."""
        if images.noise is None:
            raise DataError(f"{images.source.name}: its model shows no starting noise")
        shapes: list[tuple[int, ...]] = []
        digest = hashlib.sha256()
        metadata = {CELL: images.key} if images.key else {}
        with temporary_path(path) as values, atomic_path(path) as temporary:
            path.parent.mkdir(parents=True, exist_ok=True)
            with values.open("wb") as file:
                for latent in images.noise():
                    data = latent.astype("<f4", copy=False).tobytes()
                    digest.update(data)
                    file.write(data)
                    shapes.append(latent.shape)
            with values.open("rb") as source, temporary.open("wb") as target:
                _write_header(target, shapes, metadata | {SHA256: digest.hexdigest()})
                shutil.copyfileobj(source, target)


def _write_header(file: BinaryIO, shapes: Sequence[tuple[int, ...]], metadata: Mapping[str, str]) -> None:
    """The header of a .safetensors file of f32 that follow one another."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    if len(set(shapes)) == 1:
        whole = (len(shapes), *shapes[0])
        header[TENSOR] = {"dtype": "F32", "shape": whole, "data_offsets": [0, _bytes(whole)]}
    else:
        start = 0
        for index, shape in enumerate(shapes):
            stop = start + _bytes(shape)
            header[f"{index:06d}"] = {"dtype": "F32", "shape": (1, *shape), "data_offsets": [start, stop]}
            start = stop
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)


def _bytes(shape: Sequence[int]) -> int:
    count = 4
    for side in shape:
        count *= side
    return count
