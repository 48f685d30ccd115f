"""Tables: where rows and cells end, and which quotes count."""

from __future__ import annotations

import csv
import io
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalkit.errors import DataError
from evalkit.utils.tables import lines_of, parse_table, table_kind


def rows(text: str, name: str = "p.tsv") -> list[dict[str, Any]]:
    return [row for _, row in parse_table(Path(name), text.encode())]


def column(text: str, name: str = "p.tsv") -> list[str]:
    return [row["p"] for row in rows(text, name)]


@pytest.mark.parametrize(
    ("cell", "value"),
    [
        ('"G I G G L E" painted on a wall', '"G I G G L E" painted on a wall'),  # as line 1,562 of PartiPrompts
        ('the words "A B"', 'the words "A B"'),
        ('"A" and "B"', '"A" and "B"'),  # starts and ends with a quote, but inner ones are not doubled
        ('"opens a quote', '"opens a quote'),
        ('"', '"'),
        ('""', ""),
        ('"""A"" and ""B"""', '"A" and "B"'),  # as pandas writes the one before
        ('"a dog, ""Rex"""', 'a dog, "Rex"'),
        ('"plain"', "plain"),
        ('"a\tb"', "a\tb"),
        ('"a\nb"', "a\nb"),
        ('"a\r\nb\tc\nd ""e"""', 'a\r\nb\tc\nd "e"'),
        ("a\u2028b\u0085c\x0cd\x0be\x1cf", "a\u2028b\u0085c\x0cd\x0be\x1cf"),
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_cells_of_a_tsv(cell: str, value: str, end: str) -> None:
    """In the first, the middle and the last column; the rows after it are read as well."""
    after = f"1\t2\t3{end}"
    assert column(f"p\tq\tr{end}{cell}\tx\ty{end}{after}") == [value, "1"]
    assert column(f"q\tp\tr{end}x\t{cell}\ty{end}{after}") == [value, "2"]
    assert column(f"q\tr\tp{end}x\ty\t{cell}{end}{after}") == [value, "3"]
    assert column(f"q\tr\tp{end}x\ty\t{cell}") == [value]


def test_a_cell_that_opens_a_quote_swallows_nothing() -> None:
    assert column('p\tq\n"Hello\t1\nb\t2\nsays "c"\t3\nthe "d"\t4\n') == ['"Hello', "b", 'says "c"', 'the "d"']
    assert column('q\tp\n1\t"Hello\n2\tb\n3\tc"\n') == ['"Hello', "b", 'c"']  # each line is a row by itself
    assert column('p\n"Hello\nb\nc"\n') == ['"Hello', "b", 'c"']
    with pytest.raises(DataError, match=r"^p\.tsv:2: 1 cells where the header has 2: quote cells"):
        rows('p\tq\n"a b c\nd\te\n')


# Tabs or line ends: of both in one cell, lines may come out that are rows by themselves.
TEXT = st.sampled_from(['ab "\t\u2028,', 'ab "\n\r\u2028,']).flatmap(
    lambda letters: st.text(letters, min_size=1, max_size=9)
)


@given(
    cells=st.lists(st.tuples(TEXT, TEXT, st.sampled_from("xyz")), min_size=1, max_size=6),
    end=st.sampled_from(["\n", "\r\n"]),
)
def test_what_the_csv_module_writes_is_read(cells: list[tuple[str, str, str]], end: str) -> None:
    """With all quoted."""
    buffer = io.StringIO(newline="")
    csv.writer(buffer, delimiter="\t", lineterminator=end, quoting=csv.QUOTE_ALL).writerows([("p", "q", "r"), *cells])
    assert [tuple(row.values()) for row in rows(buffer.getvalue())] == cells


def test_lines_end_at_line_ends_alone() -> None:
    assert lines_of("a\u2028b\u0085c\x0cd\x0be\x1cf\r\ng\rh\ni") == ["a\u2028b\u0085c\x0cd\x0be\x1cf", "g", "h", "i"]
    assert column('{"p": "a\u2028b"}\r\n{"p": "c\u0085"}\r{"p": "d"}', "p.jsonl") == ["a\u2028b", "c\u0085", "d"]
    assert column("p,q\ra\u2028b,c\rd\x0ce,f\r", "p.csv") == ["a\u2028b", "d\x0ce"]
    with pytest.raises(DataError, match=r"p\.csv:3: not UTF-8 \(byte 0xff\)"):
        list(parse_table(Path("p.csv"), b"p\ra\rb\xff"))


@pytest.mark.parametrize(
    ("name", "text", "kind"),
    [
        ("p.json", '["a"]', "json"),
        ("p.json", '{"p": "a"}', "json"),
        ("p.json", '{"p": "a"}\n{"p": "b"}\n', "jsonl"),
        ("p.json", '{\n"p": "a"\n}', "json"),
        ("p", '{"p": "a"}', "json"),
        ("p", '{"p": "a"}\n{"p": "b"}', "jsonl"),
        ("p", '\n["a",\n"b"]', "json"),
        ("p.jsonl", '["a"]', "jsonl"),
        ("p", "p\tq, r", "\t"),
        ("p.txt", "p", ","),
    ],
)
def test_kinds(name: str, text: str, kind: str) -> None:
    assert table_kind(Path(name), text) == kind


@pytest.mark.parametrize("row", ['"a\tb\n', 'x\t"\n', '"a""\t"b""\n', '""""""""""\tb\n', '"\t"\n', '"" \tb\n'])
def test_hostile_quotes_cost_little(row: str) -> None:
    began = time.process_time()
    assert len(rows("p\tq\n" + row * 20_000)) == 20_000
    assert time.process_time() - began < 2
