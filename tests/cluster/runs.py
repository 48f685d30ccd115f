"""A small real run, and what must be equal however many processes made it: samples, features and scores, to the bit."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
METRICS = ("fid_digits", "kid_digits", "precision_digits")
RUN = ["name=small", "model=[digits_dcgan]", "prompts=[digits]", f"metric=[{','.join(METRICS)}]", "num_samples=520"]
BOUND = 240  # seconds for a run; it takes about 20 on two quiet cores

Outcome = dict[str, str]


def command(store: Path, *more: str) -> list[str]:
    """A run with 520 samples in 3 shards, and a reference of 300 pictures in 2 chunks."""
    reference = store.parent / "reference"
    if not reference.exists():
        reference.mkdir()
        pixels = np.random.default_rng(3).integers(0, 256, (300, 32, 32, 3), dtype=np.uint8)
        for i in range(300):
            Image.fromarray(pixels[i]).save(reference / f"{i:03}.png")
    script = str(ROOT / "run_eval.py")
    return [script, *RUN, f"--reference={reference}", f"store={store}", "device=cpu", "report=false", *more]


def run(
    store: Path, *more: str, before: tuple[str, ...] = (sys.executable,), env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs it; `before` are a launcher's words, up to and without the script."""
    variables = {**(env or os.environ), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*before, *command(store, *more)], capture_output=True, text=True, timeout=BOUND, env=variables, cwd=ROOT
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    return done


def outcome(store: Path) -> Outcome:
    """What a run left: digests of the images and of the features' files, scores in hex."""
    left = {}
    for path in sorted(store.glob("samples/*/shards/*/*.png")):
        left[f"image {path.parts[-4]}/{path.name}"] = hashlib.sha256(path.read_bytes()).hexdigest()
    for path in sorted(store.glob("features/**/*.safetensors")):
        header, data = _parts(path)
        left[f"features {path.relative_to(store)}"] = hashlib.sha256(header + data).hexdigest()
    for row in json.loads((store / "small" / "results.json").read_text())["rows"]:
        if row["metric"] in METRICS:  # costs are measured anew by whoever makes an image
            values = [row["value"], row.get("stderr")]
            left[f"score {row['cell']} {row['metric']}"] = " ".join(
                "-" if v is None else float(v).hex() for v in values
            )
    assert not list(store.rglob(".tmp-*")), "something was left behind"
    return left


def _parts(path: Path) -> tuple[bytes, bytes]:
    """A safetensors file without its metadata, which may say who wrote it."""
    raw = path.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + size])
    header.pop("__metadata__", None)
    return json.dumps(header, sort_keys=True).encode(), raw[8 + size :]
