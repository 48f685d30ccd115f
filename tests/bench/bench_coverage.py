"""Coverage of the stated 95 % intervals over repeated draws: `bench_coverage.py [--draws 1000] [--seed 0]`.

Columns: share of intervals that hold the truth (the difference's expectation at that N), with samples paired by prompt
and seed, and as if they were independent; mean standard error over the true spread; the difference at that N; the
difference of the whole populations, which stands in for the one at infinite N.

    python tests/bench/bench_coverage.py --clusters [--images cifar10.zip] [--cache FEATURES.npz] [--n 512]

prints coverage for 1, 4 and 16 samples per prompt, with the samples taken as independent and by prompt, of
heavy-tailed synthetic features or of images as EfficientNet-Lite0 sees them (tests/bench/bench_errors.py).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "helpers"))

import cluster_simulation
from coverage_simulation import CLIP_SCORE, FRECHET, HEADING, digits_clip_scores, digits_gan, simulate, synthetic


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0, help="of the draws: another one is another simulation")
    parser.add_argument("--clusters", action="store_true", help="several samples per prompt")
    parser.add_argument("--images", type=Path, help="with --clusters: a folder or a zip archive of images")
    parser.add_argument("--cache", type=Path, help="with --clusters: an .npz file for their features")
    parser.add_argument("--n", type=int, default=512, help="with --clusters: samples per draw")
    parser.add_argument("--only", nargs="*", help="with --clusters: metrics such as FID KID")
    options = parser.parse_args()
    draws, seed = options.draws, options.seed
    if options.clusters:
        by_prompt(options)
        return
    print(HEADING)
    for d, per_dimension in ((8, (2, 5, 25)), (64, (2, 4, 8, 16))):
        population = synthetic(d)
        for times in per_dimension:
            print(simulate(FRECHET, population, times * d, draws, seed).line(), flush=True)
    gan = digits_gan()
    for n in (128, 256, 560, 1280):
        print(simulate(FRECHET, gan, n, draws, seed).line(), flush=True)
    scores = digits_clip_scores()
    for n in (50, 200, 560):
        print(simulate(CLIP_SCORE, scores, n, draws, seed).line(), flush=True)


def by_prompt(options: argparse.Namespace) -> None:
    """Prints the table of several samples per prompt."""
    from bench_errors import real, widest

    torch.set_num_threads(1)
    given = options.images or options.cache
    data = widest(real(options.images, options.cache), 32) if given else cluster_simulation.synthetic()
    near = cluster_simulation.alike(data)
    print(cluster_simulation.HEADING)
    for case in cluster_simulation.cases(data, options.n):
        if options.only and case.name not in options.only:
            continue
        for k in (1, 4, 16):
            print(cluster_simulation.line(case, near, k, options.draws, options.seed), flush=True)


if __name__ == "__main__":
    main()
