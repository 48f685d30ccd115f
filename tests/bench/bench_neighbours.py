"""Neighbour and kernel metrics against their peers, on the same random features: values, time and peak memory.

    python tests/bench/bench_neighbours.py [--n 5000] [--m 5000] [--d 2048] [--only prdc prc kid mmd cmmd]

Each computation runs in a process of its own, which makes the features anew, reads the memory before, and prints the
highest resident memory after. Peers: prdc 0.2 (precision, recall, density, coverage, k = 5), torch-fidelity 0.4.0 (PRC,
k = 3; KID), torchmetrics (the kernel distance that its KID averages), and the formula of google-research/cmmd on whole
matrices. A peer that cannot hold its N x M matrices fails, and the table says so. prdc compares distances that were
rounded to float32, so a pair in 100,000 may differ. At 50,000 give --repeats 1, and --no-peers on a small machine.
Not a test.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from evalkit.metric import Rows
from evalkit.metrics.cmmd import Cmmd
from evalkit.metrics.kernel_distance import KernelDistance, cubic
from evalkit.metrics.precision_recall import Coverage, Density, Precision, Recall
from evalkit.numerics.kernels import kernel_diagonal, kernel_product

Values = dict[str, float]


def features(n: int, d: int, seed: int) -> Tensor:
    """f32 [N,D], not negative and of unequal spread, as Inception's pool3."""
    g = torch.Generator().manual_seed(seed)
    x = torch.empty(n, d).normal_(generator=g)
    return x.mul_(torch.linspace(0.2, 1, d)).add_(0.1 * seed).clamp_(min=0)


def neighbours(x: Tensor, y: Tensor, kinds: dict[type[Any], dict[str, Any]]) -> Values:
    """As the metrics compute them, with the standard errors that the peers have not."""
    of_x, of_y = rows(x), rows(y)
    scores = {kind.title: kind("x", **options).score(generated=of_x, reference=of_y) for kind, options in kinds.items()}
    return {name: score.value or 0.0 for name, score in scores.items()}


def our_prdc(x: Tensor, y: Tensor) -> Values:
    return neighbours(x, y, {kind: {"k": 5, "closed": False} for kind in (Precision, Recall, Density, Coverage)})


def their_prdc(x: Tensor, y: Tensor) -> Values:
    from prdc import compute_prdc

    return {name: float(v) for name, v in compute_prdc(y.numpy(), x.numpy(), nearest_k=5).items()}


def our_prc(x: Tensor, y: Tensor) -> Values:
    return neighbours(x, y, {Precision: {}, Recall: {}})


def their_prc(x: Tensor, y: Tensor) -> Values:
    from torch_fidelity.metric_prc import prc_features_to_metric

    found = prc_features_to_metric(x, y, save_cpu_ram=True, verbose=False)  # its way of less memory
    return {name: found[name] for name in ("precision", "recall")}


def rows(x: Tensor) -> Rows:
    return Rows(torch.arange(len(x)), {"x": x})


def our_kid(x: Tensor, y: Tensor) -> Values:
    """With the standard error, which the peer has not."""
    score = KernelDistance("x", clamp=True).score(generated=rows(x), reference=rows(y))
    return {"mean": score.value or 0.0, "std": score.details["std"]}


def their_kid(x: Tensor, y: Tensor) -> Values:
    from torch_fidelity.metric_kid import kid_features_to_metric

    size = min(1000, len(x), len(y))
    found = kid_features_to_metric(x, y, kid_subset_size=size, verbose=False)
    return {name: found[f"kernel_inception_distance_{name}"] for name in ("mean", "std")}


def our_mmd(x: Tensor, y: Tensor) -> Values:
    """The unbiased squared MMD of all pairs."""
    n = min(len(x), len(y))
    x, y = x[:n], y[:n]
    within = sum(kernel_product(s, s, cubic).sum() - kernel_diagonal(s, cubic).sum() for s in (x, y))
    return {"mmd": float(within / (n * (n - 1)) - 2 * kernel_product(x, y, cubic).sum() / n**2)}


def their_mmd(x: Tensor, y: Tensor) -> Values:
    from torchmetrics.image.kid import poly_mmd

    n = min(len(x), len(y))
    return {"mmd": float(poly_mmd(y[:n], x[:n]))}


