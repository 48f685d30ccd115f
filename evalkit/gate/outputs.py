"""A verdict for CI and for people: junit.xml, gate.md, GitHub's annotations and summary, the terminal."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from xml.etree import ElementTree

from evalkit.gate.verdict import Result, Verdict
from evalkit.utils.files import write_text

FILES = ("junit.xml", "gate.md")
MARKS = {"pass": "✅", "fail": "❌", "inconclusive": "⚠️", "waived": "⏸️"}
WORDS = {"pass": "passed", "fail": "failed", "inconclusive": "inconclusive", "waived": "waived"}
MOST_ROWS = 20  # of gate.md's table, and of each kind on the terminal: junit.xml and results.json hold all
MOST_TEXT = 300  # characters of a reason in gate.md
MOST_ANNOTATIONS = 10  # GitHub shows no more of a kind and step


def write(verdict: Verdict, out: Path) -> None:
    """Writes junit.xml and gate.md into a run's folder."""
    write_text(out / "junit.xml", to_junit(verdict))
    write_text(out / "gate.md", to_markdown(verdict))


def remove(out: Path) -> None:
    """Removes what an earlier run with a gate left: it does not speak of this one."""
    for name in FILES:
        (out / name).unlink(missing_ok=True)


def headline(verdict: Verdict) -> str:
    """Such as "gate digits: failed (12 checks: 1 failed, 11 passed)"."""
    counts = ", ".join(f"{count} {WORDS[status]}" for status, count in verdict.counts.items())
    names = ", ".join(verdict.gates)
    return f"gate {names}: {WORDS[verdict.status]} ({_many(len(verdict.results), 'check')}: {counts})"


def to_junit(verdict: Verdict) -> str:
    """One suite per gate, one case per rule and cell: <failure>, <error> where inconclusive, <skipped> where waived.

    In the form that both Ant's and Jenkins' schemas accept: Ant's wants all attributes, Jenkins' times without sign.
    """
    root = ElementTree.Element("testsuites")
    for number, gate in enumerate(verdict.gates):
        results = [result for result in verdict.results if result.gate == gate]
        shown = [result.shown for result in results]
        about = {"name": _xml(gate), "package": "evalkit.gate", "id": str(number), "timestamp": verdict.at}
        about |= {"hostname": "localhost", "tests": str(len(results)), "failures": str(shown.count("fail"))}
        about |= {"errors": str(shown.count("inconclusive")), "skipped": str(shown.count("waived")), "time": "0"}
        suite = ElementTree.SubElement(root, "testsuite", about)
        ElementTree.SubElement(suite, "properties")
        for result in results:
            _add_case(suite, result)
        ElementTree.SubElement(suite, "system-out").text = _xml("\n".join([headline(verdict), *verdict.notes]))
        ElementTree.SubElement(suite, "system-err")
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def _add_case(suite: ElementTree.Element, result: Result) -> None:
    about = {"classname": _xml(f"{result.gate}.{result.cell}"), "name": _xml(result.rule), "time": "0"}
    case, reason = ElementTree.SubElement(suite, "testcase", about), _xml(result.reason)
    if result.waived:
        ElementTree.SubElement(case, "skipped", message=_xml(f"{_waiver(result)}; it was {result.status}: {reason}"))
    elif result.status != "pass":
        tag = "failure" if result.status == "fail" else "error"
        ElementTree.SubElement(case, tag, type=result.status, message=reason).text = reason


def to_markdown(verdict: Verdict) -> str:
    """The verdict first; what did not pass in full, the worst first; the rest counted. Short whatever the run."""
    lines = [f"## {MARKS[verdict.status]} {_md(headline(verdict))}", ""]
    open_ones = _open(verdict)
    if open_ones:
        lines += ["| | rule | cell | score | bound | limit | why |", "| --- | --- | --- | ---: | ---: | ---: | --- |"]
        for result in open_ones[:MOST_ROWS]:
            figures = ("–" if x is None else f"{x:.4g}" for x in (result.value, result.bound, result.limit))
            names = (_code(result.rule), _code(result.cell))
            texts = (f"{MARKS[result.shown]} {result.shown}", *names, *figures, _md(_cut(_why(result))))
            lines.append(f"| {' | '.join(texts)} |")
        if len(open_ones) > MOST_ROWS:
            lines.append(f"\n... and {len(open_ones) - MOST_ROWS} more: junit.xml and results.json hold all.")
        lines.append("")
    passed = [result.rule for result in verdict.results if result.shown == "pass"]
    rules = list(dict.fromkeys(passed))
    if rules:
        passed_rules = [f"{_code(rule)} ({_many(passed.count(rule), 'cell')})" for rule in rules[:MOST_ROWS]]
        passed_rules += [f"{len(rules) - MOST_ROWS} more rules"] if len(rules) > MOST_ROWS else []
        lines += [f"Passed: {'; '.join(passed_rules)}.", ""]
    notes = [*verdict.notes[:MOST_ROWS], *(["..."] if len(verdict.notes) > MOST_ROWS else [])]
    lines += [*(f"- Note: {_md(_cut(note))}." for note in notes), *([""] if notes else [])]
    lines.append("Bounds are one-sided, at 95 % confidence; inconclusive and missing are never a pass.")
    return "\n".join(lines) + "\n"


