"""The table: what is marked best, what stands apart, and what each format holds."""

import csv
import io
import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from evalkit.errors import ConfigError, DataError
from evalkit.results import render
from evalkit.results.compare import compare
from evalkit.results.table import MISSING, ResultTable, Row


def row(cell: str, metric: str = "fid", value: float | None = 1.0, **more: Any) -> Row:
    protocol = more.pop("protocol", {"n": 100})
    fields: dict[str, Any] = {
        "cell": cell,
        "model": cell.split("-")[0],
        "sampler": None,
        "prompts": None,
        "settings": {},
        "seed": 0,
        "metric": metric,
        "label": metric.upper(),
        "value": value,
        "stderr": None,
        "n": 100,
        "better": "lower",
        "protocol": protocol,
        "protocol_hash": json.dumps(protocol),
    }
    return Row(**{**fields, **more})


def make(*rows: Row) -> ResultTable:
    comparisons, best = compare(rows, baseline=None, influences={}, pairing={})
    return ResultTable(run={"name": "test"}, rows=rows, comparisons=comparisons, best=best)


def test_best_follows_the_metrics_direction() -> None:
    table = make(
        row("a", value=3.0),
        row("b", value=2.0),
        row("a", "is", 3.0, better="higher"),
        row("b", "is", 2.0, better="higher"),
    )
    assert [column.best for column in table.columns] == [{"b"}, {"a"}]
    assert "**2.00**" in render.to_markdown(table)


def test_ties_are_all_best_and_a_single_cell_is_not() -> None:
    assert make(row("a"), row("b")).columns[0].best == {"a", "b"}
    assert make(row("a")).columns[0].best == set()


def test_protocols_are_never_ranked_together() -> None:
    table = make(row("a", value=3.0), row("b", value=4.0), row("c", value=1.0, protocol={"n": 50}))
    column = table.columns[0]
    assert column.best == {"a"}
    assert column.odd == {"c"}
    notes = table.footnotes()
    assert any("c is not comparable" in note and "n is 50, not 100" in note for note in notes)
    assert "1.00 †" in render.to_markdown(table)


@pytest.mark.parametrize("value", [None, float("nan"), float("inf")])
def test_a_missing_value_is_never_best(value: float | None) -> None:
    table = make(row("a", value=value, note="no prompts"), row("b", value=5.0), row("c", value=6.0))
    assert table.columns[0].best == {"b"}
    assert MISSING in render.to_markdown(table)


def test_a_missing_value_says_why() -> None:
    assert any("2 were cut (a)" in n for n in make(row("a", note="2 were cut"), row("b")).footnotes())
    assert any("no prompts (a)" in n for n in make(row("a", value=None, note="no prompts"), row("b")).footnotes())


def test_results_json_reads_back_equal(tmp_path: Path) -> None:
    table = make(row("a", stderr=0.25, details={"std": 0.5}, settings={"guidance_scale": 4.0}), row("b", value=None))
    render.write(table, tmp_path)
    again = ResultTable.load(tmp_path / "results.json")
    assert again == ResultTable(run=table.run, rows=tuple(table.rows), notes=())
    data = json.loads((tmp_path / "results.json").read_text())
    assert data["schema"] == 2
    needed = {"cell", "model", "sampler", "prompts", "settings", "metric", "value", "stderr", "n", "better"}
    assert needed | {"protocol_hash"} <= set(data["rows"][0])
    assert "protocol" not in data["rows"][0]
    assert data["protocols"] == {json.dumps({"n": 100}): {"n": 100}}  # once, though two rows rest on it


@pytest.mark.parametrize(
    "text", ["", "{}", "[1]", '{"schema": 99, "run": {}, "rows": []}', '{"schema":1,"run":{},"rows":[{}]}']
)
def test_a_wrong_results_json_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(DataError, match=r"results\.json"):
        ResultTable.load(tmp_path / "results.json")


def as_schema_1(data: dict[str, Any]) -> dict[str, Any]:
    """As evalkit 0.1.0 wrote it: each row with its protocol."""
    protocols = data.pop("protocols")
    for each in data["rows"]:
        each["protocol"] = protocols[each["protocol_hash"]]
        del each["unsure"]
    return {**data, "schema": 1}


def test_a_results_json_of_the_first_schema_is_read(tmp_path: Path) -> None:
    table = make(row("a"), row("b", value=2.0, protocol={"n": 50}), row("c", value=3.0))
    path = tmp_path / "results.json"
    path.write_text(json.dumps(as_schema_1(table.to_json())))
    assert ResultTable.load(path) == replace(table, rows=tuple(table.rows), comparisons=tuple(table.comparisons))


def altered(place: tuple[Any, ...], value: Any) -> str:
    """A results.json with one value changed; the text "NaN" and the like stand for themselves."""
    data = make(row("a"), row("b", value=2.0)).to_json()
    inner: Any = data
    for part in place[:-1]:
        inner = inner[part]
    inner[place[-1]] = value
    text = json.dumps(data)
    return text.replace('"@NaN"', "NaN").replace('"@1e999"', "1e999").replace('"@huge"', "1" + "0" * 400)


