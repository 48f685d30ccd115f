"""Hugging Face datasets as images: local ones, as `datasets` loads and saves them. No network."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile import image, pngs

from evalkit.config.build import build
from evalkit.config.compose import compose, resolve
from evalkit.data.codec import encode_png
from evalkit.data.containers.hf_dataset import DatasetOpener
from evalkit.data.open import open_images
from evalkit.data.records import ReadOptions
from evalkit.errors import ConfigError, DataError

datasets = pytest.importorskip("datasets", reason="datasets is not installed")


@pytest.fixture(autouse=True)
def _quiet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "hf"))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()


def make(count: int = 5, **more: Any) -> Any:
    """A dataset in memory: images, captions, class labels."""
    columns = {
        "caption": [f"number {i}" for i in range(count)],
        "label": [i % 2 for i in range(count)],
        "image": [{"bytes": data, "path": None} for data in pngs(count).values()],
        **more,
    }
    features = {
        "caption": datasets.Value("string"),
        "label": datasets.ClassLabel(names=["cat", "dog"]),
        "image": datasets.Image(),
    }
    features |= {name: datasets.Value("string") for name in more}
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features))


def check(source: Any) -> None:
    for i, pixels in enumerate(source.read(range(len(source)))):
        np.testing.assert_array_equal(pixels, image(i))
    assert source.prompts == tuple(f"number {i}" for i in range(len(source)))
    assert list(source.categories) == ["cat", "dog", "cat", "dog", "cat"][: len(source)]


def test_saved_to_disk(tmp_path: Path) -> None:
    make().save_to_disk(str(tmp_path / "saved"))
    opening = DatasetOpener(str(tmp_path / "saved"))
    opening.check()
    assert opening.count() == 5
    source = opening.open(cache=tmp_path / "cache")
    check(source)
    check(source.head(3))
    assert source.location(2) == f"datasets://{tmp_path}/saved/train[2]"
    for name, data in pngs(5).items():
        (tmp_path / "folder").mkdir(exist_ok=True)
        (tmp_path / "folder" / name).write_bytes(data)
    assert source.digest == open_images(tmp_path / "folder").digest  # as the files in a folder


def test_a_split_of_several(tmp_path: Path) -> None:
    datasets.DatasetDict({"train": make(5), "test": make(2)}).save_to_disk(str(tmp_path / "saved"))
    assert DatasetOpener(str(tmp_path / "saved"), "test").count() == 2
    with pytest.raises(ConfigError, match=r"no split 'tset'\. Did you mean 'test'\?"):
        DatasetOpener(str(tmp_path / "saved"), "tset").check()


def test_a_folder_of_parquet_files(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for part in range(2):
        make().select(range(part * 3, (part * 3 + 3) if not part else 5)).to_parquet(
            str(tmp_path / "data" / f"train-0000{part}-of-00002.parquet")
        )
    check(DatasetOpener(str(tmp_path)).open())
    assert DatasetOpener(str(tmp_path), "train[:2]").count() == 2


def test_an_imagefolder(tmp_path: Path) -> None:
    """Its rows hold paths: the files are read where they lie."""
    for i in range(4):
        path = tmp_path / "images" / ("cat", "dog")[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_png(image(i)))
    source = DatasetOpener(str(tmp_path / "images")).open()
    assert list(source.categories) == ["cat", "cat", "dog", "dog"]
    for i, pixels in zip((0, 2, 1, 3), source.read(range(4)), strict=True):
        np.testing.assert_array_equal(pixels, image(i))


def test_columns(tmp_path: Path) -> None:
    make(5, text=["t"] * 5).save_to_disk(str(tmp_path / "saved"))
    name = str(tmp_path / "saved")
    assert DatasetOpener(name).open().prompts == ("t",) * 5  # text before caption
    assert DatasetOpener(name, options=ReadOptions(prompts="caption")).open().prompts[1] == "number 1"
    assert DatasetOpener(name, options=ReadOptions(prompts=None)).open().prompts == (None,) * 5
    assert list(DatasetOpener(name, category=None).open().categories) == [None] * 5
    assert list(DatasetOpener(name, category="caption").open().categories)[1] == "number 1"
    for wrong, message in (
        ({"image": "img"}, "no column of images 'img'. Did you mean 'image'?"),
        ({"category": "lable"}, "no column 'lable'. Did you mean 'label'?"),
    ):
        with pytest.raises(ConfigError) as caught:
            DatasetOpener(name, **wrong).check()
        assert message in str(caught.value)
    with pytest.raises(ConfigError, match=r"no column of texts 'captoin'\. Did you mean 'caption'"):
        DatasetOpener(name, options=ReadOptions(prompts="captoin")).open()
    datasets.Dataset.from_dict({"a": [1]}).save_to_disk(str(tmp_path / "none"))
    with pytest.raises(ConfigError, match="no column of images among a"):
        DatasetOpener(str(tmp_path / "none")).check()


def test_lists_and_two_columns_of_images(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("evalkit"), "propagate", True)
    one = make(2)
    two = one.add_column("second", one.to_dict()["image"]).cast_column("second", datasets.Image())
    two.save_to_disk(str(tmp_path / "two"))
    DatasetOpener(str(tmp_path / "two")).check()
    assert [m for m in caplog.messages if m.endswith("the images are the column 'image'; not read: second")]
    features = datasets.Features({"images": datasets.List(datasets.Image())})
    several = datasets.Dataset.from_dict({"images": [[]]}, features=features)
    several.save_to_disk(str(tmp_path / "lists"))
    with pytest.raises(ConfigError, match="'images' holds lists of images, and a row is one sample"):
        DatasetOpener(str(tmp_path / "lists")).check()


def test_broken_and_missing_images(tmp_path: Path) -> None:
    rows = [{"bytes": pngs(1)["000.png"], "path": None}, {"bytes": b"broken", "path": None}, None]
    features = datasets.Features({"image": datasets.Image()})
    datasets.Dataset.from_dict({"image": rows}, features=features).save_to_disk(str(tmp_path / "saved"))
    with pytest.raises(DataError, match=r"train: row 1: not an image file"):
        DatasetOpener(str(tmp_path / "saved")).open()
    source = DatasetOpener(str(tmp_path / "saved"), options=ReadOptions(on_error="skip")).open()
    assert len(source) == 1
    assert source.warnings == {"skipped": 2}


def test_a_row_cannot_name_any_file_of_this_machine(tmp_path: Path) -> None:
    (tmp_path / "private.png").write_bytes(encode_png(image(0)))
    rows = [{"bytes": None, "path": str(tmp_path / "private.png")}]
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    (tmp_path / "set").mkdir()
    features = datasets.Features({"image": datasets.Image()})
    table = pyarrow.table({"image": rows}, schema=features.arrow_schema)
    parquet.write_table(table, tmp_path / "set" / "train.parquet")
    with pytest.raises(DataError, match=r"row 0: .*private\.png lies outside the dataset, and is not followed"):
        DatasetOpener(str(tmp_path / "set")).open()


def test_what_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        DatasetOpener("nobody/nothing-of-this-name").check()
    assert str(caught.value).startswith("dataset 'nobody/nothing-of-this-name', split 'train': ")
    assert "\n" not in str(caught.value)


def test_in_the_grid_and_as_reference(tmp_path: Path) -> None:
    make().save_to_disk(str(tmp_path / "saved"))
    name = tmp_path / "saved"
    overrides = ["model=[dataset]", f"model.dataset.name={name}", "reference=dataset", f"reference.dataset.name={name}"]
    config = resolve(compose([*overrides, "reference.dataset.num_samples=3"]))
    model, reference = build(config.model["dataset"]), build(config.reference["dataset"])
    model.check()
    assert model.num_available() == 5
    assert len(reference.open()) == 3
    assert reference.open().digest == model.open(3).digest
    assert model.identity()["dataset"]["name"] == str(name)
