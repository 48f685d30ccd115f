"""The Frechet distance of given moments: evalkit against torch-fidelity (eigvals) and SciPy (sqrtm).

python tests/bench/bench_frechet.py [--d 2048] [--n 10000] [--decay 0] [--repeats 2] [--no-scipy]

--decay p: the i-th direction has the variance i^-2p, as the spectra of real features fall; 0: all alike.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from importlib.metadata import version

import numpy as np
import torch
from bench_inception import matrix_rate

from evalkit.metrics.frechet import FrechetDistance
from evalkit.numerics.gaussians import scatter_of


def by_torch_fidelity(a: torch.Tensor, b: torch.Tensor) -> float:
    from torch_fidelity.metric_fid import fid_statistics_to_metric

    sides = [{"mu": x.mean(0).numpy(), "sigma": np.cov(x.numpy(), rowvar=False)} for x in (a, b)]
    return float(fid_statistics_to_metric(*sides, verbose=False)["frechet_inception_distance"])


def by_scipy(a: torch.Tensor, b: torch.Tensor) -> float:
    from scipy import linalg

    (m1, c1), (m2, c2) = ((x.mean(0).numpy(), np.cov(x.numpy(), rowvar=False)) for x in (a, b))
    return float(((m1 - m2) ** 2).sum() + np.trace(c1) + np.trace(c2) - 2 * np.trace(linalg.sqrtm(c1 @ c2).real))


def timed(call: Callable[[], float]) -> tuple[float, float]:
    start = time.perf_counter()
    return call(), time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--d", type=int, default=2048)
    parser.add_argument("--n", type=int, default=10_000)
    parser.add_argument("--decay", type=float, default=0.0)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--no-scipy", action="store_true")
    options = parser.parse_args()
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(options.d, options.d, generator=generator).double() / options.d**0.5
    fall = torch.arange(1, options.d + 1).double() ** -options.decay
    a, b = (torch.randn(options.n, options.d, generator=generator).double() * fall for _ in range(2))
    a, b = a @ (mixing + torch.eye(options.d)), b @ mixing + 0.1
    metric, states = FrechetDistance("x/y"), {"generated": scatter_of(a), "reference": scatter_of(b)}
    peers = {"torch-fidelity": by_torch_fidelity} | ({} if options.no_scipy else {"scipy sqrtm": by_scipy})
    covariances = timed(lambda: [np.cov(x.numpy(), rowvar=False) for x in (a, b)] and 0.0)[1]
    few = torch.randn(100, 8, generator=generator).double()
    metric.score(generated=scatter_of(few), reference=scatter_of(few))  # imports, ours and theirs
    for call in peers.values():
        call(few, few)
    print(f"torch-fidelity {version('torch-fidelity')}, SciPy {version('scipy')}, NumPy {version('numpy')}")
    print(f"the peers' times hold two calls of np.cov, {covariances:.2f} s")
    flops = (1 / 3 + 1 + 4 / 3) * options.d**3  # Cholesky, A' S2 A, reduction to tridiagonal form
    print(f"the limit for N >= d: {flops / matrix_rate(torch.float64) / 1e9:.2f} s at the float64 product's rate")
    for _ in range(options.repeats):
        mine, seconds = timed(lambda: metric.score(**states).value or 0.0)
        print(f"N = {options.n}, d = {options.d}, decay {options.decay}: evalkit {seconds:.2f} s", flush=True)
        for name, call in peers.items():
            value, theirs = timed(lambda call=call: call(a, b))  # type: ignore[misc]
            print(
                f"  {name:16s} {theirs:8.2f} s = {theirs / seconds:6.1f}x   differs by {abs(value / mine - 1):.1e}",
                flush=True,
            )


if __name__ == "__main__":
    main()
