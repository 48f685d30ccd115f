"""Results folders of large grids for the report: cells x 23 metrics, made by hand without scoring."""

from __future__ import annotations

import itertools
import json
import random
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
from report_runs import CATEGORIES, _with, _write_csv

from evalkit.results.compare import compare
from evalkit.results.table import ResultTable, Row
from evalkit.results.thumbnails import BUDGET, NAME, Thumbnailer

N = 40
Axes = dict[str, tuple[Any, ...]]
SIXTY: Axes = {"model": ("net", "gan"), "sampler": ("ddim", "dpmpp_2m"), "guidance_scale": (1.0, 2.0, 4.0, 7.5, 12.0),
               "num_inference_steps": (8, 20, 50)}  # fmt: skip
FOUR_HUNDRED: Axes = {"model": ("net", "gan"), "sampler": ("ddim", "dpmpp_2m", "euler", "unipc"),
                      "guidance_scale": (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.5, 9.0, 12.0, 15.0),
                      "num_inference_steps": (4, 8, 20, 50, 100)}  # fmt: skip
SCALED = ("fid", "fid_clip", "fid_dino", "kid", "cmmd", "sfid", "is", "precision", "recall", "density", "coverage",
          "vendi", "authenticity", "memorisation")  # fmt: skip
HIGHER = {"is", "precision", "recall", "density", "coverage", "vendi", "authenticity"}
PER_SAMPLE = ("clip_score", "aesthetic", "image_reward", "pick_score")
COSTS = ("latency_p50", "latency_p95", "images_per_second", "nfe", "peak_memory_mb")


