"""A run's files next to the table: samples, categories, comparisons, nearest training images, shared statistics."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command import run_evalkit

from evalkit import pipeline
from evalkit.config.compose import compose, resolve
from evalkit.errors import ConfigError
from evalkit.plan.plan import make_plan
from evalkit.results.feature_map import read_map
from evalkit.results.table import ResultTable
from evalkit.results.thumbnails import read_thumbnails

GAN = (
    "experiment=digits",
    "model=[digits_dcgan]",
    "sampler=[]",
    "prompts=[]",
    "exclude=[]",
    "contact_sheet=4",
    "device=cpu",
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for the tests that make files of scores: the features of the 5,000 digits are made once, and 130 samples."""
    return tmp_path_factory.mktemp("store")


def run(store: Path, name: str, *overrides: str) -> ResultTable:
    config = resolve(compose([*GAN, f"name={name}", f"store={store}", "num_samples=130", *overrides]))
    return pipeline.run(make_plan(config))


def lines(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_two_seeds_are_compared_and_each_sample_is_kept(store: Path) -> None:
    table = run(
        store,
        "seeds",
        "prompts=[digits]",
        "seed={sweep: [0, 1]}",
        "seeds=apart",
        "metric=[fid_digits,precision_digits]",
        "baseline={seed: 0}",
    )
    assert {c.metric for c in table.comparisons} >= {"fid_digits", "precision_digits"}
    fid = next(c for c in table.comparisons if c.metric == "fid_digits")
    assert fid.stderr is not None
    assert not fid.paired  # other seeds are other samples
    rows = lines(store / "seeds" / "samples.csv")
    assert len(rows) == 260
    assert {"fid_digits.influence", "precision_digits", "category"} <= rows[0].keys()
    value = table.value(rows[0]["cell"], "precision_digits")
    cell = [float(row["precision_digits"]) for row in rows if row["cell"] == rows[0]["cell"]]
    assert np.mean(cell) == pytest.approx(value, abs=1e-6)
    categories = [row for row in lines(store / "seeds" / "categories.csv") if row["cell"] == rows[0]["cell"]]
    assert sum(int(row["n"]) for row in categories) == 130
    assert "not distinguishable" in (store / "seeds" / "comparison.md").read_text()
    assert {cell for cell, _ in read_thumbnails(store / "seeds" / "thumbnails.json")} == set(table.cells)
    found = read_map(store / "seeds" / "map.json")
    assert {cell: sum(points.counts) for cell, points in found.cells.items()} == dict.fromkeys(table.cells, 130)


def test_statistics_are_shared_and_give_the_same_distance(store: Path, tmp_path: Path) -> None:
    stats = tmp_path / "stats"
    first = run(store, "saved", "metric=[fid_digits]", f"save_stats={stats}")
    given = ("reference=stats", f"reference.stats.path={stats / 'fid_digits.npz'}")
    second = run(store, "again", "metric=[fid_digits]", *given)
    values = [table.value(table.cells[0], "fid_digits") for table in (first, second)]
    assert values[1] == pytest.approx(values[0], rel=1e-7)
    with pytest.raises(ConfigError, match="needs the reference images themselves"):
        run(store, "kid", "metric=[kid_digits]", *given)
    with pytest.raises(ConfigError, match=r"of digits/features, but digits/logits"):
        run(store, "frechet", "metric=[frechet]", "metric.frechet.features=digits/logits", *given)


def test_an_earlier_run_stands_beside_and_is_not_ranked_when_its_n_differs(store: Path) -> None:
    run(store, "earlier", "metric=[fid_digits]")
    earlier = f"add_results=[{store / 'earlier' / 'results.json'}]"
    table = run(store, "later", "metric=[fid_digits]", "num_samples=140", earlier)
    assert len(table.cells) == 2
    assert not [c for c in table.comparisons if c.metric == "fid_digits"]
    assert any("n is 130, not 140" in note or "n is 140, not 130" in note for note in table.footnotes())


def test_the_nearest_training_images_are_shown(store: Path) -> None:
    table = run(store, "nearest", "metric=[nearest_training_digits]", "reference@training=digits")
    assert table.value(table.cells[0], "nearest_training_digits") is not None
    found = lines(store / "nearest" / "nearest.csv")
    assert len(found) == 32
    assert len(list((store / "nearest" / "nearest").glob("*.png"))) == 1
    with pytest.raises(ConfigError, match="reference@training=folder"):
        run(store, "nowhere", "metric=[nearest_training_digits]")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("metric=[psnr]",), "give baseline="),
        (("metric=[fid_digits]", "baseline=digits_dcgn"), "Did you mean 'digits_dcgan'"),
        (("metric=[fid_digits]", "baseline={model: nobody}"), "picks 0 cells"),
        (("metric=[feature_diversity_digits]", "metric.feature_diversity_digits.pairs=promt"), "Did you mean 'prompt'"),
        (("metric=[fid_digits]", "add_results=[nowhere.json]"), "nowhere.json"),
    ],
)
def test_bad_comparisons_are_refused_before_any_work(tmp_path: Path, overrides: Any, message: str) -> None:
    from evalkit.errors import EvalkitError

    with pytest.raises(EvalkitError, match=message):
        run(tmp_path, "t", *overrides)
    assert not (tmp_path / "samples").exists()


