"""Results folders for the report's tests: made by hand, in milliseconds, with what a real run's folder holds."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from html.parser import HTMLParser
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np

from evalkit.results.compare import compare
from evalkit.results.table import ResultTable, Row
from evalkit.results.thumbnails import BUDGET, NAME, Thumbnailer
from evalkit.utils.files import sha256_json

SETTINGS = ((4, 4), (4, 8), (1, 8))  # guidance, steps: two swept axes
CATEGORIES = ("animals", "people")
N = 30

HOSTILE = (
    "</script><script>window.hit=1</script>",
    '"><img src=x onerror="window.hit=1"><x-evil onmouseover=alert(1)>',
    "' onfocus='window.hit=1' autofocus x='",
    "<!-- --><svg onload=window.hit=1>{{ 7*7 }}{% raw %}${7*7}",
    "مرحبا \u202eright to left\u202c שלום",
    "\U0001f9ea\U0001f468\u200d\U0001f469\u200d\U0001f467 emoji \x00\x07\x1b[31m control \ufffe no character \x85",
    "long" * 2500,
    "http://example.com/x.png javascript:window.hit=1 |a|b| \\textbf{x} $x^2$ %",
)
HOSTILE_MARK = "x-evil"


@dataclass(frozen=True)
class RunOptions:
    """What a test may change of a run: `text` passes every name, prompt, note and label through."""

    text: Callable[[str], str] = lambda text: text
    baseline: bool = False
    gate: dict[str, Any] | None = None
    lint: tuple[dict[str, Any], ...] = ()
    notes: tuple[str, ...] = ()
    cells: int = 3


def hostile() -> Callable[[str], str]:
    """Appends one of the hostile texts to each text, by turns; the same text always gets the same."""
    turn: dict[str, str] = {}
    return lambda text: turn.setdefault(text, f"{text} {HOSTILE[len(turn) % len(HOSTILE)]}")


def write_run(out: Path, options: RunOptions | None = None) -> Path:
    """Writes a run of `options.cells` cells into `out`: results.json and the files next to it; returns `out`."""
    options = options or RunOptions()
    out.mkdir(parents=True, exist_ok=True)
    names = [options.text(f"net-ddim-guidance_scale_{g}-num_inference_steps_{s}") for g, s in _settings(options.cells)]
    clip = {name: _scores(number) for number, name in enumerate(names)}
    rows = [row for number, name in enumerate(names) for row in _rows(options, number, name, clip[name])]
    pairing = dict.fromkeys(names, "0123456789")
    influences = {(name, "clip_score_x"): values for name, values in clip.items()}
    baseline = names[1] if options.baseline else None
    comparisons, best = compare(rows, baseline=baseline, influences=influences, pairing=pairing)
    run = {
        "name": options.text("a run"),
        "command": options.text("python run_eval.py name=a"),
        "cells": {name: f"{number:064x}" for number, name in enumerate(names)},
        "reference": options.text("photos"),
        "training": None,
        "baseline": baseline,
        "python": "3.11.7",
        "platform": "Linux",
        "store": str(out.parent),
        "pairing": pairing,
        "versions": {"torch": "2.15.0"},
        "seconds": {"generate": 1.0},
        "config": {"name": "a", "lint": True, "device": "auto", "prompts": {"text": options.text("a prompt")}},
    }
    table = ResultTable(run, tuple(rows), options.notes, tuple(comparisons), best, options.lint, options.gate)
    (out / "results.json").write_text(json.dumps(table.to_json()), encoding="utf-8")  # ascii: surrogates stay
    _write_samples(out, options, names, clip)
    _write_thumbnails(out, names)
    return out


def set_apart(out: Path, metric: str, number: int, value: float) -> None:
    """Gives a cell's score another value and protocol, and compares anew."""
    table = ResultTable.load(out / "results.json")
    cell = table.cells[number]
    other = {"value": value, "protocol": {"n": 7}, "protocol_hash": "other"}
    rows = [replace(r, **other) if (r.cell, r.metric) == (cell, metric) else r for r in table.rows]  # type: ignore[arg-type]
    comparisons, best = compare(rows, baseline=None, influences={}, pairing={})
    changed = replace(table, rows=rows, comparisons=comparisons, best=best)
    (out / "results.json").write_text(json.dumps(changed.to_json()), encoding="utf-8")


def _settings(cells: int) -> list[tuple[float, int]]:
    return [*SETTINGS, *((9.0 + extra, 8) for extra in range(cells))][:cells]


def _scores(number: int) -> list[float]:
    """Each cell a little worse than the one before; cell 2's sample 17 is far worse."""
    rng = random.Random(number)
    values = [80 - 3 * number + rng.gauss(0, 1) for _ in range(N)]
    if number == 2:
        values[17] = 5.0
    return values


