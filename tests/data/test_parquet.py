"""Parquet files of images: plain bytes and Hugging Face's struct, row groups, prompts, and what is refused."""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile import image, pngs

from evalkit.data.codec import encode_png
from evalkit.data.containers import parquet
from evalkit.data.open import PathOpener, open_images
from evalkit.data.records import ReadOptions
from evalkit.data.stored import StoredImages
from evalkit.errors import ConfigError, DataError

pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")


def write(path: Path, columns: dict[str, list[Any]], group: int = 2, packed: str = "snappy") -> Path:
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table(columns), path, row_group_size=group, compression=packed)
    return path


def test_bytes_and_structs_are_the_folder_they_were_made_of(tmp_path: Path) -> None:
    files = pngs(5)
    for name, data in files.items():
        (tmp_path / "folder").mkdir(exist_ok=True)
        (tmp_path / "folder" / name).write_bytes(data)
    folder = open_images(tmp_path / "folder")
    structs = [{"bytes": data, "path": f"../../{name}"} for name, data in files.items()]
    for name, column in {"plain": list(files.values()), "struct": structs}.items():
        path = write(tmp_path / f"{name}.parquet", {"label": [1] * 5, "image": column, "caption": list("abcde")})
        assert PathOpener(path).count() == 5
        source = open_images(path, cache=tmp_path / "cache")
        assert isinstance(source, StoredImages)
        table = source.images[0].container
        assert source.digest == folder.digest
        assert source.prompts == tuple("abcde")
        assert source.location(3) == f"{path}[3]"
        for i in (4, 0, 2, 1, 3):
            np.testing.assert_array_equal(source.read(range(i, i + 1))[0], image(i))
        np.testing.assert_array_equal(source.head(3).read(range(1, 3)), [image(1), image(2)])
        assert isinstance(table, parquet.Parquet)
        assert len(table._loaded) <= 2, "more than two row groups are kept"


def test_prompts_of_a_table(tmp_path: Path) -> None:
    columns = {"img": list(pngs(2).values()), "text": ["a", None], "sentences": [["x", "y"], []], "n": [1, 2]}
    path = write(tmp_path / "a.parquet", columns)
    assert open_images(path).prompts == ("a", None)
    assert open_images(path, ReadOptions(prompts=None)).prompts == (None, None)
    assert open_images(path, ReadOptions(prompts="sentences")).prompts == ("x", None)
    for wrong, hint in (("txt", "Did you mean 'text'?"), ("n", "Choices: sentences, text.")):
        with pytest.raises(ConfigError, match=f"no column of texts '{wrong}'. {hint.replace('?', '.')}"):
            open_images(path, ReadOptions(prompts=wrong))


def test_broken_rows(tmp_path: Path) -> None:
    columns = {"image": [*pngs(2).values(), b"no image", None]}
    path = write(tmp_path / "a.parquet", columns)
    with pytest.raises(
        DataError, match=r"a.parquet: row 2: not an image file of a kind that is read \(.*\) \(1 more like it\)"
    ):
        open_images(path)
    source = open_images(path, ReadOptions(on_error="skip"))
    assert (len(source), dict(source.warnings)) == (2, {"skipped": 2})
    paths_alone = write(
        tmp_path / "b.parquet", {"image": [{"bytes": None, "path": "/etc/passwd"}] * 2 + [{"bytes": b"", "path": ""}]}
    )
    with pytest.raises(DataError, match=r"row 0: no bytes of an image .* \(2 more like it\)"):
        open_images(paths_alone)
    mixed = write(tmp_path / "c.parquet", {"image": [encode_png(image(1)), encode_png(image(1, 9, 9))]})
    with pytest.raises(DataError, match="images of different sizes"):
        open_images(mixed)


def test_columns_that_are_not_to_be_told_apart(tmp_path: Path) -> None:
    one = list(pngs(2).values())
    with pytest.raises(DataError, match=r"several columns of bytes \(left, right\): call the images' column 'image'"):
        PathOpener(write(tmp_path / "a.parquet", {"left": one, "right": one})).check()
    with pytest.raises(DataError, match=r"no column of bytes among \['x'\]"):
        PathOpener(write(tmp_path / "b.parquet", {"x": [1]})).check()
    with pytest.raises(ConfigError, match="no rows in it"):
        PathOpener(write(tmp_path / "c.parquet", {"image": pyarrow.array([], pyarrow.binary())})).check()
    with pytest.raises(ConfigError, match="the table of images is missing"):
        PathOpener(tmp_path / "gone.parquet").check()


