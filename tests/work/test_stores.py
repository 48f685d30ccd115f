"""A run's numbers do not depend on what its store lies on, how its shards are written, or which images are kept."""

from __future__ import annotations

import itertools
import json
import logging
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from test_stages import figures, write_pictures

from evalkit import pipeline
from evalkit.config.compose import compose, resolve
from evalkit.errors import ConfigError, EvalkitError
from evalkit.plan.plan import Plan, make_plan
from evalkit.utils.blobs import FsspecBlobs, open_blobs

NUMBERS = itertools.count()


def plan_of(folder: Path, store: str, *overrides: str) -> Plan:
    words = [
        *("experiment=digits", "model=[digits_dcgan]", "metric=[fid_digits,is_digits,precision_digits]"),
        *("num_samples=40", "contact_sheet=4", "reference=folder", f"reference.folder.path={folder / 'reference'}"),
        *(f"store={store}", "name=small", "report=false", "device=cpu", *overrides),
    ]
    return make_plan(resolve(compose(words)))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("evalkit.samples.cells.SHARD_SAMPLES", 16)
    write_pictures(tmp_path / "reference")
    return tmp_path


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("plain")
    write_pictures(folder / "reference")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("evalkit.samples.cells.SHARD_SAMPLES", 16)
        plan = plan_of(folder, str(folder / "plain"))
        return figures(plan, pipeline.run(plan))


def count_verbs(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """The requests to a store on a URL from now on, by verb."""
    verbs: Counter[str] = Counter()
    for verb in ("put_new", "put", "get", "list", "delete"):
        real = getattr(FsspecBlobs, verb)

        def counted(self: FsspecBlobs, *args: Any, _verb: str = verb, _real: Any = real) -> Any:
            verbs[_verb] += 1
            return _real(self, *args)

        monkeypatch.setattr(FsspecBlobs, verb, counted)
    return verbs


def test_a_finished_run_writes_nothing(folder: Path) -> None:
    def written() -> dict[Path, int]:
        files = [path for path in (folder / "plain").rglob("*") if path.is_file()]
        # A reference that was written a moment ago is looked through once more.
        return {path: path.stat().st_mtime_ns for path in files if path.parent.name != "cache"}

    pipeline.run(plan_of(folder, str(folder / "plain"), "report=true"))
    before = written()
    pipeline.run(plan_of(folder, str(folder / "plain"), "report=true"))
    assert len(before) > 10
    assert written() == before


def test_a_store_on_a_url(folder: Path, expected: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"memory://runs{next(NUMBERS)}/store"
    plan = plan_of(folder, url)
    assert figures(plan, pipeline.run(plan)) == expected
    assert plan.out == Path("runs/small")
    kinds = Counter(key.partition("/")[0] for key, _ in open_blobs(url).list())
    assert set(kinds) == {"samples", "features", "scores", "lint", "results"}
    shards = [key for key, _ in open_blobs(url).list("samples/") if "/shards/" in key]
    assert sorted(key.rpartition("/")[2] for key in shards) == ["00000.zip", "00001.zip", "00002-008.zip"]
    copied = open_blobs(url).below("results/small")
    assert json.loads(copied.get("results.json"))["run"]["store"] == url
    assert {"table.md", "overview.png", "sheets/digits_dcgan.png"} <= {key for key, _ in copied.list()}
    assert list((folder / "runs").iterdir()) == [folder / "runs" / "small"]  # nothing but results is local

    verbs = count_verbs(monkeypatch)
    again = plan_of(folder, url)
    pipeline.run(again)
    assert verbs["list"] == 1
    assert (
        verbs["get"] <= 1 + 3 + 2 + 1
    )  # the manifest, scores, lint measures of cell and reference, the list of copies
    assert verbs["put_new"] == verbs["delete"] == 0
    assert verbs["put"] <= 5  # results.json and what holds its time


@pytest.mark.parametrize("keep", ["sample", "none"])
def test_images_that_are_not_kept_change_no_score(
    folder: Path, expected: dict[str, Any], keep: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("evalkit"), "propagate", True)
    plan = plan_of(folder, str(folder / "runs"), f"keep_images={keep}")
    assert figures(plan, pipeline.run(plan)) == expected
    assert len(list((folder / "runs" / "samples").rglob("*.png"))) == (16 if keep == "sample" else 0)
    told = [line for line in caplog.messages if "keep_images" in line]
    assert any("digits_dcgan.png" in line for line in told) == (keep == "none")
    with pytest.raises(EvalkitError, match=r"was not kept \(keep_images\)"):
        pipeline.run(plan_of(folder, str(folder / "runs"), f"keep_images={keep}", "export=[folder]"))


def test_folders_and_zips_give_the_same(folder: Path, expected: dict[str, Any]) -> None:
    plan = plan_of(folder, str(folder / "runs"), "shards=zip")
    assert figures(plan, pipeline.run(plan)) == expected
    assert not list((folder / "runs" / "samples").rglob("*.png"))
    pipeline.run(plan_of(folder, str(folder / "runs")))  # zips are read whatever `shards` says


def test_words_that_are_none(folder: Path) -> None:
    with pytest.raises(ConfigError, match="keep_images=no: "):
        plan_of(folder, "runs", "keep_images=no")
    with pytest.raises(ConfigError, match=r"a store is a folder, or a URL of s3, "):
        plan_of(folder, "https://host/x")


@pytest.mark.slow
def test_a_finished_grid_of_100_cells_is_one_listing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"memory://runs{next(NUMBERS)}/store"
    grid = (f"seed={{sweep: {list(range(100))}}}", "seeds=apart", "num_samples=20", "metric=[fid_digits,is_digits]")
    pipeline.run(plan_of(folder, url, *grid))
    verbs = count_verbs(monkeypatch)
    pipeline.run(plan_of(folder, url, *grid))
    print(dict(verbs))
    assert verbs["list"] == 1
    # the cells' manifests, their scores, lint measures of cells and reference, the list of copies
    assert verbs["get"] <= 100 + 200 + 101 + 1
    assert verbs["put_new"] == verbs["delete"] == 0
