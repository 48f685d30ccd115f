"""Real images in the table, multiples of their distance, what is said of them, and a copy of the training set."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gate_fakes import fid, row
from options import option

from evalkit import pipeline
from evalkit.config.schema import RunConfig
from evalkit.digits.data import reference_images
from evalkit.errors import ConfigError
from evalkit.plan.plan import make_plan
from evalkit.results.headline import winners
from evalkit.results.real_floor import with_best_multiples, with_real
from evalkit.results.real_text import REAL
from evalkit.results.stats import fieller
from evalkit.results.table import ResultTable, Row

ABOUT = {"kind": "split", "of": "the reference", "seed": 2020, "left": 900, "images": 100}


def tabled(real: Row, *rows: Row) -> ResultTable:
    return with_real(ResultTable({"name": "t"}, rows), [real], ["fid"], ABOUT, 0.95)


def real(value: float, stderr: float | None, **more: Any) -> Row:
    return row(REAL, "fid", value, stderr, 100, "lower", **more)


def within(score: Row, value: float) -> bool:
    """Whether a score's interval holds a value."""
    return score.low is not None and score.high is not None and score.low < value < score.high


def test_a_multiple_is_the_distance_by_the_floors_with_both_errors() -> None:
    table = tabled(real(4.0, 0.2), fid("a", 10.0, 0.5), fid("b", 4.4, 0.2))
    a, b, own = (r for r in table.rows if r.metric == "fid/floor")
    assert (a.value, a.label, a.cell, own.cell) == (2.5, "FID / floor", "a", REAL)
    assert a.stderr == pytest.approx(2.5 * math.hypot(0.5 / 10, 0.2 / 4))  # the delta method
    assert within(a, 2.5)
    assert (a.low or 0) + (a.high or 0) > 5  # Fieller's interval leans upwards
    assert within(b, 1)  # as near as real images
    assert (own.value, own.stderr, own.low) == (1.0, None, None)
    assert [r.metric for r in table.rows[:2]] == ["fid", "fid/floor"]  # side by side in the table
    assert a.protocol_hash != table.rows[0].protocol_hash


def test_fiellers_interval_covers_the_ratio_where_the_delta_methods_does_not_lean() -> None:
    rng = np.random.default_rng(0)
    n, truth, reach = 4000, (10.0, 4.0), 1.959964
    above = rng.normal(truth[0], 1.0, n)
    below = rng.normal(truth[1], 0.8, n)
    ends = [fieller((x, 1.0), (y, 0.8), reach) for x, y in zip(above, below, strict=True)]
    known = [e for e in ends if e is not None]
    assert len(known) > 0.99 * n
    covered = sum(low <= 2.5 <= high for low, high in known) / n
    assert 0.94 <= covered <= 0.96
    assert fieller((1.0, 0.1), (1.0, 0.6), reach) is None


@pytest.mark.parametrize(
    ("floor", "words"),
    [(real(0.1, 0.2), "0.1 ± 0.2, which is not surely above 0"), (real(-0.1, None), "-0.1, which is not surely")],
)
def test_what_may_be_zero_is_no_measure(floor: Row, words: str) -> None:
    table = tabled(floor, fid("a", 10.0))
    assert [r.metric for r in table.rows] == ["fid", "fid"]
    assert words in table.footnotes()[-1]


def test_only_what_shares_the_floors_protocol_is_measured_by_it() -> None:
    table = tabled(real(4.0, 0.2), fid("a", 10.0, 0.5), fid("b", 9.0, 0.5, n=200), fid("c", None))
    assert [r.cell for r in table.rows if r.metric == "fid/floor"] == ["a", REAL]


def test_without_errors_there_is_a_multiple_and_none_of_it() -> None:
    table = tabled(real(4.0, None), fid("a", 10.0, 0.5))
    a = table.rows[1]
    assert (a.value, a.stderr, a.low) == (2.5, None, None)


def test_real_images_are_never_the_best() -> None:
    table = tabled(real(1.0, 0.2), fid("a", 10.0), fid("b", 9.0))
    column = table.columns[0]
    assert [r.cell for r in column.ranked] == ["b", "a"]
    assert with_best_multiples({"fid": ["b"]}, table) == {"fid": ["b"], "fid/floor": ["b"]}


# -- a run


