"""Texts for people."""

from __future__ import annotations

import re

# What a terminal obeys: CSI (colours, the cursor), OSC (titles, links, up to BEL or ST), and the short ones.
_ESCAPES = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]|(?:\x1b[\]PX^_]|\x9d)[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)?|\x1b[ -/]*[0-~]"
)
_MOST = 300


def one_line(error: BaseException | str, most: int = _MOST) -> str:
    """An error's message, or another program's text, as it may be printed: on one line, without what a terminal obeys.

    Line breaks become spaces; terminal escapes, control characters, and characters that cannot be seen (of which some
    turn the direction of writing) are dropped; it is cut at `most` characters. An error without a message gives its
    type's name.
    """
    text = _ESCAPES.sub("", str(error)[: 20 * most])
    text = "".join(letter for letter in " ".join(text.split()) if letter.isprintable())
    text = " ".join(text.split()) or (type(error).__name__ if isinstance(error, BaseException) else "")
    return text if len(text) <= most else text[: most - 3] + "..."
