"""Exports are read back bit-equal, by us and by the libraries they are for; they are whole or not at all."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from fakes import MemorySource
from hostile import image, write_zip
from PIL import Image

from evalkit import pipeline
from evalkit.config.build import build
from evalkit.config.compose import compose, resolve
from evalkit.data.codec import encode_png
from evalkit.data.open import open_images
from evalkit.data.records import ReadOptions
from evalkit.errors import ConfigError, DataError, StoreError
from evalkit.plan.plan import make_plan
from evalkit.results import export
from evalkit.results.export import Export, FolderExport, NpzExport, ParquetExport, Set, WebDatasetExport, write_exports

PROMPTS = ["a cat", None, 'ein Füchslein, "rot"\n狐', *["x"] * 67]  # more than one block
KINDS: dict[str, tuple[Export, str]] = {
    "folder": (FolderExport(), "cell"),
    "npz": (NpzExport(), "cell.npz"),
    "webdataset": (WebDatasetExport(), "cell.tar"),
    "parquet": (ParquetExport(), "cell-parquet/data/train-00000-of-00001.parquet"),
}


def make_set(images: Sequence[np.ndarray] | None = None, **about: Any) -> Set:
    images = [image(i) for i in range(70)] if images is None else images
    source = MemorySource(images, PROMPTS[: len(images)], name="cell")
    return Set(source, ["7", None, "a word", *["0"] * 67][: len(images)], {"model": "m|1", "seed": 3, **about})


def _flip(file: Path) -> None:
    data = file.read_bytes()
    file.write_bytes(data[:-9] + bytes([data[-9] ^ 1]) + data[-8:])


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "parquet"])
@pytest.mark.parametrize("harm", ["deleted", "empty", "flipped", "another", "touched", "rescan"])
def test_an_altered_file_is_written_again(tmp_path: Path, kind: str, harm: str) -> None:
    """Also where it has the size and the time of before (F12); one that is only touched stays as it is."""
    (path,) = write_exports({kind: KINDS[kind][0]}, {"cell": make_set()}, tmp_path)
    file = path / "000003.png" if path.is_dir() else path
    whole, about = file.read_bytes(), file.stat()
    if harm == "deleted":
        file.unlink()
    elif harm == "another" and path.is_dir():
        (path / "000099.png").write_bytes(whole)
    elif harm == "touched":
        os.utime(file)
    elif harm != "rescan":
        file.write_bytes(b"") if harm == "empty" else _flip(file)
        os.utime(file, ns=(about.st_atime_ns, about.st_mtime_ns))
    inode = file.stat().st_ino if file.exists() else 0
    assert write_exports({kind: KINDS[kind][0]}, {"cell": make_set()}, tmp_path, rescan=harm == "rescan") == [path]
    assert file.read_bytes() == whole
    if path.is_dir():
        assert {file.name for file in path.iterdir()} == {"metadata.jsonl", *(f"{i:06d}.png" for i in range(70))}
    if harm in ("touched", "rescan"):
        assert file.stat().st_ino == inode
    before = (tmp_path / "written.json").stat().st_mtime_ns
    write_exports({kind: KINDS[kind][0]}, {"cell": make_set()}, tmp_path)
    assert (tmp_path / "written.json").stat().st_mtime_ns == before


@pytest.mark.parametrize("kind", KINDS)
def test_read_back_bit_equal(tmp_path: Path, kind: str) -> None:
    if kind == "parquet":
        pytest.importorskip("pyarrow")
    writer, where = KINDS[kind]
    write_exports({kind: writer}, {"cell": make_set()}, tmp_path)
    source = open_images(tmp_path / where)
    assert len(source) == 70
    for i, pixels in enumerate(source.read(range(70))):
        np.testing.assert_array_equal(pixels, image(i))
    expected = [None if text is None or kind == "npz" else text for text in PROMPTS]
    assert list(source.prompts) == expected
    told = {
        "folder": ["7", None, "a word", "0"],
        "parquet": ["7", None, "a word", "0"],
        "webdataset": ["7", None, None, "0"],
    }
    assert list(source.categories)[:4] == told.get(kind, [None] * 4)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {where.split("/")[0], "written.json"}, "a temporary file was left"


def test_as_the_tools_they_are_for_read_them(tmp_path: Path) -> None:
    write_exports(
        {kind: writer for kind, (writer, _) in KINDS.items() if kind != "parquet"}, {"cell": make_set()}, tmp_path
    )
    with np.load(tmp_path / "cell.npz", allow_pickle=False) as file:  # as ADM's evaluator.py
        assert file["arr_0"].shape == (70, 6, 5, 3)
        np.testing.assert_array_equal(file["arr_0"][69], image(69))
    pngs = sorted((tmp_path / "cell").glob("*.png"))  # as clean-fid and torch-fidelity
    np.testing.assert_array_equal(np.asarray(Image.open(pngs[69]).convert("RGB")), image(69))
    rows = [json.loads(line) for line in (tmp_path / "cell" / "metadata.jsonl").read_text().splitlines()]
    assert rows[2] == {"file_name": "000002.png", "prompt": PROMPTS[2], "category": "a word"}
    with tarfile.open(tmp_path / "cell.tar") as archive:  # as webdataset, which groups by the name up to its first dot
        names = archive.getnames()
        member = archive.extractfile("000069.png")
        assert member is not None
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(member.read()))), image(69))
    assert names[:4] == ["000000.png", "000000.txt", "000000.cls", "000001.png"]


def test_parquet_and_its_card(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    write_exports({"parquet": ParquetExport()}, {"cell": make_set(settings={"cfg": 3})}, tmp_path)
    table = parquet.read_table(tmp_path / "cell-parquet" / "data" / "train-00000-of-00001.parquet")
    assert json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]["image"] == {"_type": "Image"}
    assert table.column("category").to_pylist()[:3] == ["7", None, "a word"]
    _, header, text = (tmp_path / "cell-parquet" / "README.md").read_text().split("---\n", 2)
    about = yaml.safe_load(header)
    assert about["configs"][0]["data_files"] == [{"split": "train", "path": "data/train-*.parquet"}]
    assert [feature["name"] for feature in about["dataset_info"]["features"]] == table.column_names
    assert (about["size_categories"], about["task_categories"]) == (["n<1K"], ["text-to-image"])
    for line in ("70 images", "| model | m\\|1 |", '| settings | {"cfg": 3} |', make_set().source.digest):
        assert line in text


def test_row_groups_are_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr(export, "_GROUP_ROWS", 30)
    write_exports({"parquet": ParquetExport()}, {"cell": make_set()}, tmp_path)
    footer = parquet.read_metadata(tmp_path / KINDS["parquet"][1])
    assert [footer.row_group(i).num_rows for i in range(footer.num_row_groups)] == [30, 30, 10]


def test_written_again_only_where_something_changed(tmp_path: Path) -> None:
    exports = {kind: writer for kind, (writer, _) in KINDS.items() if kind != "parquet"}
    paths = write_exports(exports, {"cell": make_set()}, tmp_path)
    before = [path.stat().st_mtime_ns for path in paths]
    assert write_exports(exports, {"cell": make_set()}, tmp_path) == paths
    assert [path.stat().st_mtime_ns for path in paths] == before
    write_exports(exports, {"cell": make_set([image(9)])}, tmp_path)
    for path in paths:
        source = open_images(path)
        assert len(source) == 1
        np.testing.assert_array_equal(source.read(range(1))[0], image(9))
    paths[1].unlink()
    write_exports(exports, {"cell": make_set([image(9)])}, tmp_path)
    assert paths[1].is_file()


@pytest.mark.parametrize("kind", KINDS)
def test_a_failure_leaves_what_was_there(tmp_path: Path, kind: str) -> None:
    if kind == "parquet":
        pytest.importorskip("pyarrow")
    writer, where = KINDS[kind]
    write_exports({kind: writer}, {"cell": make_set([image(1)])}, tmp_path)
    broken = make_set()
    assert isinstance(broken.source, MemorySource)
    broken.source.fail_at = 66  # in the second block
    with pytest.raises(KeyboardInterrupt):
        write_exports({kind: writer}, {"cell": broken}, tmp_path)
    np.testing.assert_array_equal(open_images(tmp_path / where).read(range(1))[0], image(1))
    assert {path.name for path in tmp_path.iterdir()} == {where.split("/")[0], "written.json"}


def test_sizes_that_differ(tmp_path: Path) -> None:
    mixed = make_set([image(0), image(1, 9, 9)])
    with pytest.raises(DataError, match=r"an .npz holds images of one size, not \[6, 5, 3\] and \[9, 9, 3\]"):
        write_exports({"npz": NpzExport()}, {"cell": mixed}, tmp_path)
    assert not (tmp_path / "cell.npz").exists()
    write_exports({"webdataset": WebDatasetExport()}, {"cell": mixed}, tmp_path)
    assert len(open_images(tmp_path / "cell.tar", ReadOptions(mixed_sizes=True))) == 2


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "export").write_text("a file")
    with pytest.raises(StoreError, match="cannot write to"):
        write_exports({"npz": NpzExport()}, {"cell": make_set()}, tmp_path / "export")


def test_without_pyarrow_it_is_said_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    option = resolve(compose(["export=[parquet]"])).export["parquet"]
    with pytest.raises(ConfigError, match=r"export.parquet needs pyarrow: pip install 'evalkit\[parquet\]'"):
        build(option).check()


def test_a_run_exports_its_cells_and_reads_them_back(tmp_path: Path) -> None:
    """The whole way, from a zip by way of each kind: the score is the same."""
    files = {f"{i:03d}.png": encode_png(image(i, 32, 32)) for i in range(16)}
    start = write_zip(tmp_path / "start.zip", files | {"005.txt": b"five"})
    common = ["model=[folder]", "sampler=[default]", "prompts=[]", "metric=[is_digits]", "report=false", "lint=false"]
    common += ["contact_sheet=0", "num_samples=null", f"store={tmp_path / 'runs'}", "device=cpu"]

    def run(name: str, path: Path, *more: str) -> Any:
        plan = make_plan(resolve(compose([*common, f"name={name}", f"model.folder.path={path}", *more])))
        (row,) = [row for row in pipeline.run(plan).rows if row.metric == "is_digits"]
        return row

    first = run("first", start, "export=[folder,npz,webdataset]")
    folder = tmp_path / "runs" / "first" / "export"
    assert len(list(folder.iterdir())) == 4, "three kinds and the record"
    for ending in ("", ".npz", ".tar"):
        again = run(f"again{ending}", folder / f"{first.cell}{ending}")
        assert (again.value, again.n) == (first.value, 16)
    assert open_images(folder / f"{first.cell}.tar").prompts[5] == "five"


def test_a_misspelt_kind_is_one_line() -> None:
    with pytest.raises(ConfigError, match=r"export=webdatset: no such option. Did you mean 'webdataset'?"):
        compose(["export=[webdatset]"])
