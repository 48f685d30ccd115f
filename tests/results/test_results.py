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


def run(tmp_path: Path, *overrides: str, name: str = "t") -> ResultTable:
    config = resolve(compose([*GAN, f"name={name}", f"store={tmp_path}", "num_samples=130", *overrides]))
    return pipeline.run(make_plan(config))


def lines(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_two_seeds_are_compared_and_each_sample_is_kept(tmp_path: Path) -> None:
    table = run(
        tmp_path,
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
    rows = lines(tmp_path / "t" / "samples.csv")
    assert len(rows) == 260
    assert {"fid_digits.influence", "precision_digits", "category"} <= rows[0].keys()
    value = table.value(rows[0]["cell"], "precision_digits")
    cell = [float(row["precision_digits"]) for row in rows if row["cell"] == rows[0]["cell"]]
    assert np.mean(cell) == pytest.approx(value, abs=1e-6)
    categories = [row for row in lines(tmp_path / "t" / "categories.csv") if row["cell"] == rows[0]["cell"]]
    assert sum(int(row["n"]) for row in categories) == 130
    assert "not distinguishable" in (tmp_path / "t" / "comparison.md").read_text()
    assert {cell for cell, _ in read_thumbnails(tmp_path / "t" / "thumbnails.json")} == set(table.cells)


def test_statistics_are_shared_and_give_the_same_distance(tmp_path: Path) -> None:
    stats = tmp_path / "stats"
    first = run(tmp_path, "metric=[fid_digits]", f"save_stats={stats}")
    given = ("reference=stats", f"reference.stats.path={stats / 'fid_digits.npz'}")
    second = run(tmp_path, "metric=[fid_digits]", *given, name="again")
    values = [table.value(table.cells[0], "fid_digits") for table in (first, second)]
    assert values[1] == pytest.approx(values[0], rel=1e-7)
    with pytest.raises(ConfigError, match="needs the reference images themselves"):
        run(tmp_path, "metric=[kid_digits]", *given)
    with pytest.raises(ConfigError, match=r"of digits/features, but digits/logits"):
        run(tmp_path, "metric=[frechet]", "metric.frechet.features=digits/logits", *given)


def test_an_earlier_run_stands_beside_and_is_not_ranked_when_its_n_differs(tmp_path: Path) -> None:
    run(tmp_path, "metric=[fid_digits]")
    table = run(
        tmp_path, "metric=[fid_digits]", "num_samples=140", f"add_results=[{tmp_path / 't' / 'results.json'}]", name="u"
    )
    assert len(table.cells) == 2
    assert not [c for c in table.comparisons if c.metric == "fid_digits"]
    assert any("n is 130, not 140" in note or "n is 140, not 130" in note for note in table.footnotes())


def test_the_nearest_training_images_are_shown(tmp_path: Path) -> None:
    table = run(tmp_path, "metric=[nearest_training_digits]", "reference@training=digits")
    assert table.value(table.cells[0], "nearest_training_digits") is not None
    found = lines(tmp_path / "t" / "nearest.csv")
    assert len(found) == 32
    assert len(list((tmp_path / "t" / "nearest").glob("*.png"))) == 1
    with pytest.raises(ConfigError, match="reference@training=folder"):
        run(tmp_path, "metric=[nearest_training_digits]")


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
        run(tmp_path, *overrides)
    assert not (tmp_path / "samples").exists()


def test_a_metric_that_cannot_score_leaves_the_others_and_exits_with_1(tmp_path: Path) -> None:
    """MS-SSIM wants 176 pixels and gets 32: FID is written, the reason stands in the cell, no gate passes by it."""
    gates = tmp_path / "configs" / "gate"
    gates.mkdir(parents=True)
    (gates / "diverse.yaml").write_text("diverse:\n  rules: [{metric: ms_ssim_diversity, max: 1}]\n")
    given = [*GAN, "prompts=[digits]", "name=t", f"store={tmp_path}", "num_samples=130"]
    given += ["metric=[fid_digits,ms_ssim_diversity]", "metric.ms_ssim_diversity.pairs=any"]
    done = run_evalkit(*given, cwd=tmp_path)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("evalkit: ms_ssim_diversity could not score 1 of 1 cells: MS-SSIM over 5 scales")
    table = ResultTable.load(tmp_path / "t" / "results.json")
    rows = {row.metric: row for row in table.rows}
    assert rows["fid_digits"].value is not None
    assert rows["ms_ssim_diversity"].broken
    assert "176" in (tmp_path / "t" / "table.md").read_text()
    gated = run_evalkit(*given, "gate=[diverse]", "--config-dir", str(tmp_path / "configs"), cwd=tmp_path)
    assert gated.returncode == 3
    assert "gate diverse: failed" in gated.stdout


@pytest.mark.parametrize(("count", "few"), [(49, True), (50, False)])
def test_scores_of_distributions_of_few_samples_are_not_dressed_like_many(
    tmp_path: Path, count: int, few: bool
) -> None:
    two = ("prompts=[digits]", "seed={sweep: [0, 1]}", "seeds=apart", "metric=[fid_digits,feature_diversity_digits]")
    table = run(tmp_path, *two, "metric.feature_diversity_digits.pairs=any", f"num_samples={count}")
    assert {row.unsure for row in table.rows if row.metric == "fid_digits"} == {few}
    assert not any(row.unsure for row in table.rows if row.metric == "feature_diversity_digits")
    assert bool(table.best["fid_digits"]) is not few
    for name in ("table.md", "report.html"):
        text = (tmp_path / "t" / name).read_text()
        assert (f"Warning: N = {count}: FID [digits]" in text) is few


def test_a_cost_of_one_batch_is_told_and_never_best(tmp_path: Path) -> None:
    two = ("prompts=[digits]", "seed={sweep: [0, 1]}", "seeds=apart")
    table = run(tmp_path, *two, "metric=[fid_digits]", "batch_size=256")
    timed = [row for row in table.rows if row.metric == "images_per_second"]
    assert [row.unsure for row in timed] == [True, True]  # the first batch also warmed up, and there is but one each
    assert all(str(row.note).startswith(("timed on one batch", "timed on the batch that also")) for row in timed)
    assert "images_per_second" not in table.best
    text = (tmp_path / "t" / "table.md").read_text()
    assert "‡ latency p50 [ms], latency p95 [ms], images/s: timed on" in text
    many = run(tmp_path, "metric=[fid_digits]", "batch_size=8", name="many")
    row = next(row for row in many.rows if row.metric == "images_per_second")
    assert row.stderr is not None or row.unsure  # of 16 repeats; or the machine was busy, which is told
