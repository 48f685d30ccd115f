"""Coverage of the stated 95 % intervals over repeated draws: `bench_coverage.py [--draws 1000] [--seed 0]`.

Columns: share of intervals that hold the truth (the difference's expectation at that N), with samples paired by prompt
and seed, and as if they were independent; mean standard error over the true spread; the difference at that N; the
difference of the whole populations, which stands in for the one at infinite N.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "helpers"))

from coverage_simulation import CLIP_SCORE, FRECHET, HEADING, digits_clip_scores, digits_gan, simulate, synthetic


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0, help="of the draws: another one is another simulation")
    options = parser.parse_args()
    draws, seed = options.draws, options.seed
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


if __name__ == "__main__":
    main()