def test_lists_of_images(tmp_path: Path) -> None:
    """One per row is read; what holds several or none is refused by its row."""
    files = list(pngs(3).values())
    structs = [[{"bytes": data, "path": "x"}] for data in files]
    for name, column in {"bytes": [[data] for data in files], "structs": structs}.items():
        source = open_images(write(tmp_path / f"{name}.parquet", {"images": column, "text": list("abc")}))
        assert source.prompts == tuple("abc")
        np.testing.assert_array_equal(source.read(range(2, 3))[0], image(2))
    for row, words in (
        (files[:2], "a list of 2 images, and a row is one sample"),
        ([], "no bytes of an image"),
        (None, "no"),
    ):
        path = write(tmp_path / "bad.parquet", {"images": [[files[0]], row]})
        with pytest.raises(DataError, match=f"bad.parquet: row 1: {words}"):
            open_images(path)
        assert len(open_images(path, ReadOptions(on_error="skip"))) == 1


def test_two_columns_of_images_and_paths_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("evalkit"), "propagate", True)
    one = list(pngs(2).values())
    source = open_images(write(tmp_path / "a.parquet", {"mask": one[::-1], "image": one, "jpg": one[::-1]}))
    np.testing.assert_array_equal(source.read(range(1))[0], image(0))
    assert [m for m in caplog.messages if "not read" in m] == [
        f"{tmp_path}/a.parquet: the images are the column 'image'; not read: mask, jpg"
    ]
    for column in (["a.png", "b.png"], [{"path": "a.png"}] * 2):
        with pytest.raises(
            DataError, match="'image' holds paths alone, which are not followed: call the images' column"
        ):
            PathOpener(write(tmp_path / "b.parquet", {"image": column})).check()


def test_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = write(tmp_path / "a.parquet", {"image": [b"\0" * 20_000_000]}, packed="zstd")
    with pytest.raises(DataError, match=r"row group 0 unpacks .* \(limit 200 to 1\)"):
        PathOpener(bomb).check()
    monkeypatch.setattr(parquet, "MAX_GROUP_BYTES", 100)
    with pytest.raises(DataError, match=r"row group 0 holds .* with smaller ones \(row_group_size=1000\)"):
        PathOpener(write(tmp_path / "b.parquet", {"image": list(pngs(3).values())})).check()


def test_a_column_with_fewer_rows_than_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.parquet", {"image": list(pngs(3).values()), "text": ["a", "b", "c"]})
    table = parquet.Parquet(path)
    monkeypatch.setattr(table, "starts", [0, 4])
    with pytest.raises(DataError, match=r"column 'text' has 3 rows, the table 4: write the table again"):
        table.values("text")


def test_no_byte_of_a_footer_ends_the_process(tmp_path: Path) -> None:
    """pyarrow 25 aborts, where it should raise, when it is asked for a column whose levels are counted wrongly."""
    path = write(tmp_path / "a.parquet", {"image": [{"bytes": data, "path": n} for n, data in pngs(2).items()]})
    data = path.read_bytes()
    footer = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    for at in range(footer, len(data)):
        path.write_bytes(data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :])
        with contextlib.suppress(DataError, ConfigError):
            parquet.Parquet(path)


def test_a_table_that_is_cut_short_or_changed(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", {"image": list(pngs(4).values())}, group=1)
    source = open_images(path)
    data = path.read_bytes()
    at = data.index(b"IDAT") + 30
    path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    with pytest.raises(DataError, match=r"altered|not a readable"):
        source.read(range(4))
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match=r"not a readable \.parquet"):
        open_images(path)


def test_without_pyarrow_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.parquet", {"image": list(pngs(1).values())})
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    with pytest.raises(ConfigError, match=r"reading Parquet needs pyarrow: pip install 'evalkit\[parquet\]'"):
        open_images(path)
