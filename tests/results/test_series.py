"""A series of checkpoints: the best step, what cannot be told from it, where gains end; how often that errs."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from finished_run import make_table, row

from evalkit.results import series
from evalkit.results.headline import sentences, series_lines
from evalkit.results.series import find_series, group_steps, summary, trend
from evalkit.results.table import Row


def training(means: list[float], noise: float = 0.3, n: int = 200, seed: int = 0) -> tuple[list[Row], dict[str, Any]]:
    """Rows of one metric (higher is better) at steps 10, 20, ..., whose samples share most of what they vary by."""
    generator = np.random.default_rng(seed)
    shared = generator.normal(size=n)
    rows, influences = [], {}
    for number, mean in enumerate(means):
        values = shared + mean + noise * generator.normal(size=n)
        cell, step = f"g-step_{10 * (number + 1)}", 10 * (number + 1)
        error = float(values.std(ddof=1) / n**0.5)
        made = row(cell, "score", float(values.mean()), error, settings={"step": step}, n=n, better="higher")
        rows.append(made)
        influences[cell, "score"] = values.tolist()
    pairing = {one.cell: "same" for one in rows}
    return rows, {"influences": influences, "pairing": pairing, "clusters": {}}


def test_the_best_step_its_ties_and_where_gains_end() -> None:
    rows, about = training([0.0, 1.0, 2.0, 2.0, 2.0])
    [found] = find_series(rows, **about)
    along = found["trends"]["score"]
    assert found["steps"] == {f"g-step_{step}": step for step in (10, 20, 30, 40, 50)}
    assert {along["best"], *along["ties"]} == {"g-step_30", "g-step_40", "g-step_50"}
    assert along["plateau"] == "g-step_30"
    rising, about = training([0.0, 1.0, 2.0, 3.0])
    assert trend(rising, **about) == {"best": "g-step_40", "ties": [], "plateau": "g-step_40"}
    falling, about = training([3.0, 1.0, 0.0])
    assert trend(falling, **about) == {"best": "g-step_10", "ties": [], "plateau": "g-step_10"}
    lower, about = training([0.0, -1.0, -1.0])
    unsure = [replace(one, stderr=None) for one in rows]
    none = trend(unsure, influences={}, pairing={}, clusters={})
    assert none["plateau"] is None
    assert summary({one.cell: 1 for one in rows}, none).endswith("nobody can tell where gains end")
    assert trend([replace(one, better="lower") for one in lower], **about)["plateau"] == "g-step_20"


def test_what_is_said() -> None:
    steps = {"a": 10, "b": 20, "c": 30}
    said = summary(steps, {"best": "c", "ties": ["b"], "plateau": "b"})
    assert said == "best at 30, not distinguishable from it: 20; no significant gain after 20"
    said = summary(steps, {"best": "c", "ties": [], "plateau": "c"})
    assert said == "best at 30; still significantly better at the last step"
    rows, about = training([0.0, 2.0, 2.0])
    table = replace(make_table(), rows=tuple(rows), gate=None)
    table = replace(table, run={**table.run, "series": find_series(rows, **about)})
    [line] = series_lines(table)
    assert line == "g-ddim, SCORE by step: best at 20, not distinguishable from it: 30; no significant gain after 20."
    assert sentences(table)[-1] == line


def test_all_pairs_at_once_are_what_one_by_one_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, about = training([0.0, 0.05, 0.1, 0.1], n=60)
    about["clusters"] = {one.cell: [i // 2 for i in range(60)] for one in rows}
    together = series._pairwise(rows, about["influences"], about["pairing"], about["clusters"])
    monkeypatch.setattr(series, "_aligned", lambda *_: None)
    apart = series._pairwise(rows, about["influences"], about["pairing"], about["clusters"])
    assert together.keys() == apart.keys()
    assert len(together) == 6
    for pair, p in together.items():
        assert p == pytest.approx(apart[pair], rel=1e-9)


def test_of_equal_steps_the_first_is_where_gains_end() -> None:
    """Of 200 series of 6 equal checkpoints, at most 5 % and its chance spread may show a gain that is none."""
    wrong = sum(
        trend(rows, **about)["plateau"] != "g-step_10"
        for rows, about in (training([0.0] * 6, n=80, seed=seed) for seed in range(200))
    )
    assert wrong <= 17  # P(X > 17) of 200 at 5 % is 0.01


def test_series_are_told_apart_by_what_else_they_differ_in() -> None:
    def at(step: float | None, **other: Any) -> Row:
        settings = {**({} if step is None else {"lora.step": step}), **other}
        name = "-".join(f"{k}_{v}" for k, v in settings.items())
        return row(f"ldm-{name}", "fid", 1.0, 0.1, settings=settings, sampler="ddim")

    rows = [at(step, guidance_scale=g) for g in (1, 4) for step in (200, 100)] + [at(None), at(5, guidance_scale=9)]
    assert group_steps(rows) == {
        f"ldm-ddim-guidance_scale_{g}": {f"ldm-lora.step_{step}-guidance_scale_{g}": step for step in (100, 200)}
        for g in (1, 4)
    }
    assert find_series([at(None), at(5)], influences={}, pairing={}, clusters={}) == []
