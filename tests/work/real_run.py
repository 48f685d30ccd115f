"""A run that is small and real: three cells of shards, a reference, all kinds of metrics; and all that it leaves."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from evalkit.config.compose import compose, resolve
from evalkit.plan.plan import Plan, make_plan
from evalkit.results.table import ResultTable

METRICS = ("fid_digits", "kid_digits", "precision_digits", "recall_digits", "ssim", "ppl_digits")
WORDS = (
    *("name=real", "prompts=[digits]", f"metric=[{','.join(METRICS)}]", "metric.ppl_digits.num_pairs=1000"),
    *("num_samples=600", "reference=folder", "device=cpu", "contact_sheet=0"),
)
THREE = (
    *("model=[digits_dcgan,digits_ldm]", "sampler=[ddim]", "sampler.ddim.num_inference_steps={sweep: [2, 3]}"),
    "baseline={num_inference_steps: 3}",
)
GAN = ("model=[digits_dcgan]", "seed={sweep: [1, 2]}", "seeds=apart", "baseline={seed: 1}")  # two cells, quickly made
UNITS = {"shard": 9, "extract": 3, "measure": 3, "score": 3}  # of the three cells


def command(folder: Path, *more: str, px: int = 192) -> list[str]:
    """A run's words, with those of its cells (`THREE`, `GAN`) in `more`; its store is `folder`/runs.

    Its reference is `folder`/reference: 600 pictures of so many pixels in 3 chunks, where there is none yet.
    """
    reference = folder / "reference"
    if not reference.exists():
        reference.mkdir(parents=True)
        draw = np.random.default_rng(0)
        for i in range(600):
            Image.fromarray(draw.integers(0, 256, (px, px, 3), dtype=np.uint8)).save(reference / f"{i:03}.png")
    return [*WORDS, f"reference.folder.path={reference}", f"store={folder / 'runs'}", *more]


def plan_of(folder: Path, engine: Any = None, *more: str) -> Plan:
    plan = make_plan(resolve(compose(command(folder, "report=false", *more))))
    return plan if engine is None else replace(plan, engine=engine)


def scores_of(table: ResultTable) -> dict[str, str]:
    """All scores and their errors in hex; where there is none, why."""
    scores = {}
    for row in table.rows:
        if row.metric in METRICS:
            values = [value if value is None else value.hex() for value in (row.value, row.stderr)]
            scores[f"{row.cell} {row.metric}"] = f"{values[0]} {values[1]} {row.note}"
    return scores


def files_of(store: Path) -> dict[str, str]:
    """Digests of a store's images, features and scores, by path; of features without what is said of them."""
    left = {}
    for path in sorted(store.rglob("*")):
        name = str(path.relative_to(store))
        if name.startswith("samples/") and path.suffix == ".png":
            left[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        elif name.startswith("features/") and path.is_file():
            left[name] = _arrays(path.read_bytes())
        elif name.startswith("scores/"):
            left[name] = ""  # what they are, the table says; how long they took is in them
    return left


def _arrays(raw: bytes) -> str:
    """The digest of a safetensors file but for its metadata, which may say who wrote it."""
    size = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + size])
    header.pop("__metadata__", None)
    return hashlib.sha256(json.dumps(header, sort_keys=True).encode() + raw[8 + size :]).hexdigest()


def litter(folder: Path) -> list[str]:
    """What should not be there once all is done: temporary names, probes."""
    return [str(path.relative_to(folder)) for name in (".tmp-*", "probe-*") for path in folder.rglob(name)]
