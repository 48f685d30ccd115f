"""The golden table itself: what it refuses, what it writes, what it misses."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from golden import DEFAULT, FOLDERS, HEADS, ROOT, TEST, Golden, Table, peer


@pytest.mark.parametrize(("got", "tolerance"), [(1.02, {"rel": 1e-2}), (1.2, {"abs": 0.1}), (math.nan, {"abs": 9.0})])
def test_a_wrong_value_fails_and_is_listed(got: float, tolerance: dict[str, float]) -> None:
    lines: list[dict[str, Any]] = []
    with pytest.raises(AssertionError, match="kid: got"):
        Golden(lines.append)("kid", got, 1.0, source="by hand", **tolerance)
    assert "WRONG" in lines[0]["cells"][HEADS.index("tolerance")]


def test_relative_and_absolute() -> None:
    lines: list[dict[str, Any]] = []
    golden = Golden(lines.append)
    golden("kid", 1.0005e-3, 1e-3, source="a", rel=1e-3)
    golden("kid, std", 0.0, 0.0, source="b", rel=1e-9)
    golden("fid", 10.001, 10.0, source="c", abs=1e-2)
    found = [line["cells"][4:6] for line in lines]
    assert found == [["5.0e-04 rel", "0.001 rel"], ["0", "1e-09 rel"], ["1.0e-03", "0.01"]]
    with pytest.raises(AssertionError, match="give rel or abs"):
        golden("fid", 1.0, 1.0, source="d")
    with pytest.raises(pytest.skip.Exception):
        golden.skip("fid", "10.3", source="e", why="no weights")
    assert lines[-1]["cells"][3] == "not run here: no weights"
    assert peer("pytest") == f"pytest {pytest.__version__}"
    assert peer("no-such-package") == "no-such-package"


def report(when: str, *lines: dict[str, Any], skipped: str = "") -> Any:
    longrepr = ("test_a.py", 3, skipped)
    properties = [TEST, *(("golden", line) for line in lines)]
    return SimpleNamespace(
        when=when, user_properties=properties, skipped=bool(skipped), longrepr=longrepr, nodeid="t/test_a.py::test"
    )


def finished(
    file: Path, names: list[str], args: list[str], keyword: str = "", marks: str = DEFAULT
) -> tuple[Table, Any]:
    """The table after a run whose tests compared the metrics of these names, and the session."""
    options = SimpleNamespace(keyword=keyword, markexpr=marks)
    config: Any = SimpleNamespace(getoption=lambda name: str(file), args=args, option=options)
    table, session = Table(config), SimpleNamespace(config=config, exitstatus=0)
    for name in names:
        lines: list[dict[str, Any]] = []
        Golden(lines.append)(name, 1.0, 1.0, source="by hand", abs=0.0)
        table.pytest_runtest_logreport(report("call", *lines))
        table.pytest_runtest_logreport(report("teardown", *lines))
    table.pytest_runtest_logreport(report("setup", skipped="Skipped: no package"))
    table.pytest_sessionfinish(session)  # type: ignore[arg-type]
    shown = SimpleNamespace(section=lambda title: None, write_line=lambda line, **style: None)
    table.pytest_terminal_summary(shown)  # type: ignore[arg-type]
    return table, session


def test_a_run_without_m_is_a_whole_one(pytestconfig: pytest.Config) -> None:
    assert pytestconfig.getini("addopts")[-2:] == ["-m", DEFAULT]


def test_a_metric_without_a_line_fails_a_whole_run(tmp_path: Path) -> None:
    every = sorted(path.stem for path in (ROOT / "configs/metric").glob("*.yaml"))
    whole = [str(folder) for folder in FOLDERS]
    table, session = finished(tmp_path / "a.md", every[1:], whole)
    assert (table.missing, session.exitstatus) == ([every[0]], 1)
    text = (tmp_path / "a.md").read_text("utf-8").splitlines()
    assert text[0] == "| " + " | ".join(HEADS) + " |"
    assert len(text) == 2 + len(every)  # one line is missing, one is that of the test that was skipped
    assert "not run here: Skipped: no package" in text[-1]
    assert finished(tmp_path / "a.md", [*every, "kid, std"], [str(ROOT / "tests" / "helpers")])[1].exitstatus == 0
    for part in ((whole[:1], ""), (whole, "vendi"), (whole, "", "slow")):
        assert finished(tmp_path / "a.md", [], *part)[1].exitstatus == 0, "a part of the tests compares a part"
