"""Metadata next to images: what is used, what is seen and not used, rows without files and files without rows."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from hostile import pngs, write_zip

from evalkit.data.open import open_images
from evalkit.data.records import ReadOptions
from evalkit.errors import DataError


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    monkeypatch.setattr(logging.getLogger("evalkit"), "propagate", True)
    caplog.set_level(logging.WARNING)
    return caplog


def folder(place: Path, texts: dict[str, str], count: int = 3, below: str = "") -> Path:
    for name, data in (*pngs(count).items(), *((name, text.encode()) for name, text in texts.items())):
        path = place / (name if name in texts else below + name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return place


WHOLE = "file_name,prompt\n000.png,a\n001.png,b\n002.png,c\n"
SEEN = "seen, and not used"


@pytest.mark.parametrize(
    ("texts", "prompts", "words"),
    [
        ({"metadata.csv": WHOLE}, ["a", "b", "c"], None),
        ({}, [None] * 3, None),
        ({"README.txt": "x", "config.json": "{}", "000.txt": "a"}, ["a", None, None], None),
        (
            {"captions.csv": WHOLE},
            [None] * 3,
            f"captions.csv: {SEEN}: prompts are read from metadata.jsonl or metadata",
        ),
        ({"my_prompts.json": "[]", "annotations.parquet": ""}, [None] * 3, f"annotations.parquet and 1 more: {SEEN}"),
        ({"metadata.json": "[]", "metadata.tsv": ""}, [None] * 3, f"metadata.json and 1 more: {SEEN}"),
        (
            {
                "metadata.jsonl": "".join(f'{{"file_name": "00{i}.png", "prompt": "j"}}\n' for i in range(3)),
                "metadata.csv": "",
            },
            ["j", "j", "j"],
            f"metadata.csv: {SEEN}",
        ),
        (
            {"metadata.csv": "file_name,title,seed\n000.png,a,1\n"},
            [None] * 3,
            f"metadata.csv: {SEEN}: no column prompt, text, caption (it has seed, title)",
        ),
        ({"metadata.csv": "file_name,category\n000.png,a\n"}, [None] * 3, None),  # its classes are used
        (
            {"metadata.csv": "file_name,prompt\n001.png,b\n"},
            [None, "b", None],
            "metadata.csv: 2 of 3 images have no row there, such as 000.png",
        ),
        (
            {"metadata.csv": WHOLE + "000.png,again\n"},
            ["again", "b", "c"],
            "metadata.csv: 1 rows name an image that an earlier row names: the last one counts",
        ),
        (
            {"metadata.csv": WHOLE, "000.txt": "x", "001.txt": "y"},
            ["a", "b", "c"],
            "metadata.csv: its prompts are taken; 2 texts next to images are not used",
        ),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_what_is_not_used_is_told_in_one_line(
    tmp_path: Path,
    told: pytest.LogCaptureFixture,
    texts: dict[str, str],
    prompts: list[Any],
    words: str | None,
    packed: bool,
) -> None:
    if packed:
        place = write_zip(tmp_path / "a.zip", {**pngs(3), **{name: text.encode() for name, text in texts.items()}})
    else:
        place = folder(tmp_path / "set", texts)
    assert list(open_images(place).prompts) == prompts
    assert len(told.messages) == (words is not None), told.messages
    assert words is None or (words in told.messages[0] and "\n" not in told.messages[0])
    told.clear()
    open_images(place, ReadOptions(prompts=None))
    assert not told.messages


def test_metadata_above_and_in_other_folders(tmp_path: Path, told: pytest.LogCaptureFixture) -> None:
    place = folder(
        tmp_path / "set", {"prompts.csv": "", "elsewhere/captions.csv": "", "a/b/labels.json": ""}, below="a/b/"
    )
    open_images(place)
    (line,) = told.messages
    assert "a/b/labels.json and 1 more: seen, and not used" in line


def test_rows_without_files_are_counted(tmp_path: Path) -> None:
    rows = "file_name,prompt\n000.png,a\n" + "".join(f"gone{i}.png,x\n" for i in range(7))
    place = folder(tmp_path / "set", {"metadata.csv": rows})
    with pytest.raises(
        DataError, match=r"metadata.csv:3: names 'gone0.png', which is not there \(6 more rows like it\)"
    ):
        open_images(place)
    with pytest.raises(DataError, match=r"001.png: no prompt for this image and 1 more of 3 \(prompts=p.csv\)"):
        open_images(folder(tmp_path / "other", {"p.csv": WHOLE[:27]}), ReadOptions(prompts="p.csv"))


@pytest.mark.parametrize("line", ["[" * 200_000, '{"file_name": "000.png", "n": ' + "9" * 6000 + "}", "3"])
def test_rows_that_are_no_objects(tmp_path: Path, line: str) -> None:
    place = folder(tmp_path / "set", {"metadata.jsonl": line})
    with pytest.raises(DataError, match=r"metadata.jsonl:1: (not JSON|a JSON object such as)") as caught:
        open_images(place)
    assert "\n" not in str(caught.value)
    (place / "metadata.jsonl").unlink()
    (place / "000.json").write_text(line)
    if line != "3":
        with pytest.raises(DataError, match=r"000.json: not JSON"):
            open_images(place)
