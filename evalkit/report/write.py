"""Writes a run's report.html from its results' folder, where the page that is there is not already of them."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from evalkit.report.run_folder import Run
from evalkit.utils.files import sha256_file, sha256_json, write_text

NAME = "report.html"
HEAD = 4096  # bytes in which a page's mark stands
MARK_DIGITS = 32


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

    write_text(path, make_page(run, _mark(run)))


def _mark(run: Run) -> str:
    """What a page depends on: the run's files, and this package."""
    return sha256_json([run.digest, _code()])[:MARK_DIGITS]


@cache
def _code() -> list[str]:
    here = Path(__file__).parent
    files = sorted([*here.glob("*.py"), *here.glob("templates/*")])
    return [sha256_file(file) for file in files if file.is_file()]


def _mark_of(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            match = re.search(rb'<meta name="evalkit-report" content="([^"]*)">', file.read(HEAD))
    except OSError:
        return None
    return match[1].decode("ascii", "replace") if match else None
