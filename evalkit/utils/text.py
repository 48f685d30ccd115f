"""Texts for people."""

from __future__ import annotations

from evalkit.errors import printable

_MOST = 300


def one_line(error: BaseException | str, most: int = _MOST) -> str:
    """An error's message, or another program's text, as it may be printed (`printable`), cut at `most` characters.

    White space is one space each. An error without a message gives its type's name.
    """
    text = " ".join(printable(str(error)[: 20 * most]).split())
    text = text or (type(error).__name__ if isinstance(error, BaseException) else "")
    return text if len(text) <= most else text[: most - 3] + "..."


def letters(number: int) -> str:
    """0 is A, 25 is Z, 26 is AA: what stands for a cell on the terminal and in the report."""
    return (letters(number // 26 - 1) if number >= 26 else "") + chr(ord("A") + number % 26)
