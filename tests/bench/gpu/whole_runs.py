"""FID of folders, the whole process: `run_eval.py` from its start to its end, and torch-fidelity on the same files."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from gpu.bench import ROOT, Bench
from gpu.folders import needed

LIMIT = 75  # seconds of one run
LONG = 120  # of the first
SAME = 0.01  # how far a FID may be off the peer's, relatively: its convolutions run in TF32


def run(bench: Bench) -> None:
    """The whole set first, which no GPU has told of yet; then the peer on the same files, and the other precisions."""
    wanted = needed(bench)
    large, reference = (bench.folder(*each) for each in wanted[:2])
    weights = bench.inception_weights()
    ours(bench, large, reference, weights, "float32", limit=LONG)
    few = part_of(bench, large, 24 if bench.tiny else 10_000)
    peer, rate, fid = None, None, None
    with bench.attempt("torch-fidelity, whole", 25) as go:
        if go:
            peer = torch_fidelity(bench, few, reference, weights)
    if peer is not None and (mine := ours(bench, few, reference, weights, "float32")) is not None:
        (rate, fid), (their_rate, their_fid) = mine, peer
        bench.say(f"whole FID of {few.name}: images/s over torch-fidelity's", round(rate / their_rate, 2))
        bench.check("FID, off torch-fidelity's", abs(fid - their_fid) / their_fid, SAME)
    for count, size, seed in wanted[2:]:
        ours(bench, bench.folder(count, size, seed), reference, weights, "float32")
    for precision in ("tf32", "bfloat16") if bench.cuda else ():
        ours(bench, large, reference, weights, precision)
    ours(bench, few if bench.tiny else large, reference, weights, "float32", "lint=false")


def ours(
    bench: Bench, folder: Path, reference: Path, weights: Path, precision: str, *more: str, limit: float = LIMIT
) -> tuple[float, float] | None:
    """Images per second, start and end of the process included, and the FID; none where it was skipped or failed."""
    count = sum(1 for _ in folder.iterdir())
    name = f"FID, IS, KID of {', '.join((folder.name, precision, *more))}, whole process, s"
    with bench.attempt(name, 30) as go:
        if not go:
            return None
        store = bench.work / f"store-{time.monotonic_ns()}"
        overrides = ["model=[folder]", f"model.folder.path={folder}", "sampler=[]", "prompts=[]", "metric=[fid,is,kid]"]
        overrides += ["reference=folder", f"reference.folder.path={reference}", f"store={store}", "report=false"]
        overrides += [f"extractor.inception.weights={weights}", f"device={bench.device}", "metric.kid.clamp=true"]
        overrides += [f"extractor.inception.precision={precision}", f"out={store}/out", *more]
        most = 600 if bench.tiny else min(limit, max(bench.left(), 20))
        seconds, stages = timed_process(["run_eval.py", *overrides], most)
        bench.say(name, round(seconds, 1), f"{count / seconds:.0f} images/s")
        bench.say("  of it, s: lines", stages)
        rows = json.loads((store / "out" / "results.json").read_text())["rows"]
        return count / seconds, next(row["value"] for row in rows if row["metric"] == "fid")
    return None


def timed_process(command: list[str], limit: float) -> tuple[float, str]:
    """Seconds that a Python command takes, and when it wrote which line; beyond `limit` it tells where it was.

    Raises:
        RuntimeError: it failed, or was ended.
    """
    lines: list[str] = []
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-X", "faulthandler", *command],
        cwd=ROOT,
        text=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )

    def listen() -> None:
        lines.extend(f"{time.perf_counter() - start:.1f} {line.strip()[:90]}" for line in process.stderr or ())

    listener = threading.Thread(target=listen)
    listener.start()
    try:
        process.wait(limit)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGABRT)  # every thread's stack goes to stderr
        process.wait(20)
    seconds = time.perf_counter() - start
    listener.join(20)
    if process.returncode:
        print("\n".join(lines[-400:]), flush=True)
        raise RuntimeError(f"code {process.returncode} after {seconds:.0f} s: {'; '.join(lines[:12])}")
    return seconds, "; ".join(lines[:12])


def torch_fidelity(bench: Bench, folder: Path, reference: Path, weights: Path) -> tuple[float, float]:
    """By its API, in a process of its own, with its defaults: images per second and the FID."""
    few = min(len(list(side.iterdir())) for side in (folder, reference))
    code = (
        "import torch_fidelity as t; print('FID', t.calculate_metrics("
        f"input1={str(folder)!r}, input2={str(reference)!r}, fid=True, isc=True, kid=True, cache=False, verbose=False, "
        f"cuda={bench.cuda}, kid_subset_size={min(1000, few)}, save_cpu_ram=False, "
        f"feature_extractor_weights_path={str(weights)!r})['frechet_inception_distance'])"
    )
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=None if bench.tiny else LIMIT
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-500:])
    seconds, count = time.perf_counter() - start, len(list(folder.iterdir()))
    bench.say(f"torch-fidelity, {count} images, whole process, s", round(seconds, 1), f"{count / seconds:.0f} images/s")
    return count / seconds, float(done.stdout.rpartition("FID ")[2])


def part_of(bench: Bench, folder: Path, count: int) -> Path:
    """A folder of links to some of the images."""
    part = bench.work / f"{folder.name}-first-{count}"
    if not part.exists():
        part.mkdir()
        for file in sorted(folder.iterdir())[:count]:
            os.link(file, part / file.name)
    return part
