"""Makes the folders of images that other sections read."""

from __future__ import annotations

from gpu.bench import Bench


def run(bench: Bench) -> None:
    bench.inception_weights()
    for count, size, seed in needed(bench):
        bench.folder(count, size, seed)


def needed(bench: Bench) -> list[tuple[int, int, int]]:
    """Count, pixels, seed."""
    if bench.tiny:
        return [(60, 64, 0), (60, 64, 1), (12, 1024, 0)]
    return [(50_000, 256, 0), (5_000, 256, 1), (2_000, 1024, 0)]
