"""How often "pairs look unrelated" is said of pairs that are, and of pairs that are not: by simulation.

    python tests/bench/bench_unrelated.py

Images are points x, y ~ N(0, I) of 8 dimensions, the metric their distance; matched pairs share so much of the variance
that their mean distance lies `gap` standard deviations of shuffled pairs' distances below theirs (0: nothing). All of
one prompt, or two of each prompt. Printed: the share of cells that are warned, in per cent.
"""

from __future__ import annotations

import argparse

import numpy as np

from evalkit.scoring import unrelated
from evalkit.scoring.unrelated import LEVEL, p_value, shuffle

DIMENSIONS = 8
GAPS = (0.0, 0.5, 1.0, 2.0, 3.0)


def correlation(gap: float) -> float:
    """The part that matched points share, for a gap: distances are sqrt(2 - 2 r) times those of independent ones."""
    rng = np.random.default_rng(0)
    apart = np.sqrt(np.square(rng.normal(size=(100_000, DIMENSIONS)) * 2**0.5).sum(1))
    scale = max(1 - gap * apart.std() / apart.mean(), 0.0)
    return float(1 - scale**2)


def warned(runs: int, n: int, per_prompt: int, gap: float) -> float:
    rng = np.random.default_rng(1)
    drawn = shuffle([f"p{i // per_prompt}" for i in range(n)], [None] * n)
    assert drawn is not None
    assert drawn.alike == "prompt"
    shared, count = correlation(gap), 0
    for _ in range(runs):
        x, z = rng.normal(size=(2, n, DIMENSIONS))
        y = shared * x + (1 - shared**2) ** 0.5 * z
        distances = np.sqrt(np.square(x[:, None] - y[None]).sum(2))
        matched = {i: float(distances[i, i]) for block in drawn.blocks for i in block}
        p = p_value(drawn, matched, {(i, j): float(distances[i, j]) for i, j in drawn.pairs}, higher=False)
        count += p is None or p > LEVEL
    return 100 * count / runs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=2000)
    runs = parser.parse_args().runs
    unrelated.ORDERS = 999
    print(f"samples  per prompt   gap {''.join(f'{gap:>7g}' for gap in GAPS)}")
    for n, per_prompt in ((5, 5), (8, 8), (16, 16), (16, 2), (64, 64), (64, 2), (560, 2)):
        shares = "".join(f"{warned(runs, n, per_prompt, gap):7.1f}" for gap in GAPS)
        print(f"{n:7} {per_prompt:11}       {shares}", flush=True)


if __name__ == "__main__":
    main()
