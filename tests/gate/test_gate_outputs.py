"""What a verdict is written as: valid JUnit XML, short Markdown, annotations of one line, whatever the names hold."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from gate_fakes import fid, gate, judged

from evalkit.gate import Verdict, announce, remove, write
from evalkit.gate.outputs import to_annotations, to_junit, to_markdown

ODD = '<b>\x00\x1b[31m|`\u202e\ud800 & "q" ]]> 💥 %\r\n::error::x\ufffe' + 500 * "x"


def odd_verdict(many: int = 1) -> Verdict:
    verdict = judged(gate({"metric": "fid", "max": 12}), fid("a", 20.0), fid("b", 12.1), fid("c", 1.0))
    odd = [replace(r, reason=ODD, cell=ODD, rule=ODD) for r in verdict.results for _ in range(many)]
    waived = replace(odd[0], waived={"reason": ODD, "until": "2025-07-01"})
    return replace(verdict, results=(*odd, waived), notes=(ODD,))


@pytest.mark.parametrize("odd", [False, True])
def test_junit_is_valid_and_counts(odd: bool) -> None:
    xmlschema = pytest.importorskip("xmlschema", reason="a development dependency")
    schema = xmlschema.XMLSchema(str(Path(__file__).parents[1] / "helpers" / "junit.xsd"))
    verdict = odd_verdict() if odd else judged(gate({"metric": "fid", "max": 12}), fid("a", 20.0), fid("b", 12.1))
    text = to_junit(verdict)
    schema.validate(text)
    (suite,) = ElementTree.fromstring(text.encode())
    cases = suite.findall("testcase")
    assert int(suite.get("tests") or 0) == len(cases) == len(verdict.results)
    for tag, count in (("failure", "failures"), ("error", "errors"), ("skipped", "skipped")):
        assert int(suite.get(count) or 0) == sum(case.find(tag) is not None for case in cases)
    assert suite.get("failures") == "1"
    assert not schema.is_valid(text.replace(' hostname="localhost"', ""))  # the schema can refuse


def test_markdown_says_the_verdict_first_and_stays_short() -> None:
    verdict = judged(gate({"metric": "fid", "max": 12}), fid("a", 20.0), fid("b", 12.1), fid("c", 1.0))
    lines = to_markdown(verdict).splitlines()
    assert lines[0] == "## ❌ gate g: failed (3 checks: 1 failed, 1 inconclusive, 1 passed)"
    assert "| ❌ fail | `fid max 12` | `a` | 20 | 19.83 | 12 |" in to_markdown(verdict)
    assert "`c`" not in to_markdown(verdict)
    assert "Passed: `fid max 12` (1 cell)." in lines
    text = to_markdown(odd_verdict(many=400))
    assert len(text) < 30_000
    assert "more: junit.xml and results.json hold all" in text
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert len(rows) == 22  # a heading, its rule, and the 20 worst
    assert {line.replace("\\|", "").count("|") for line in rows} == {8}  # no text opens a cell of its own
    assert "<b>" not in text.replace("`<b>", "")  # as code it stays text
    assert "\x1b" not in text


def test_annotations_are_one_line_each_and_few() -> None:
    lines = to_annotations(odd_verdict(many=30))
    assert all(line.startswith(("::error title=", "::warning title=", "::notice title=")) for line in lines)
    assert not any("\n" in line or "\r" in line for line in lines)
    assert sum(line.startswith("::error") for line in lines) == 10
    assert "%25%0D%0A::error::x" in lines[0]
    passed = to_annotations(judged(gate({"metric": "fid", "max": 12}), *(fid(n, 1.0) for n in "abc")))
    assert passed == ["::notice title=gate::gate g: passed (3 checks: 3 passed)"]


def test_files_are_written_and_those_of_an_earlier_gate_removed(tmp_path: Path) -> None:
    write(odd_verdict(), tmp_path)
    assert (tmp_path / "gate.md").read_text(encoding="utf-8").startswith("## ❌ gate g: failed")
    ElementTree.parse(tmp_path / "junit.xml")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["gate.md", "junit.xml"]
    remove(tmp_path)
    assert not list(tmp_path.iterdir())
    remove(tmp_path)


def test_the_terminal_and_github_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    verdict = judged(gate({"metric": "fid", "max": 12}), fid("a", 20.0), fid("b", 12.1), fid("c", 1.0))
    for name in ("GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY"):
        monkeypatch.delenv(name, raising=False)
    announce(verdict)
    plain = capsys.readouterr().out
    assert plain.startswith("gate g: failed (3 checks: 1 failed, 1 inconclusive, 1 passed)")
    assert "fail fid max 12, a: 20 ± 0.1" in plain
    assert "::error" not in plain
    summary = tmp_path / "summary.md"
    summary.write_text("before\n")
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    announce(verdict)
    assert "\n::error title=gate g%3A fail::fid max 12, a: 20 ± 0.1" in capsys.readouterr().out
    assert summary.read_text(encoding="utf-8") == "before\n" + to_markdown(verdict)
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "no" / "such"))
    announce(odd_verdict())  # neither odd text nor a summary that cannot be written loses the verdict
    assert "no summary written" in capsys.readouterr().out