def our_cmmd(x: Tensor, y: Tensor) -> Values:
    """The value alone: three sums of a kernel."""
    metric = Cmmd()
    x, y = (torch.nn.functional.normalize(s, dim=1) for s in (x, y))
    sums = [kernel_product(a, b, metric.kernel).sum() / (len(a) * len(b)) for a, b in ((x, x), (y, y), (x, y))]
    return {"cmmd": 1000 * float(sums[0] + sums[1] - 2 * sums[2])}


def their_cmmd(x: Tensor, y: Tensor) -> Values:
    """The formula of google-research/cmmd, distance.py: three whole matrices, one after another (theirs is JAX)."""
    x, y = (torch.nn.functional.normalize(s, dim=1) for s in (x, y))

    def mean(a: Tensor, b: Tensor) -> float:
        squares = -2 * a @ b.T + a.square().sum(1)[:, None] + b.square().sum(1)[None, :]
        return float(torch.exp(-squares / (2 * 10**2)).mean(dtype=torch.float64))

    return {"cmmd": 1000 * (mean(x, x) + mean(y, y) - 2 * mean(x, y))}


PAIRS: dict[str, tuple[Callable[[Tensor, Tensor], Values], Callable[[Tensor, Tensor], Values], str]] = {
    "prdc": (our_prdc, their_prdc, "prdc"),
    "prc": (our_prc, their_prc, "torch_fidelity"),
    "kid": (our_kid, their_kid, "torch_fidelity"),
    "mmd": (our_mmd, their_mmd, "torchmetrics"),
    "cmmd": (our_cmmd, their_cmmd, "torch"),
}


def resident() -> float:
    """MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def run_one(name: str, side: int, args: argparse.Namespace) -> None:
    """In a process of its own: prints one line of JSON."""
    torch.set_num_threads(args.threads)
    x, y = features(args.n, args.d, 1), features(args.m, args.d, 2)
    compute = PAIRS[name][side]
    compute(x[:100], y[:100])  # imports, and the first call of each kernel
    before, began, busy = resident(), time.perf_counter(), time.process_time()
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    values = compute(x, y)
    seconds, cpu = time.perf_counter() - began, time.process_time() - busy
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    found = {"values": values, "seconds": seconds, "cpu": cpu, "before": before, "peak": int(peak.split()[1]) / 1024}
    print(json.dumps(found))


def measure(name: str, side: int, args: argparse.Namespace) -> dict[str, Any] | None:
    """None where the process failed."""
    options = [f"--{key}={getattr(args, key)}" for key in ("n", "m", "d", "threads")]
    command = [sys.executable, __file__, *options, "--worker", name, str(side)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"  {done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f'killed ({done.returncode})'}")
        return None
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def compare(name: str, args: argparse.Namespace) -> None:
    """Prints a line for each side, and how they differ. The sides take turns; of each the fastest turn counts."""
    sides = ("ours", PAIRS[name][2])[: 1 if args.no_peers or importlib.util.find_spec(PAIRS[name][2]) is None else 2]
    turns: list[list[dict[str, Any]]] = [[] for _ in sides]
    for _ in range(args.repeats):
        for side in range(len(sides)):
            if found := measure(name, side, args):
                turns[side].append(found)
    best = [min(found, key=lambda turn: turn["seconds"]) for found in turns if found]
    for who, found in zip(sides, best, strict=False):
        values = "  ".join(f"{key} {value:.6g}" for key, value in found["values"].items())
        memory = f"{found['peak'] - found['before']:8.0f} MiB, {found['peak']:.0f} in all"
        print(f"{name:5} {who:15} {found['seconds']:8.2f} s, CPU {found['cpu']:7.2f} s {memory}   {values}", flush=True)
    if len(best) == 2:
        ours, theirs = best
        largest = max(abs(ours["values"][key] - value) for key, value in theirs["values"].items())
        speed, work = (theirs[key] / ours[key] for key in ("seconds", "cpu"))
        print(f"      {speed:.2f} times as fast, {work:.2f} by CPU time; largest difference {largest:.1e}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=5000, help="generated samples")
    parser.add_argument("--m", type=int, default=5000, help="reference samples")
    parser.add_argument("--d", type=int, default=2048)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3, help="turns of each side")
    parser.add_argument("--only", nargs="*", choices=list(PAIRS), default=list(PAIRS))
    parser.add_argument("--no-peers", action="store_true", help="where a peer would take too long")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        run_one(args.worker[0], int(args.worker[1]), args)
        return
    print(f"N = {args.n}, M = {args.m}, d = {args.d}, {args.threads} threads; MiB of work beside what was there before")
    for name in args.only:
        compare(name, args)


if __name__ == "__main__":
    main()
