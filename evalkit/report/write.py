"""Writes a run's report.html from its results' folder, where the page that is there is not already of them."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from evalkit.report.run_folder import Run
from evalkit.utils.files import sha256_bytes, sha256_file, sha256_json, write_text

NAME = "report.html"
MARK_DIGITS = 32
_MARK = re.compile(rb'<meta name="evalkit-report" content="([^"]*)">')
_END = re.compile(rb"<!-- ([0-9a-f]{64}) -->\n?$")  # the digest of all that stands before it
_END_BYTES = 80


def write_report(out: Path) -> Path:
    """Writes `out`/report.html from the results in `out`; does nothing where the page is already of these results.

    Raises:
        DataError: there is no results.json, or it cannot be read.
    """
    run, path = Run.open(out), out / NAME
    if _mark_of(path) != _mark(run):
        write_page(run, path)
    return path


def write_page(run: Run, path: Path) -> None:
    """Writes a run's page to `path`, whole or not at all."""
    from evalkit.report.page import make_page

    page = make_page(run, _mark(run)).rstrip("\n") + "\n"
    write_text(path, f"{page}<!-- {sha256_bytes(page.encode())} -->\n")


def _mark(run: Run) -> str:
    """What a page depends on: the run's files, and this package."""
    return sha256_json([run.digest, _code()])[:MARK_DIGITS]


@cache
def _code() -> list[str]:
    here = Path(__file__).parent
    files = sorted([*here.glob("*.py"), *here.glob("templates/*")])
    return [sha256_file(file) for file in files if file.is_file()]


def _mark_of(path: Path) -> str | None:
    """The mark of the page that is there; none where there is none, or it is not whole."""
    try:
        page = path.read_bytes()
    except OSError:
        return None
    end = _END.search(page, max(len(page) - _END_BYTES, 0))
    if end is None or sha256_bytes(page[: end.start()]).encode() != end[1]:
        return None
    match = _MARK.search(page)
    return match[1].decode("ascii", "replace") if match else None
