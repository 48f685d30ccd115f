"""By category and by attribute: differences from the rest by hand and against statsmodels' way, corrected p-values; and
CelebA's files from one command."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from command import run_evalkit
from png_folders import write_pngs
from scipy.stats import false_discovery_control, ttest_ind

from evalkit.data.attributes import Attributes, read_partition
from evalkit.errors import ConfigError, DataError
from evalkit.results.categories import apart, by_category
from evalkit.results.stats import Estimate, benjamini_hochberg

CELEBA = """4
5_o_Clock_Shadow Smiling Male
000001.jpg -1  1 -1
000002.jpg  1 -1  1
000003.jpg -1 -1  1
000004.jpg  1  1 -1
"""


def estimate(values: list[float], clusters: list[int]) -> Estimate:
    from evalkit.metric import standard_error

    return Estimate(float(np.mean(values)), standard_error(values, clusters), len(values), values, clusters)


def test_apart_is_welchs_test_where_all_are_independent() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(0, 1, 400), rng.normal(0.2, 2, 300)
    found = apart(estimate(a.tolist(), list(range(400))), estimate(b.tolist(), list(range(400, 700))))
    theirs = ttest_ind(a, b, equal_var=False)
    assert found.value == pytest.approx(a.mean() - b.mean())
    assert found.stderr == pytest.approx(np.hypot(a.std(ddof=1) / 20, b.std(ddof=1) / 300**0.5), rel=3e-3)
    assert found.p == pytest.approx(theirs.pvalue, rel=0.05)


def test_apart_allows_for_clusters_that_both_share() -> None:
    """Two images of each prompt, one with the attribute: what a prompt adds to both cancels."""
    rng = np.random.default_rng(0)
    shared, noise = rng.normal(0, 10, 200), rng.normal(0, 1, (2, 200))
    a, b = ((shared + each).tolist() for each in noise)
    found = apart(estimate(a, list(range(200))), estimate(b, list(range(200))))
    difference = noise[0] - noise[1]
    assert found.stderr == pytest.approx(difference.std(ddof=1) / 200**0.5, rel=1e-9)


def test_false_discoveries_against_scipy() -> None:
    ps = np.random.default_rng(0).uniform(0, 0.2, 30)
    given: list[float | None] = [*ps.tolist()[:10], None, *ps.tolist()[10:]]
    found = benjamini_hochberg(given)
    assert found.pop(10) is None
    np.testing.assert_allclose(np.array(found, float), false_discovery_control(ps))


def test_by_category() -> None:
    assert by_category(["a", None, "b", "a"], [1.0, 2.0, 3.0, None]) == {
        "a": (1.0, None, None, None),
        "b": (None, None, 3.0, None),
    }


class TestFiles:
    def test_celebas_own(self, tmp_path: Path) -> None:
        path = tmp_path / "list_attr_celeba.txt"
        path.write_text(CELEBA)
        found = Attributes.read(path)
        assert list(found.columns) == ["5_o_Clock_Shadow", "Smiling", "Male"]
        flags = found.of(["x/000002.png", None, "000004.jpg", "9.jpg"])
        assert flags["Smiling"] == (False, None, True, None)
        assert list(Attributes.read(path, ["Male"]).columns) == ["Male"]
        with pytest.raises(ConfigError, match=r"no attribute 'smiling'\. Did you mean 'Smiling'"):
            Attributes.read(path, ["smiling"])
        path.write_text(CELEBA.replace("1 -1\n", "1\n", 1))
        with pytest.raises(DataError, match=r"celeba\.txt:3: 3 values where a name and 3 are wanted"):
            Attributes.read(path)
        path.write_text(CELEBA.replace("000002", "000001"))
        with pytest.raises(DataError, match=r"'000001\.jpg' stands there twice"):
            Attributes.read(path)

    def test_tables_of_attributes_and_classes(self, tmp_path: Path) -> None:
        path = tmp_path / "table.csv"
        path.write_text("image_id,Smiling,age\na.png,1,young\nb.png,0,old\nc.png,1,\n")
        found = Attributes.read(path)
        assert {name: list(each) for name, each in found.columns.items()} == {
            "Smiling": [True, False, True],
            "age: old": [False, True, False],
            "age: young": [True, False, False],
        }
        path.write_text("id,x\n" + "".join(f"{i}.png,{i}\n" for i in range(60)))
        with pytest.raises(DataError, match="column 'x' has 60 values"):
            Attributes.read(path)
        with pytest.raises(ConfigError, match="there is no file"):
            Attributes.read(tmp_path / "none.txt")

    def test_partitions(self, tmp_path: Path) -> None:
        path = tmp_path / "list_eval_partition.txt"
        path.write_text("000001.jpg 0\n000002.jpg 2\n000003.jpg 2\n")
        assert read_partition(path, "test") == read_partition(path, "2") == {"000002.jpg", "000003.jpg"}
        with pytest.raises(ConfigError, match="no image is of the part 'valid': it has 0, 2"):
            read_partition(path, "valid")
        table = tmp_path / "list_eval_partition.csv"
        table.write_text("image_id,partition\n000001.jpg,0\n000002.jpg,1\n")
        assert read_partition(table, "valid") == {"000002.jpg"}


def lines(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_celeba_from_one_command(tmp_path: Path) -> None:
    """Images of which those called Bright are bright: Holm calls that attribute, and not one by lot; the page says so;
    and the reference is one part of a partition alone."""
    rng = np.random.default_rng(0)
    bright, lot = np.arange(60) % 2 == 0, rng.permutation(60) < 20
    levels = [rng.normal(160 if each else 90, 20) for each in bright]
    folder = write_pngs(
        tmp_path / "images", [np.clip(rng.normal(x, 20, (32, 32, 3)), 0, 255).astype(np.uint8) for x in levels]
    )
    names = sorted(path.name for path in folder.iterdir())
    rows = [
        f"{Path(name).stem}.jpg {2 * b - 1:2d} {2 * c - 1:2d}" for name, b, c in zip(names, bright, lot, strict=True)
    ]
    (tmp_path / "attr.txt").write_text("\n".join(["60", "Bright Lot", *rows[:-2]]) + "\n")  # two are not named
    (tmp_path / "part.txt").write_text("".join(f"{name} {i % 3}\n" for i, name in enumerate(names)))
    command = ["model=[folder]", f"model.folder.path={folder}", "attributes=attr.txt", "lint=false"]
    command += ["+metric.brightness._target_=fake_metrics.Brightness", "metric=[fid_digits]"]
    command += ["reference=folder", f"reference.folder.path={folder}", "reference.folder.partition=part.txt"]
    done = run_evalkit(*command, "reference.folder.part=test", "name=first", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = {line["category"]: line for line in lines(tmp_path / "runs/first/categories.csv")}
    assert {name: line["n"] for name, line in found.items()} == {"Bright": "29", "Lot": str(int(lot[:-2].sum()))}
    assert float(found["Bright"]["p_holm"]) < 0.001
    assert float(found["Lot"]["p_holm"]) > 0.05
    seen = [float(line["brightness"]) for line in lines(tmp_path / "runs/first/samples.csv")][:-2]
    mean, rest = np.mean(seen[0::2]), np.mean(seen[1::2])
    assert float(found["Bright"]["mean"]) == pytest.approx(mean, rel=1e-5)
    assert float(found["Bright"]["rest"]) == pytest.approx(rest, rel=1e-5)
    assert float(found["Bright"]["difference_low"]) < mean - rest < float(found["Bright"]["difference_high"])
    page = (tmp_path / "runs/first/report.html").read_text()
    assert "Apart from the cell" in page
    assert "Bright 1" in page
    results = json.loads((tmp_path / "runs/first/results.json").read_text())
    fid = next(row["protocol_hash"] for row in results["rows"] if row["metric"] == "fid_digits")
    assert results["protocols"][fid]["reference"]["n"] == 20

    refused = run_evalkit(
        *command, "reference.folder.part=valid", "attributes={path: attr.txt, only: [Bald]}", cwd=tmp_path
    )
    assert "attr.txt: it has no attribute 'Bald'. Choices: Bright, Lot." in refused.stderr
    refused = run_evalkit("attributes=attr.txt", "model=[digits_dcgan]", "metric=[vendi_digits]", cwd=tmp_path)
    assert "attr.txt names none of the images that samples are made from" in refused.stderr
    refused = run_evalkit(*command, cwd=tmp_path)
    assert "partition=part.txt, part=None: give both, or neither" in refused.stderr