def test_a_metric_that_cannot_score_leaves_the_others_and_exits_with_1(tmp_path: Path, store: Path) -> None:
    """MS-SSIM wants 176 pixels and gets 32: FID is written, the reason stands in the cell, no gate passes by it."""
    gates = tmp_path / "configs" / "gate"
    gates.mkdir(parents=True)
    (gates / "diverse.yaml").write_text("diverse:\n  rules: [{metric: ms_ssim_diversity, max: 1}]\n")
    given = [*GAN, "name=broken", f"store={store}", "num_samples=130"]
    given += ["metric=[fid_digits,ms_ssim_diversity]", "metric.ms_ssim_diversity.pairs=any"]
    done = run_evalkit(*given, cwd=tmp_path)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("evalkit: ms_ssim_diversity could not score 1 of 1 cells: MS-SSIM over 5 scales")
    table = ResultTable.load(store / "broken" / "results.json")
    rows = {row.metric: row for row in table.rows}
    assert rows["fid_digits"].value is not None
    assert rows["ms_ssim_diversity"].broken
    assert "176" in (store / "broken" / "table.md").read_text()
    gated = run_evalkit(*given, "gate=[diverse]", "--config-dir", str(tmp_path / "configs"), cwd=tmp_path)
    assert gated.returncode == 3
    assert "gate diverse: failed" in gated.stdout


@pytest.mark.parametrize(("count", "few"), [(49, True), (50, False)])
def test_scores_of_distributions_of_few_samples_are_not_dressed_like_many(store: Path, count: int, few: bool) -> None:
    two = ("prompts=[digits]", "seed={sweep: [0, 1]}", "seeds=apart", "metric=[fid_digits,feature_diversity_digits]")
    table = run(store, f"few-{count}", *two, "metric.feature_diversity_digits.pairs=any", f"num_samples={count}")
    assert {row.unsure for row in table.rows if row.metric == "fid_digits"} == {few}
    assert not any(row.unsure for row in table.rows if row.metric == "feature_diversity_digits")
    assert bool(table.best["fid_digits"]) is not few
    for name in ("table.md", "report.html"):
        text = (store / f"few-{count}" / name).read_text()
        assert (f"Warning: N = {count}: FID [digits]" in text) is few


def test_a_cost_of_one_batch_is_told_and_never_best(tmp_path: Path) -> None:
    two = ("prompts=[digits]", "seed={sweep: [0, 1]}", "seeds=apart")
    plain = ("metric=[]", "reference=none", "report=false")  # costs are there without a metric
    table = run(tmp_path / "one", "t", *two, *plain, "batch_size=256")
    timed = [row for row in table.rows if row.metric == "images_per_second"]
    assert [row.unsure for row in timed] == [True, True]  # the first batch also warmed up, and there is but one each
    assert all(str(row.note).startswith(("timed on one batch", "timed on the batch that also")) for row in timed)
    assert "images_per_second" not in table.best
    text = (tmp_path / "one" / "t" / "table.md").read_text()
    assert "‡ latency p50 [ms], latency p95 [ms], images/s: timed on" in text
    many = run(tmp_path / "many", "t", *plain, "batch_size=8")
    row = next(row for row in many.rows if row.metric == "images_per_second")
    assert row.stderr is not None or row.unsure  # of 16 repeats; or the machine was busy, which is told