def folders(folder: Path) -> dict[str, Path]:
    """Disjoint parts of the digits as arrays; `copies` are images of `training`."""
    pixels = np.ascontiguousarray(reference_images()[0].transpose(0, 2, 3, 1))  # NCHW -> NHWC
    order = np.random.default_rng(0).permutation(len(pixels))
    parts = {"training": order[:160], "copies": order[:160], "other": order[160:320], "reference": order[320:1000]}
    for name, chosen in parts.items():
        np.save(folder / f"{name}.npy", pixels[chosen])
    np.save(folder / "upside_down.npy", pixels[parts["other"], ::-1])
    return {path.stem: path for path in folder.glob("*.npy")}


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ResultTable]:
    folder = tmp_path_factory.mktemp("real")
    paths = folders(folder)

    def of(kind: str, name: str) -> dict[str, Any]:
        return option(*kind.split("/"), path=str(paths[name]))

    config = RunConfig(
        **{"model": {name: of("model/folder", name) for name in ("copies", "upside_down")}},
        **{"reference": {"folder": of("reference/folder", "reference")}, "floor": "split"},
        **{"training": {"folder": of("reference/folder", "training")}},
        metric={n: option("metric", n) for n in ("fid_digits", "nearest_training_digits", "authpct_digits")},
        extractor={"digits": option("extractor", "digits")},
        gate={"near": {"rules": [{"metric": "fid_digits/floor", "max": 1.7}]}},
        **{"store": str(folder / "runs"), "name": "run", "device": "cpu", "contact_sheet": 0, "map": {"method": None}},
    )
    return folder, pipeline.run(make_plan(config))


def test_a_copy_of_the_training_set_is_at_the_floor_and_caught_by_memorisation(ran: tuple[Path, ResultTable]) -> None:
    _, table = ran
    rows = {(r.cell, r.metric): r for r in table.rows}
    copy = rows["copies", "fid_digits/floor"]
    assert within(copy, 1)
    turned = rows["upside_down", "fid_digits/floor"]
    assert (turned.low or 0) > 1.5
    assert rows["copies", "nearest_training_digits"].value == 1.0
    assert rows["copies", "authpct_digits"].value == 0.0
    assert (rows[REAL, "nearest_training_digits"].value or 0.0) < 0.1
    assert (rows[REAL, "authpct_digits"].value or 0.0) > 40
    assert rows[REAL, "fid_digits"].n == rows["copies", "fid_digits"].n == 160
    assert rows["copies", "fid_digits"].protocol["reference"]["n"] == 680 - 160


def test_it_stands_in_every_file_and_the_gate_judges_by_it(ran: tuple[Path, ResultTable]) -> None:
    folder, table = ran
    out = folder / "runs" / "run"
    data = json.loads((out / "results.json").read_text())
    assert data["run"]["floor"]["left"] == 520
    assert ResultTable.load(out / "results.json").rows == table.rows
    with (out / "table.csv").open() as file:
        lines = {line["cell"]: line for line in csv.DictReader(file)}
    assert float(lines["copies"]["fid_digits/floor"]) == table.value("copies", "fid_digits/floor")
    assert lines[REAL]["fid_digits/floor"] == "1.0"
    text = (out / "table.md").read_text()
    assert "FID [digits] / floor ↓" in text
    assert "160 images of" in text
    assert "held out (seed 2020)" in text
    page = (out / "report.html").read_text()
    assert REAL in page
    assert "2 cells, 3 metrics of quality" in page
    assert winners(table)[0].column.metric == "fid_digits"
    assert not any(winner.column.metric.endswith("/floor") for winner in winners(table))
    assert not any(c.cell == REAL or c.metric.endswith("/floor") for c in table.comparisons)
    assert table.gate is not None
    assert {r["cell"]: r["status"] for r in table.gate["results"]} == {"copies": "pass", "upside_down": "fail"}


def test_a_second_run_computes_nothing(ran: tuple[Path, ResultTable], monkeypatch: pytest.MonkeyPatch) -> None:
    from evalkit.features.feature_pass import FeaturePass

    monkeypatch.setattr(FeaturePass, "compute", lambda *_: pytest.fail("features are computed again"))
    _, table = ran
    plan = make_plan(RunConfig(**table.run["config"]))
    assert pipeline.run(plan).rows == table.rows


def test_a_gate_without_a_floor_says_what_is_missing() -> None:
    from evalkit.gate import make_gates

    with pytest.raises(ConfigError, match="this run has no floor to measure fid by: give floor=split or floor=DIR"):
        make_gates({"g": {"rules": [{"metric": "fid/floor", "max": 2}]}}, [], {"fid": None})
