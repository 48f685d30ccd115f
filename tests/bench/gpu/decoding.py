"""How fast images come out of files: a reader's thread, and the feature pass with a network that costs nothing."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

from evalkit.extractors.base import Extractor
from gpu.bench import Bench, pass_rate
from gpu.folders import needed


class Nothing(Extractor):
    """One zero per image."""

    @property
    def layers(self) -> Mapping[str, int | None]:
        return {"zero": 1}

    def check(self, *, fetch: bool = True) -> None:
        pass

    def identity(self) -> dict[str, Any]:
        return {"network": "none"}

    def label(self) -> str:
        return self.name

    def load(self, device: str) -> None:
        pass

    def unload(self) -> None:
        pass

    def __call__(self, images: Sequence[Any], prompts: Sequence[str], layers: Sequence[str]) -> dict[str, torch.Tensor]:
        return {"zero": torch.zeros(len(images), 1)}


def run(bench: Bench) -> None:
    from evalkit.data.reference import FolderReference

    sizes = {size: (count, size, seed) for count, size, seed in needed(bench)}  # of equal sizes the last
    for size, (count, _, seed) in sizes.items():
        folder = bench.folder(count, size, seed)
        source: Any = bench.timed(
            f"scan of {count} of {size} px", lambda folder=folder: FolderReference(str(folder)).open()
        )
        few = min(count, 512)
        blocks = [range(i, min(i + 64, few)) for i in range(0, few, 64)]
        one = few // 8 / bench.seconds(lambda source=source, few=few: source.read(range(few // 8)))
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            all_threads = few / bench.seconds(lambda: list(pool.map(source.read, blocks)))
        bench.say(f"read, {size} px, one call and blocks by all cores, images/s", [round(one), round(all_threads)])
        rate = pass_rate(bench, source, Nothing("nothing", 32), "zero")
        bench.say(f"feature pass without a network, {size} px, images/s", round(rate), f"{count} images")
