"""Texts for people."""

from __future__ import annotations


def one_line(error: BaseException) -> str:
    """An error's message without its line breaks, cut at 300 characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else text[:297] + "..."