def write_big_run(out: Path, axes: Axes, samples: int = 24) -> Path:
    """A run of every combination of `axes` x 23 metrics into `out`; `samples` of each cell have pictures."""
    out.mkdir(parents=True, exist_ok=True)
    grid = [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
    names = ["{model}-{sampler}-guidance_scale_{guidance_scale:g}-num_inference_steps_{num_inference_steps}".format(**c)
             for c in grid]  # fmt: skip
    rng = random.Random(7)
    quality = [_quality(cell) for cell in grid]
    scores = {
        (name, metric): [60 + 20 * q + rng.gauss(0, 4) for _ in range(N)]
        for name, q in zip(names, quality, strict=True)
        for metric in PER_SAMPLE
    }
    rows = [row for cell, name, q in zip(grid, names, quality, strict=True) for row in _rows(cell, name, q, scores)]
    pairing = dict.fromkeys(names, "0123456789")
    comparisons, best = compare(rows, baseline=names[0], influences=scores, pairing=pairing)
    run = {"name": f"{len(names)} cells", "command": "python run_eval.py name=big", "baseline": names[0],
           "cells": {name: f"{number:064x}" for number, name in enumerate(names)}, "reference": "photos",
           "training": None, "pairing": pairing, "config": {"name": "big", "lint": True, "device": "auto"}}  # fmt: skip
    table = ResultTable(run, tuple(rows), (), tuple(comparisons), best, (), None)
    (out / "results.json").write_text(json.dumps(table.to_json()), encoding="utf-8")
    _write_samples(out, names, scores)
    _write_pictures(out, names, quality, samples)
    return out


def _quality(cell: dict[str, Any]) -> float:
    """From 0 to 1: a bow over guidance that rises with the steps."""
    bow = 1 - abs(cell["guidance_scale"] - 5) / 12
    return float(bow * (1 - 3 / (cell["num_inference_steps"] + 3)) * (1.0 if cell["model"] == "net" else 0.8))


def _rows(cell: dict[str, Any], name: str, q: float, scores: dict[tuple[str, str], list[float]]) -> list[Row]:
    rng = random.Random(name)
    settings = {key: cell[key] for key in ("guidance_scale", "num_inference_steps")}
    common: dict[str, Any] = {"cell": name, "model": cell["model"], "sampler": cell["sampler"], "prompts": "captions"}
    blank = Row(**common, settings=settings, seed=0, metric="", label="", value=None, stderr=None, n=5000,
                better="lower", protocol={}, protocol_hash="")  # fmt: skip
    rows = []
    for metric in SCALED:
        higher = metric in HIGHER
        value = (q if higher else 1.2 - q) * 50 + rng.gauss(0, 0.5)
        constants = {"estimator": "frechet distance of gaussians" if "fid" in metric else metric}
        protocol = {"constants": constants, "reference": {"n": 50000, "digest": "0" * 64}, "extractor": metric}
        label = metric.upper().replace("_", " ")
        rows.append(_with(blank, metric, label, value, 0.5, "higher" if higher else "lower", protocol))
    for metric in PER_SAMPLE:
        values = scores[name, metric]
        mean, spread = fmean(values), stdev(values) / N**0.5
        rows.append(_with(blank, metric, metric.replace("_", " "), mean, spread, "higher", {}))
    steps = cell["num_inference_steps"]
    for metric, value in zip(COSTS, (9.0 * steps, 11.0 * steps, 90 / steps, steps, 4000.0), strict=True):
        better = "higher" if metric == "images_per_second" else "lower"
        rows.append(_with(blank, metric, metric.replace("_", " "), value, None, better, {"device": "cuda"}))
    return [replace(row, low=row.value - 1.96 * row.stderr, high=row.value + 1.96 * row.stderr)
            if row.stderr and row.value is not None else row for row in rows]  # fmt: skip


def _write_samples(out: Path, names: list[str], scores: dict[tuple[str, str], list[float]]) -> None:
    lines: list[list[Any]] = [["cell", "index", "file", "prompt", "category", *PER_SAMPLE]]
    maps: list[list[Any]] = [["cell", "metric", "category", "mean", "stderr", "n"]]
    for name in names:
        for i in range(N):
            prompt = f"a photograph of {'a cat' if i % 2 == 0 else 'a person'} in the style of number {i}"
            values = [f"{scores[name, metric][i]:.6g}" for metric in PER_SAMPLE]
            lines.append([name, i, str(picture(out, name, i)), prompt, CATEGORIES[i % 2], *values])
        for metric in PER_SAMPLE:
            for start, category in enumerate(CATEGORIES):
                values_of = scores[name, metric][start::2]
                spread = stdev(values_of) / len(values_of) ** 0.5
                maps.append([name, metric, category, fmean(values_of), spread, len(values_of)])
    _write_csv(out / "samples.csv", lines)
    _write_csv(out / "categories.csv", maps)


def picture(out: Path, name: str, index: int) -> Path:
    return out.parent / "samples" / name / f"{index:06d}.png"


def _write_pictures(out: Path, names: list[str], quality: list[float], samples: int) -> None:
    """Thumbnails of disks on a gradient, noisier where a cell is worse; and of the first 2 the full-size files."""
    from PIL import Image

    rng = np.random.default_rng(5)
    noise, rest = rng.normal(0, 60, (256, 256, 3)), np.linspace(0, 200, 256)
    y, x = np.mgrid[:256, :256]
    thumbnailer = Thumbnailer(images=samples * len(names), budget=BUDGET)
    images: dict[str, dict[int, Any]] = {name: {} for name in names}
    for i in range(samples):
        disk = ((x - 60 - 6 * i) ** 2 + (y - 128) ** 2 < 3600)[..., None]
        ground = np.where(disk, (250, 180 - 5 * i, 60), rest[:, None, None] * (0.4, 0.6, 1.0))
        for name, q in zip(names, quality, strict=True):
            if thumbnailer.used >= BUDGET:
                continue
            pixels = np.clip(ground + noise * (1 - q), 0, 255).astype(np.uint8)
            images[name][i] = asdict(thumbnailer.make(pixels))
            if i < 2:
                path = picture(out, name, i)
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path, compress_level=1)
    (out / NAME).write_text(json.dumps({"mark": "", "images": images}), encoding="utf-8")
    Image.new("RGB", (700, 400), (200, 130, 30)).save(out / "reference.png")
