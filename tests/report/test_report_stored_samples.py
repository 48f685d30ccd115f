"""The report finds the images that have no file of their own: in archives, tables, shards, behind URLs, in datasets."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fsspec
import numpy as np
import pytest
from hostile import image, pngs, write_tar, write_zip
from pictures_with_texts import a1111

from evalkit.config.build import build
from evalkit.config.compose import compose, resolve
from evalkit.data import scan
from evalkit.data.codec import encode_png
from evalkit.plan.grid import make_grid
from evalkit.report.stored_samples import Inside


@pytest.fixture(autouse=True)
def nothing_kept() -> None:
    scan._SCANNED.clear()
    scan._SCANNED_INSIDE.clear()


def run_of(*overrides: str) -> tuple[Any, Any]:
    """A run's configuration as the report finds it, and its first cell's images."""
    config = resolve(compose([*overrides, "sampler=[]", "prompts=[]", "exclude=[]"]))
    cell = make_grid(config).cells[-1]
    source = build(cell.options["model"] or {}).open()
    return Inside(SimpleNamespace(table=SimpleNamespace(run={"config": vars(config), "store": "gone"}))), source  # type: ignore[arg-type]


def check(inside: Inside, source: Any) -> None:
    for i, pixels in enumerate(source.read(range(len(source)))):
        shown, why = inside.read(source.location(i))
        assert shown is not None, f"{source.location(i)}: {why}"
        np.testing.assert_array_equal(shown, pixels)


@pytest.mark.parametrize("kind", ["tar", "shards", "memory", "far archive", "split", "parquet", "frames"])
def test_every_image_is_found_where_it_is_said_to_lie(tmp_path: Path, kind: str) -> None:
    files = pngs(6) | {"001.png": b"broken"}
    option, path, more = "folder", tmp_path / "a.tar", ["model.folder.on_error=skip"]
    write_tar(path, files)
    if kind == "shards":
        for part in range(2):
            write_zip(tmp_path / f"{part}.zip", dict(list(files.items())[part::2]))
        path = tmp_path / "*.zip"
    elif kind in ("memory", "far archive"):
        for name, data in {**files, "a.tar": path.read_bytes()}.items():
            with fsspec.open(f"memory://{tmp_path.name}/{kind[:3]}/{name}", "wb") as file:
                file.write(data)
        path = f"memory://{tmp_path.name}/{kind[:3]}" + ("/a.tar" if kind == "far archive" else "")  # type: ignore[assignment]
    elif kind == "split":
        made = {f"{i}.png": a1111(image(i), "x", Steps=5 + i % 2, Sampler="Euler", Seed=i) for i in range(5)}
        write_tar(path, made)
        more = ["model.folder.split_by=steps"]
    elif kind == "parquet":
        pytest.importorskip("pyarrow")
        import pyarrow
        import pyarrow.parquet

        path = tmp_path / "a.parquet"
        pyarrow.parquet.write_table(pyarrow.table({"image": list(files.values())}), path)
    elif kind == "frames":
        write_tar(path, {f"c{c}/{i}.png": encode_png(image(c * 9 + i)) for c in (2, 10) for i in (1, 2, 10)})
        option, more = "frames", ["model.frames.every=2"]
    check(*run_of(f"model=[{option}]", f'model.{option}.path="{path}"', *more))


def test_datasets(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"image": datasets.Image()})
    rows = [{"bytes": data, "path": None} for data in pngs(4).values()]
    datasets.Dataset.from_dict({"image": rows}, features=features).save_to_disk(str(tmp_path / "saved"))
    check(*run_of("model=[dataset]", f"model.dataset.name={tmp_path}/saved"))


def test_what_is_gone_is_said() -> None:
    inside = Inside(SimpleNamespace(table=SimpleNamespace(run={})))  # type: ignore[arg-type]
    assert inside.read("/gone/a.zip[3]") == (None, "gone")
    assert inside.read("/gone/a.png") == (None, "gone")
    assert inside.read("memory://gone/a.zip[3]") == (None, "no file")
    assert inside.read("reference[3]") == (None, "no file")
