"""FID + IS + KID of two folders of PNGs, end to end as processes: evalkit against torch-fidelity, one weights file.

    python tests/bench/bench_fid.py [--images 1000] [--size 256] [--repeats 1] [--weights FILE]

Prints the seconds of each whole process (interpreter start, imports, decoding, network, estimators), the ratios of one
interleaved run, and the relative differences of the scores. "alone": without the lint and the report, which the peer
has not; else as a user runs it. Without --weights a seeded random file stands in: the scores mean nothing then, but
both sides compute the same ones.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "helpers"))

PEER = """
import json, sys, torch, torch_fidelity
a, b, weights, subset = sys.argv[1:]
found = torch_fidelity.calculate_metrics(
    input1=a, input2=b, fid=True, isc=True, kid=True, kid_subset_size=int(subset), cuda=torch.cuda.is_available(),
    cache=False, verbose=False, batch_size=32, feature_extractor_weights_path=weights)
names = {"fid": "frechet_inception_distance", "is": "inception_score_mean", "kid": "kernel_inception_distance_mean"}
print(json.dumps({ours: found[theirs] for ours, theirs in names.items()}))
"""


def write_images(folder: Path, count: int, size: int, seed: int, spread: float) -> None:
    """Smooth random pictures: as PNGs they compress about as photographs do."""
    rng = np.random.default_rng(seed)
    folder.mkdir()
    for i in range(count):
        coarse = np.clip(rng.normal(128, spread, (size // 8, size // 8, 3)), 0, 255).astype(np.uint8)
        picture = np.asarray(Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC)).astype(int)
        noisy = np.clip(picture + rng.normal(0, 3, picture.shape), 0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(folder / f"{i:05d}.png")


def timed(command: list[str], cwd: Path) -> tuple[str, float]:
    start = time.perf_counter()
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    return done.stdout, time.perf_counter() - start


def by_torch_fidelity(folder: Path, weights: Path, subset: int) -> tuple[dict[str, float], float]:
    arguments = [str(folder / "a"), str(folder / "b"), str(weights), str(subset)]
    out, seconds = timed([sys.executable, "-c", PEER, *arguments], ROOT)
    return json.loads(out.strip().splitlines()[-1]), seconds


def by_evalkit(
    folder: Path, weights: Path, subset: int, precision: str, alone: bool, run: int
) -> tuple[dict[str, float], float]:
    name = f"{precision}-{alone}-{run}"
    overrides = [
        "model=[folder]",
        f"model.folder.path={folder / 'a'}",
        "reference=folder",
        f"reference.folder.path={folder / 'b'}",
        "metric=[fid,is,kid]",
        f"metric.kid.subset_size={subset}",
        f"extractor.inception.weights={weights}",
        f"extractor.inception.precision={precision}",
        *(["contact_sheet=0", "lint=false", "report=false"] if alone else []),
        f"store={folder / name}",
        f"name={name}",
    ]
    _, seconds = timed([sys.executable, str(ROOT / "run_eval.py"), *overrides], folder)
    rows: list[dict[str, Any]] = json.loads((folder / name / name / "results.json").read_text())["rows"]
    return {row["metric"]: row["value"] for row in rows}, seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--weights", type=Path)
    options = parser.parse_args()
    subset = min(1000, options.images)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        weights = options.weights
        if weights is None:
            from seeded_inception import write_weights

            weights = folder / "seeded.pth"
            write_weights(weights)
        for seed, name in enumerate("ab"):
            write_images(folder / name, options.images, options.size, seed, 70 - 20 * seed)
        print(f"2 x {options.images} PNGs of {options.size} px; torch-fidelity {version('torch-fidelity')}", flush=True)
        for run in range(options.repeats):
            theirs, peer = by_torch_fidelity(folder, weights, subset)
            print(f"torch-fidelity       {peer:8.1f} s", flush=True)
            for precision, alone in (("float32", True), ("bf16", True), ("bf16", False), ("float32", False)):
                mine, seconds = by_evalkit(folder, weights, subset, precision, alone, run)
                differences = ", ".join(f"{name} {abs(mine[name] / theirs[name] - 1):.1e}" for name in theirs)
                name = f"{precision} alone" if alone else precision
                print(
                    f"evalkit {name:14s}{seconds:8.1f} s  {peer / seconds:5.2f}x   differs by {differences}", flush=True
                )


if __name__ == "__main__":
    main()
