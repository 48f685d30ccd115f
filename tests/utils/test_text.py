"""Messages of other programs, as they may be printed."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from evalkit.cli import _OneLine
from evalkit.data.open import open_images
from evalkit.errors import DataError
from evalkit.utils.text import one_line


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a\nb\r\n  c\x00d", "a b cd"),
        ("\x1b[31;1mError\x1b[0m: no\x1b[2K", "Error: no"),
        ("\x1b]8;;http://h/KEY\x1b\\link\x1b]8;;\x1b\\ \x1b]0;title\x07x", "link x"),
        ("\x9b31mred\x9d0;t\x9c \x1bPq#0\x1b\\six \x1b(Bx \x1b7y \x1bc", "red six x y"),
        ("\x1b", ""),
        ("abc\x1b[", "abc"),
        ("user\u202egnp.exe\u2066 zero\u200bwidth \ufeffbom\ud800", "usergnp.exe zerowidth bom"),
        ("caf\u00e9 \U0001f600 \u65e5\u672c", "caf\u00e9 \U0001f600 \u65e5\u672c"),
        ("x" * 400, "x" * 297 + "..."),
    ],
)
def test_one_line(text: str, line: str) -> None:
    assert one_line(text) == line
    assert one_line(ValueError(text)) == (line or "ValueError")


def test_errors_and_log_lines_are_printable(tmp_path: Path) -> None:
    """An image's name may hold what a terminal obeys; spaces of a path stay as they are."""
    error = DataError("a  b/\x1b[2J\x1b]0;owned\x07x\n\ry.png: broken\u202e")
    assert str(error) == "a  b/x y.png: broken"
    (tmp_path / "\x1b[31mred\x1b[0m.png").write_bytes(b"no image")
    with pytest.raises(DataError) as caught:
        open_images(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path}/red.png: not an image file")
    record = logging.LogRecord("evalkit", logging.INFO, "", 1, "%s: left out", ("\x1b[31ma\nb",), None)
    assert _OneLine().format(record) == "a b: left out"


def test_long_texts_cost_little() -> None:
    assert one_line("\x1b]" * 10_000_000) == ""
    assert one_line("abcdef", most=5) == "ab..."
