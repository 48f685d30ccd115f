"""The run's CSV files: no cell that a spreadsheet would run, and the same texts when they are read back."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evalkit.errors import DataError
from evalkit.results.csv_files import SAMPLE_HEADS, number, read_columns, read_heads, restored, safe, write_csv
from evalkit.utils import schema

FORMULAS = [
    "=cmd|'/C calc'!A0",
    "+1+cmd",
    "-2+3",
    "@SUM(1)",
    "\t=1",
    "\r=1",
    "\uff1d1+1",
    "'=already",
    "''@twice",
    "\n=x",
]


@pytest.mark.parametrize("text", FORMULAS)
def test_a_formula_is_text_and_comes_back(tmp_path: Path, text: str) -> None:
    path = tmp_path / "samples.csv"
    write_csv(path, [[*SAMPLE_HEADS, text], ["a", 0, "/x.png", text, text, -0.5]])
    with path.open(newline="", encoding="utf-8") as file:
        raw = [cell for line in csv.reader(file) for cell in line]
    assert not [cell for cell in raw if cell[:1] in set("=+-@\t\r\n\uff1d") and cell != "-0.5"]
    assert read_heads(path) == [*SAMPLE_HEADS, text]
    assert list(read_columns(path, ("prompt", "category", text))) == [(pytest.approx(3, abs=2), [text, text, "-0.5"])]


@pytest.mark.parametrize("value", ["-1", "+2.5", "1e-3", -3, 0.5, None, "'tis", "plain", "a=b", "", "'"])
def test_numbers_and_plain_texts_stay_as_they_are(value: Any) -> None:
    assert safe(value) == value
    assert restored(str(value)) == str(value)


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="'=+-@\t\r\n1e.a\uff1d\u2028", max_size=6))
def test_every_text_comes_back(text: str) -> None:
    assert restored(safe(text)) == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no column 'cell'"),
        ("cell,fid\na", r"samples\.csv:2: 1 cells where the header has 2: it is cut off"),
        ('cell,fid\n"a', r"samples\.csv:2: not a CSV"),
        ("cell,index\na,0\n", "no column 'fid'"),
        ("cell,fid\na,x\n", r"line 2 is no number: 'x'"),
        ("cell,fid\na,nan\n", r"line 2 is no number: 'nan'"),
        ("cell,fid\na,1e999\n", r"line 2 is no number: '1e999'"),
        ("cell,fid\n\0,1\n\0", "cut off"),
    ],
)
def test_a_damaged_file_is_named_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "samples.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        [number(value, f"line {line}") for line, (_, value) in read_columns(path, ("cell", "fid"))]


def test_the_published_schema_tells_of_the_lines() -> None:
    line: dict[str, Any] = dict(zip(SAMPLE_HEADS, ("a", 0, "/x.png", "a cat", ""), strict=True))
    schema.check(line | {"fid.influence": -0.5, "clip_score": ""}, "samples", "samples.csv:2")
    for wrong in ({"index": "0"}, {"fid.influence": "x"}, {"prompt": None}):
        with pytest.raises(DataError, match=r"^samples\.csv:2: "):
            schema.check(line | wrong, "samples", "samples.csv:2")
    for name in ("results", "samples", "gate"):
        json.dumps(schema.schema(name))