WRONG: list[tuple[tuple[Any, ...], Any, str]] = [
    (("rows", 1, "value"), "12", r"rows\[1\]\.value must be number or null: '12'"),
    (("rows", 0, "value"), True, r"rows\[0\]\.value must be number or null: True"),
    (("rows", 0, "value"), "@NaN", "not JSON: NaN is no number"),
    (("rows", 0, "stderr"), "@1e999", "the number 1e999 is too large"),
    (("rows", 0, "value"), "@huge", r"rows\[0\]\.value must be smaller than"),
    (("rows", 0, "n"), "many", r"rows\[0\]\.n must be integer: 'many'"),
    (("rows", 0, "settings"), None, r"rows\[0\]\.settings must be object: None"),
    (("rows", 1, "better"), "up", r"rows\[1\]\.better must be one of \['lower', 'higher'\]: 'up'"),
    (("rows", 1, "new"), 1, r"rows\[1\] must not contain \{'new'\} properties"),
    (("rows", 1), [], r"rows\[1\] must be object"),
    (("rows", 1, "protocol_hash"), "x", r"rows\[1\]\.protocol_hash: there is no protocol 'x'"),
    (("run",), [], "run must be object"),
    (("run", "cells"), {"a": 1}, r"run\.cells\.a must be string: 1"),
    (("run", "images"), {"a": {"count": 0, "warnings": {}}}, r"run\.images\.a\.count must be bigger than"),
    (("comparisons", 0, "p"), "0", r"comparisons\[0\]\.p must be number or null"),
    (("best",), {"fid": "a"}, r"best\.fid must be array"),
    (("gate",), {}, r"gate must contain \['status'\]"),
    (("lint",), [1], r"lint\[0\] must be object"),
]


@pytest.mark.parametrize(("place", "value", "message"), WRONG)
def test_a_value_of_a_wrong_kind_is_named_by_row_and_key(
    tmp_path: Path, place: tuple[Any, ...], value: Any, message: str
) -> None:
    path = tmp_path / "results.json"
    path.write_text(altered(place, value))
    with pytest.raises(DataError, match=message) as error:
        ResultTable.load(path)
    assert "\n" not in str(error.value)
    assert str(error.value).startswith(f"{path}: ")


@pytest.mark.parametrize("text", ["[" * 200_000, '{"a":' * 200_000, '{"schema": ' + "1" * 6000 + "}", "\udcff"])
def test_json_that_breaks_readers_is_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "results.json"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(DataError, match=r"results\.json: not JSON: "):
        ResultTable.load(path)


def test_two_protocols_never_share_a_hash(tmp_path: Path) -> None:
    data = as_schema_1(make(row("a"), row("b")).to_json())
    data["rows"][1]["protocol"] = {"n": 7}
    (tmp_path / "results.json").write_text(json.dumps(data))
    with pytest.raises(DataError, match=r"rows\[1\]: another row has the hash"):
        ResultTable.load(tmp_path / "results.json")


def test_csv_keeps_full_precision_and_one_line_a_cell() -> None:
    table = make(row("a", value=1 / 3, stderr=0.1), row("b", value=2.0))
    lines = list(csv.DictReader(io.StringIO(render.to_csv(table))))
    assert [line["cell"] for line in lines] == ["a", "b"]
    assert float(lines[0]["fid"]) == 1 / 3
    assert float(lines[0]["fid.stderr"]) == 0.1


def test_latex_escapes_and_marks() -> None:
    text = render.to_latex(make(row("my_model", value=1.0, label="FID [a_b]"), row("b", value=2.0)))
    assert r"my\_model" in text
    assert r"FID [a\_b] $\downarrow$" in text
    assert r"\textbf{1.00}" in text
    assert r"\bottomrule" in text


def test_only_settings_that_differ_are_columns() -> None:
    same = [row(c, settings={"guidance_scale": 4.0, "num_inference_steps": s}) for c, s in (("a", 5), ("b", 10))]
    assert make(*same).grid[0] == ["model", "num_inference_steps", "N"]
    different = [row(c, settings={"guidance_scale": g}) for c, g in (("a", 1.0), ("b", 4.0))]
    assert make(*different).grid[0] == ["model", "guidance_scale", "N"]


def test_the_frame_is_tidy() -> None:
    frame = make(row("a"), row("a", "is", 2.0), row("b")).to_frame()
    assert len(frame) == 3
    assert {"cell", "metric", "value", "stderr", "protocol_hash"} <= set(frame.columns)


def test_without_pandas_the_frame_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)  # None: an import of it fails
    with pytest.raises(ConfigError, match=r"^to_frame\(\) needs pandas: pip install 'evalkit\[pandas\]'$"):
        make(row("a")).to_frame()


@pytest.mark.parametrize(
    ("value", "stderr", "text"),
    [
        (12.3456, None, "12.35"),
        (0.012345, None, "0.0123"),
        (1234.5, None, "1234"),
        (31.25, 0.125, "31.25 ± 0.12"),
        (None, None, "–"),
    ],
)
def test_values_have_about_four_digits(value: float | None, stderr: float | None, text: str) -> None:
    assert render.format_value(value, stderr) == text


def test_no_text_is_html_or_a_link_in_markdown() -> None:
    hostile = "<script>alert(1)</script> [x](javascript:y) ![z](u) a|b\nc `d` & 1 < 2"
    text = render.to_markdown(make(row("a", model=hostile, note=hostile), row("b", label=hostile)))
    assert not re.search(r"<[a-zA-Z/!?]|\]\(|(?<!\\)`", text)
    assert text.splitlines()[0].count("|") == text.splitlines()[1].count("|")
    assert "1 < 2" in text


def test_few_samples_stand_under_a_warning_and_are_never_best() -> None:
    few = [row(cell, value=value, n=16, unsure=True) for cell, value in (("a", 1.0), ("b", 2.0))]
    table = ResultTable({"name": "t"}, few)
    (note,) = table.footnotes()
    assert note.startswith("‡ Warning: N = 16: FID compare distributions, and of fewer than 50 samples")
    assert "1.00 ‡" in render.to_markdown(table)
    assert note in render.to_markdown(table)
    assert table.columns[0].ranked == []