def announce(verdict: Verdict) -> None:
    """Prints the verdict; where GitHub Actions runs, as annotations and into the job's summary too."""
    from rich.text import Text

    from evalkit.results.terminal import make_console

    console = make_console()
    colours = {"pass": "green", "fail": "red", "inconclusive": "yellow", "waived": "cyan"}
    console.print(Text(_xml(headline(verdict)), style=f"bold {colours[verdict.status]}"))
    open_ones = _open(verdict)
    for result in open_ones[:MOST_ROWS]:
        what = _xml(f" {result.rule}, {result.cell}: {_why(result)}")
        console.print(Text.assemble((f"  {result.shown}", colours[result.shown]), what), soft_wrap=True)
    if len(open_ones) > MOST_ROWS:
        console.print(f"  ... and {len(open_ones) - MOST_ROWS} more (junit.xml)", markup=False)
    for note in verdict.notes:
        console.print(Text(_xml(f"  note: {note}")), soft_wrap=True)
    if os.environ.get("GITHUB_ACTIONS") == "true":
        sys.stdout.flush()
        print("\n".join(to_annotations(verdict)), flush=True)
    if summary := os.environ.get("GITHUB_STEP_SUMMARY"):
        try:
            with Path(summary).open("a", encoding="utf-8") as file:
                file.write(to_markdown(verdict))
        except OSError as error:  # the verdict stands whatever becomes of the summary
            console.print(
                f"  note: {summary}: {error.strerror or error}: no summary written", markup=False, soft_wrap=True
            )


def to_annotations(verdict: Verdict) -> list[str]:
    """GitHub's workflow commands: errors for failures, warnings where inconclusive, notices where waived."""
    lines = []
    for status, command in (("fail", "error"), ("inconclusive", "warning"), ("waived", "notice")):
        results = [result for result in verdict.results if result.shown == status]
        annotated = results if len(results) <= MOST_ANNOTATIONS else results[: MOST_ANNOTATIONS - 1]
        for result in annotated:
            title = _property(f"gate {result.gate}: {result.shown}")
            lines.append(f"::{command} title={title}::{_data(f'{result.rule}, {result.cell}: {_why(result)}')}")
        if len(results) > len(annotated):
            title = _property(f"gate: {len(results) - len(annotated)} more {WORDS[status]}")
            lines.append(f"::{command} title={title}::junit.xml and gate.md hold them")
    lines += [f"::notice title=gate::{_data(note)}" for note in verdict.notes[:MOST_ANNOTATIONS]]
    return lines or [f"::notice title=gate::{_data(headline(verdict))}"]


def _open(verdict: Verdict) -> list[Result]:
    """What did not pass: failures, then what is inconclusive, then what is waived."""
    order = ("fail", "inconclusive", "waived")
    return sorted((r for r in verdict.results if r.shown in order), key=lambda result: order.index(result.shown))


def _waiver(result: Result) -> str:
    assert result.waived
    return f"waived until {result.waived['until']}: {result.waived['reason']}"


def _why(result: Result) -> str:
    return f"{_waiver(result)}. {result.reason}" if result.waived else result.reason


def _many(count: int, word: str) -> str:
    return f"{count} {word}" if count == 1 else f"{count} {word}s"


def _cut(text: str) -> str:
    return text if len(text) <= MOST_TEXT else f"{text[: MOST_TEXT - 3]}..."


def _xml(text: str) -> str:
    """Without the characters that XML 1.0 cannot hold, not even escaped (controls, lone surrogates)."""
    return re.sub(r"[^\t\n\r\x20-\uD7FF\uE000-\uFFFD\U00010000-\U0010FFFF]", "\ufffd", text)


def _md(text: str) -> str:
    """Text in a cell of a Markdown table: on one line, nothing of it markup or HTML."""
    plain = " ".join(_xml(text).split())
    plain = plain.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*\[\]|~]|(?<!\w)_|_(?!\w))", r"\\\1", plain)


def _code(text: str) -> str:
    """Text as code in a cell of a Markdown table: a name keeps its underscores and its look."""
    return "`" + " ".join(_xml(_cut(text)).split()).replace("`", "'").replace("|", "\\|") + "`"


def _data(text: str) -> str:
    return _xml(text).replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
