"""How fast images come out of files: a reader's thread, and the feature pass with a network that costs nothing."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
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
    """Threads alone, then processes: of the scan, and of the feature pass with a network that costs nothing."""
    from evalkit.data import reading
    from evalkit.data.reference import FolderReference

    sizes = {size: (count, size, seed) for count, size, seed in needed(bench)}  # of equal sizes the last
    cores = os.cpu_count() or 1
    for size, (count, _, seed) in sizes.items():
        folder = bench.folder(count, size, seed)
        for readers in [0, *sorted({max(cores // 4, 2), max(cores // 2, 2), min(cores, reading.MOST)})]:
            what = f"{readers} processes" if readers else "threads"
            with bench.attempt(f"decoding {size} px by {what}", 6) as go:
                if not go:
                    continue
                reading.use(readers)
                if (helpers := reading.helpers(1e9)) is not None:
                    list(helpers.map(lambda _: helpers.call(len, "all of them are there"), range(4 * readers)))
                opened: list[Any] = []
                seconds = bench.seconds(lambda: opened.append(FolderReference(str(folder)).open()))
                rate = pass_rate(bench, opened[0], Nothing("nothing", 32), "zero")
                bench.say(
                    f"{what}, {size} px: scan, feature pass without a network, images/s",
                    [round(count / seconds), round(rate)],
                    f"{count} images, {cores} cores",
                )
    reading.use("auto")
