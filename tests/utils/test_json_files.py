"""JSON of others: a value, or a DataError of one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from evalkit.errors import DataError
from evalkit.utils.json_files import MAX_DEPTH, parse_json, read_json


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("[" * 200_000, "nested more than 100 deep"),
        ("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), "nested more than 100 deep"),
        ('{"a":' * 120 + "1" + "}" * 120, "nested more than 100 deep"),
        ("9" * 6000, "Exceeds the limit"),
        ('{"prompt": "\\ud800"}', "half of a surrogate pair"),
        ('{"\\udc00": 1}', "half of a surrogate pair"),
        (b'{"prompt": "\xff"}', "can't decode byte 0xff"),
        ('{"a": 1,\n "b" 2}', r"Expecting ':' delimiter \(line 2, column 6\)"),
        ("", r"Expecting value \(column 1\)"),
    ],
)
def test_what_is_no_json_is_one_line(data: str | bytes, message: str) -> None:
    with pytest.raises(DataError, match=f"^a/b.jsonl:3: not JSON: .*{message}") as caught:
        parse_json(data, "a/b.jsonl:3")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["NaN", '{"a": [Infinity]}', "-Infinity", "1e999", '{"a": -1e400}'])
def test_numbers_that_are_none(text: str) -> None:
    parse_json(text, "x")  # others write them
    with pytest.raises(DataError, match=r"^x: not JSON: .*(is no number|is too large)"):
        parse_json(text, "x", finite=True)


def test_values(tmp_path: Path) -> None:
    value = {"a": [1, 2.5, None, True, "\U0001f600 é"], "b": {"[": "{" * 500}}
    deep = json.loads("[" * MAX_DEPTH + "]" * MAX_DEPTH)
    for data in (json.dumps(value), json.dumps(value).encode("utf-8-sig"), json.dumps(value).encode("utf-16")):
        assert parse_json(data, "x", finite=True) == value
    assert parse_json(json.dumps(deep), "x") == deep
    (tmp_path / "a.json").write_bytes(json.dumps(value, ensure_ascii=False).encode("utf-8-sig"))
    assert read_json(tmp_path / "a.json") == value
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "b.json")
