"""Cells of a CSV that no spreadsheet runs, and which are read back exactly.

A text that a spreadsheet would take for a formula (a prompt such as `=cmd|'/C calc'!A0`) is written after a single
quote, as OWASP advises; so is one that begins with quotes and then such a sign, so that reading is exact. Numbers stay.
"""

from __future__ import annotations

import re
from typing import Any

_RUN = re.compile("'*[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")  # the last four: their full-width forms
_QUOTED = re.compile(f"'{_RUN.pattern}")


def safe(value: Any) -> Any:
    """A cell that no spreadsheet runs; `restored` gives the text back."""
    return f"'{value}" if isinstance(value, str) and _RUN.match(value) and not _is_number(value) else value


def restored(text: str) -> str:
    """The text that `safe` was given."""
    return text[1:] if _QUOTED.match(text) else text


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