def _rows(options: RunOptions, number: int, name: str, clip: list[float]) -> Iterator[Row]:
    guidance, steps = _settings(options.cells)[number]
    blank = Row(
        cell=name,
        model=options.text("net"),
        sampler=options.text("ddim"),
        prompts=options.text("captions"),
        settings={"guidance_scale": guidance, "num_inference_steps": steps},
        seed=0,
        metric="",
        label="",
        value=None,
        stderr=None,
        n=N,
        better="lower",
        protocol={},
        protocol_hash="",
    )
    frechet = {"constants": {"estimator": "frechet distance of gaussians"}, "reference": {"n": 500}}
    note = options.text("subsets from 5 samples on") if number == 0 else None
    fds = {f"fd@{n}": 5.0 * number + 10 + 100 / n for n in (10, 20, 30)} | {"slope": 100.0}
    yield _with(blank, "fid_x", "FID", 10.0 + 5 * number, 1.0, "lower", frechet)
    yield replace(
        _with(blank, "fid_infinity_x", "FID-infinity", 10.0 + 5 * number, None, "lower", frechet),
        details=fds,
        note=note,
    )
    yield _with(blank, "clip_score_x", options.text("CLIP score"), fmean(clip), stdev(clip) / N**0.5, "higher", {})
    yield _with(blank, "precision_x", "precision", 0.5 + 0.1 * number, 0.02, "higher", {})
    yield _with(blank, "recall_x", "recall", 0.9 - 0.1 * number, 0.02, "higher", {})
    yield _with(blank, "latency_p50", "latency p50 [ms]", 10.0 * (3 - number % 3), None, "lower", {"device": "cpu"})
    yield _with(blank, "nfe", "NFE", float(steps), None, "lower", {})


def _with(row: Row, metric: str, label: str, value: float, stderr: float | None, better: str, protocol: Any) -> Row:
    return replace(
        row,
        metric=metric,
        label=label,
        value=value,
        stderr=stderr,
        better=better,
        protocol={"metric": metric, **protocol},
        protocol_hash=sha256_json({"metric": metric, **protocol})[:10],
    )


def _write_samples(out: Path, options: RunOptions, names: list[str], clip: dict[str, list[float]]) -> None:
    lines: list[list[Any]] = [["cell", "index", "file", "prompt", "category", "fid_x.influence", "clip_score_x"]]
    for number, name in enumerate(names):
        for i in range(N):
            path = f"/store/samples/cell{number}/{i:06d}.png"
            category = options.text(CATEGORIES[i % 2])
            lines.append([name, i, path, options.text(f"prompt {i}"), category, 0.5, f"{clip[name][i]:.6g}"])
    _write_csv(out / "samples.csv", lines)
    lines = [["cell", "metric", "category", "mean", "stderr", "n"]]
    for name in names:
        for start, category in enumerate(CATEGORIES):
            values = clip[name][start::2]
            spread = stdev(values) / len(values) ** 0.5
            lines.append([name, "clip_score_x", options.text(category), fmean(values), spread, len(values)])
    _write_csv(out / "categories.csv", lines)


def _write_thumbnails(out: Path, names: list[str]) -> None:
    from PIL import Image

    thumbnailer = Thumbnailer(images=N * len(names), budget=BUDGET)
    images = {
        name: {i: asdict(thumbnailer.make(np.full((8, 8, 3), colour(number, i), np.uint8))) for i in range(N)}
        for number, name in enumerate(names)
    }
    (out / NAME).write_text(json.dumps({"mark": "", "images": images}), encoding="utf-8")
    Image.new("RGB", (70, 40), (200, 30, 30)).save(out / "reference.png")


def colour(number: int, index: int) -> tuple[int, int, int]:
    """Of all pixels of a cell's sample."""
    return 40 * number % 256, 8 * index, 120


def _write_csv(path: Path, lines: list[list[Any]]) -> None:
    with path.open("w", encoding="utf-8", errors="replace", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(lines)


def finding(text: Any = str) -> dict[str, Any]:
    texts = {"message": "4 files are equal", "effect": "precision is too high", "where": "A cell", "kind": "duplicates"}
    return {
        **{key: text(value) for key, value in texts.items()},
        "severity": "error",
        "count": 4,
        "files": [text("a.png")],
        "of": 30,
    }


def gate(text: Any = str, status: str = "fail") -> dict[str, Any]:
    base = {"cell": text("net"), "metric": "fid_x", "label": text("FID"), "kind": "max", "limit": 12.0, "value": 10.0}
    results = [
        {**base, "status": "pass", "reason": text("cleared")},
        {**base, "status": status, "reason": text("at least 13"), "rule": text("fid max 12"), "stderr": 1.0},
        {**base, "status": "fail", "reason": "known", "waived": {"reason": text("later"), "until": "2030-01-31"}},
        {**base, "status": "inconclusive", "reason": "near", "needed_n": 900, "kind": "no_worse_than", "stderr": 1.0},
    ]
    return {"status": status, "results": results, "notes": [text("a waiver has expired")]}


def change(out: Path, **parts: Any) -> None:
    """Replaces parts of results.json."""
    path = out / "results.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **parts}))


class Page(HTMLParser):
    """A page as a browser's parser sees it: its elements, and its text without scripts and styles."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self._words: list[str] = []
        self._skipped = 0
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.text = " ".join("".join(self._words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._skipped += tag in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        self._skipped -= tag in ("script", "style")

    def handle_data(self, data: str) -> None:
        if not self._skipped:
            self._words.append(data)

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]
