"""The golden table: tests check values with the fixture `golden`, and `pytest --golden-table=FILE` writes all of them.

    uv run pytest --golden-table=golden.md tests/metrics tests/extractors

A line says what was compared with what, how far apart they were and how far they may be. A run over both folders fails
where an option of configs/metric/ has no line.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from math import fabs
from pathlib import Path
from typing import Any, NoReturn

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = (ROOT / "tests/metrics", ROOT / "tests/extractors")
HEADS = ("metric", "peer or golden value", "expected", "got", "difference", "tolerance", "weights")
RANDOM, PUBLISHED, SHIPPED, NONE = "seeded random", "published", "shipped digits", "none"
TEST = ("golden", {})  # the property of each test that uses the fixture
DEFAULT = "not slow and not cluster"  # -m of pyproject.toml


def peer(package: str) -> str:
    """A package's name and installed version."""
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return package


class Golden:
    """Checks values and keeps a line of each; `record` takes it."""

    def __init__(self, record: Callable[[dict[str, Any]], None]) -> None:
        self._record = record

    def __call__(
        self,
        metric: str,
        got: float | None,
        expected: float,
        *,
        source: str,
        rel: float | None = None,
        abs: float | None = None,
        weights: str = NONE,
    ) -> None:
        """Asserts that `got` is `expected` within `rel` of it or within `abs`; one of the two is given.

        Args:
            metric: the option's name, and after a comma what of it: "kid, std".
            got, expected: of the metric built from its YAML, and of the peer.
            source: the peer with its version (`peer`), or who published the value; what it was computed on.
            rel, abs: the tolerance.
            weights: of the networks involved.
        """
        assert (rel is None) != (abs is None), "give rel or abs"
        assert got is not None, f"{metric}: no value"
        expected = float(expected)
        unit = 1.0 if rel is None else fabs(expected)
        difference = fabs(float(got) - expected) / unit if unit else float(got != expected)
        tolerance = abs if rel is None else rel
        right = difference <= (tolerance or 0)  # a NaN is not
        kind = "" if rel is None else " rel"
        figures = (f"{expected:.7g}", f"{got:.7g}", f"{difference:.1e}{kind}" if difference else "0")
        mark = "" if right else " WRONG"
        self._record({"cells": [metric, source, *figures, f"{tolerance:.3g}{kind}{mark}", weights]})
        assert right, f"{metric}: got {got!r}, expected {expected!r} ({source}); {difference:.2e} > {tolerance:g}{kind}"

    def skip(self, metric: str, expected: str, *, source: str, why: str, weights: str = PUBLISHED) -> NoReturn:
        """Lists a value that cannot be computed here, and skips the test."""
        self._record({"cells": [metric, source, expected, f"not run here: {why}", "", "", weights], "skipped": True})
        pytest.skip(why)


class Table:
    """Gathers the lines of all tests, of xdist's workers too, and writes them."""

    def __init__(self, config: pytest.Config) -> None:
        self.file = Path(config.getoption("golden_table"))
        self.lines: list[dict[str, Any]] = []
        self.missing: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        found = [dict(line) for name, line in report.user_properties if name == TEST[0]]
        if report.when == "teardown":
            self.lines += [line for line in found if line]
        elif report.skipped and found == [TEST[1]]:  # by a fixture, or for want of a package
            why = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
            test = report.nodeid.rpartition("/")[2]
            self.lines.append({"cells": ["", test, "", f"not run here: {why}", "", "", ""], "skipped": True})

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        whole = all(any(f.is_relative_to(Path(arg).resolve()) for arg in session.config.args) for f in FOLDERS)
        everything = session.config.option.markexpr in ("", DEFAULT)
        if whole and everything and not session.config.option.keyword:
            compared = {line["cells"][0].partition(",")[0] for line in self.lines if "skipped" not in line}
            self.missing = sorted({path.stem for path in (ROOT / "configs/metric").glob("*.yaml")} - compared)
        if self.missing and session.exitstatus == 0:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        rows = sorted((line["cells"] for line in self.lines), key=lambda cells: (not cells[0], cells))
        lines = [f"| {' | '.join(cells)} |" for cells in (HEADS, ["---"] * len(HEADS), *rows)]
        self.file.write_text("\n".join(lines) + "\n", encoding="utf-8")
        terminalreporter.section("golden values")
        for line in lines:
            terminalreporter.write_line(line)
        for name in self.missing:
            terminalreporter.write_line(f"configs/metric/{name}.yaml is compared with nothing", red=True)
