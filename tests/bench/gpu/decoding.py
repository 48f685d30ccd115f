"""How fast images come out of files: a reader's thread, and the feature pass with a network that costs nothing."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

from evalkit.extractors.base import Extractor
from gpu.bench import Bench
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
    from evalkit.metrics.feature_mean import FeatureMean
    from evalkit.samples.store import Store
    from evalkit.scoring import Against, score_sources

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
        metric = FeatureMean("nothing/zero")
        seconds = bench.seconds(
            lambda source=source: score_sources(
                {"cell": source},
                metrics={"zero": ({}, metric)},
                extractors={"nothing": Nothing("nothing", 32)},
                against=Against(None),
                store=Store(bench.work / f"decode-{bench.left()}"),
                device=bench.device,
                progress=lambda name, done, total: None,
            )
        )
        bench.say(f"feature pass without a network, {size} px, images/s", round(count / seconds), f"{count} images")
