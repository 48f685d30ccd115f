"""Seeds of a sweep are replicates of a setting: one line, the mean, its spread, a standard error by prompt."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import numpy as np
import pytest
from fakes import MemorySource, random_images

from evalkit.config.compose import compose, resolve
from evalkit.errors import ConfigError
from evalkit.metric import Score, cluster_ids
from evalkit.pipeline import run
from evalkit.plan.plan import make_plan
from evalkit.results.seeds import Seeds, pool_scores
from evalkit.results.table import ResultTable


def score(values: list[float], **more: float) -> Score:
    return Score(statistics.fmean(values), len(values), statistics.stdev(values) / len(values) ** 0.5, tuple(values))


def joined(ids: list[list[int]]) -> list[int]:
    return [i if i >= 0 else i - at * len(own) for at, own in enumerate(ids) for i in own]


def test_a_prompt_is_one_cluster_under_all_seeds() -> None:
    rng = np.random.default_rng(0)
    prompt, draws = rng.normal(size=50), [0.3 * rng.normal(size=50) for _ in range(3)]
    parts = [score((prompt + noise).tolist()) for noise in draws]
    for texts, expected in (
        ([f"p{i}" for i in range(50)], (prompt + np.mean(draws, 0)).std(ddof=1) / 50**0.5),
        ([None] * 50, np.concatenate([prompt + noise for noise in draws]).std(ddof=1) / 150**0.5),
    ):
        ids = [cluster_ids(texts)] * 3
        found = pool_scores(parts, ids, joined(ids), raw=True)
        assert found.value == pytest.approx(statistics.fmean(part.value for part in parts if part.value is not None))
        assert found.stderr == pytest.approx(float(expected), rel=0.01)
        assert found.details["seed_sd"] == pytest.approx(statistics.stdev(part.value for part in parts))  # type: ignore[type-var]
        assert (found.n, found.clusters) == (150, 50 if texts[0] else 150)


def test_a_seed_without_a_score_leaves_the_setting_without_one() -> None:
    ids = [[0, 1], [0, 1]]
    found = pool_scores([score([1.0, 2.0]), Score(None, 2, note="why")], ids, [0, 1, 0, 1])
    assert (found.value, found.note, found.n) == (None, "why", 4)


def table(tmp_path: Path, *more: str) -> ResultTable:
    overrides = [
        "~experiment",
        "name=s",
        f"store={tmp_path}",
        "seed={sweep: [0, 1, 2]}",
        "model=[digits_dcgan]",
        "sampler=[]",
    ]
    overrides += [
        "prompts=[digits]",
        "num_samples=64",
        "reference=none",
        "metric=[is_digits]",
        "exclude=[]",
        "report=false",
    ]
    return run(make_plan(resolve(compose([*overrides, *more]))))


def test_chunks_are_the_seeds_own() -> None:
    a, b = (MemorySource(random_images(count, seed=count)) for count in (300, 20))
    seeds = Seeds("s", [a, b])
    assert list(seeds.chunks) == [range(256), range(256, 300), range(300, 320)]
    assert [seeds.chunk_digest(chunk) for chunk in seeds.chunks[1:]] == [
        a.chunk_digest(range(256, 300)),
        b.chunk_digest(range(20)),
    ]


def test_a_run_of_three_seeds_has_one_line_per_setting(tmp_path: Path) -> None:
    pooled, apart = table(tmp_path), table(tmp_path, "seeds=apart", "name=t")
    (cell,) = pooled.cells
    assert (cell, len(apart.cells)) == ("digits_dcgan", 3)
    row = next(row for row in pooled.rows if row.metric == "is_digits")
    values = [r.value for r in apart.rows if r.metric == "is_digits" and r.value is not None]
    assert row.value == pytest.approx(statistics.fmean(values))
    assert (row.seeds, row.n) == (3, 192)
    assert row.details["seed_sd"] == pytest.approx(statistics.stdev(values))
    text = (tmp_path / "s" / "table.md").read_text()
    assert "| seeds |" in text.splitlines()[0]
    assert "(seeds: " in text
    saved = json.loads((tmp_path / "s" / "results.json").read_text())
    assert next(r for r in saved["rows"] if r["metric"] == "is_digits")["seeds"] == 3
    lines = (tmp_path / "s" / "samples.csv").read_text().splitlines()
    assert len(lines) == 193
    with pytest.raises(ConfigError, match="seeds=together: give pooled"):
        table(tmp_path, "seeds=together")
