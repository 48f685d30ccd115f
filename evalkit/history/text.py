"""Runs and their comparison as the terminal shows them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from evalkit.errors import EXIT_DONE, EXIT_GATE_FAILED, printable
from evalkit.history.compare import Change, RunComparison, about_protocols
from evalkit.history.course import Course, Point
from evalkit.history.registry import PastRun, Registry
from evalkit.results.protocols import protocol_difference
from evalkit.results.render import format_value, score_text, signed
from evalkit.results.table import ARROW, MISSING
from evalkit.results.terminal import make_console, print_results
from evalkit.utils.text import letters, one_line

MOST = 25  # lines of what differs; --json has all
SHOWN_VALUE = 60  # characters of a setting's value
COMMIT = 10  # digits of a commit


def print_json(value: Any) -> None:
    print(json.dumps(value, indent=1, ensure_ascii=False, default=str))


def print_lines(lines: Iterable[str]) -> None:
    """Lines of text as they are: no markup of a name is obeyed, nothing is wrapped."""
    for line in lines:
        print(printable(line))


def print_table(heads: Sequence[str], lines: Iterable[Sequence[str]], right: Sequence[int] = ()) -> None:
    """A table as wide as the terminal; `right` are the columns of numbers."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 0, 0, 1))
    for number, head in enumerate(heads):
        table.add_column(Text(head), justify="right" if number in right else "left", overflow="fold")
    for line in lines:
        table.add_row(*(Text(printable(cell)) for cell in line))
    make_console().print(table)


def print_runs(registry: Registry) -> int:
    """A line per run, newest first."""
    registry.say()
    lines = []
    for run in registry.runs:
        columns = run.table.columns
        gate = str((run.table.gate or {}).get("status", ""))
        best = columns[0].ranked[0] if columns and columns[0].ranked else None
        score = f"{columns[0].title} {score_text(best)}" if best is not None else MISSING
        commit = str(run.made.get("git") or "")[:COMMIT]
        counts = (str(len(run.table.cells)), str(len(columns)))
        lines.append([run.name, run.day, *counts, score, gate, commit, str(run.made.get("host") or "")])
    if lines:
        print_table(["run", "made (UTC)", "cells", "metrics", "best", "gate", "commit", "host"], lines, right=(2, 3))
    passed = len(registry.passed_over)
    more = f"; {passed} passed over" if passed else ""
    print(f"{len(lines)} {'run' if len(lines) == 1 else 'runs'} below {registry.place}{more}")
    return EXIT_DONE


def print_run(run: PastRun) -> int:
    """How a run was made, and its scores."""
    about = run.table.run
    made, versions = run.made, about.get("versions", {})
    facts = {
        "run": f"{about.get('name') or run.name} ({run.path}, schema {run.schema})",
        "made": f"{run.day} UTC" + ("" if run.dated else " (by the file's time: it tells none)"),
        "on": ", ".join(map(str, [made.get("host"), made.get("cpu"), *(made.get("gpu") or [])])) if made else None,
        "commit": made.get("git"),
        "command": about.get("command"),
        "reference": about.get("reference"),
        "training": about.get("training"),
        "baseline": about.get("baseline"),
        "store": about.get("store"),
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()) or None,
        "python": ", ".join(str(about[key]) for key in ("python", "platform") if key in about) or None,
        "seconds": ", ".join(f"{stage} {value:g}" for stage, value in (about.get("seconds") or {}).items()) or None,
        "gate": (run.table.gate or {}).get("status"),
    }
    print_lines(f"{name + ':':11}{one_line(str(value), 400)}" for name, value in facts.items() if value)
    config = about.get("config") or {}
    chosen = {key: value for key, value in config.items() if value not in (None, {}, [], "")}
    print_lines(["configuration:", *_lines_of(chosen)])
    protocols: dict[str, list[str]] = {}
    for column in run.table.columns:
        for row in column.rows.values():
            if row.value is not None and column.label not in protocols.setdefault(row.protocol_hash, []):
                protocols[row.protocol_hash].append(column.label)
    print_lines(["protocols:", *(f"  {key}  {', '.join(labels)}" for key, labels in protocols.items())])
    folder = run.path.parent
    print_results(
        run.table, folder, against_baseline=bool(about.get("baseline")), report=(folder / "report.html").is_file()
    )
    return EXIT_DONE


def print_comparison(comparison: RunComparison) -> int:
    """What differs, and by how much; returns the exit code of the comparison."""
    before, after = comparison.before, comparison.after
    print_lines([f"before: {before.name} ({before.day} UTC)", f"after:  {after.name} ({after.day} UTC)"])
    _print_differing("other configuration", comparison.config)
    _print_differing("other versions or machine", comparison.versions)
    _print_block("other protocols: not compared", list(about_protocols(comparison)))
    odd = [pair for pair in comparison.pairs if pair.before != pair.after]
    _print_block("cells of other names", [f"{pair.before} -> {pair.after} ({pair.by})" for pair in odd])
    for cells, run in zip(comparison.left, (before, after), strict=True):
        if cells:
            more = f" and {len(cells) - 4} more" if len(cells) > 4 else ""
            print_lines([f"only in {run.name}: {', '.join(cells[:4])}{more}"])
    heads = ["metric", "cell", "before", "after", "difference", "95 % interval", "p (Holm)", "verdict"]
    lines = [_line(change) for change in comparison.changes]
    if lines:
        print_table(heads, lines, right=(2, 3, 4))
    judged = [change for change in comparison.changes if change.within is not None]
    print_lines(
        f"{change.label} of {change.after}: {change.within[1]}, {change.note}" for change in judged if change.within
    )
    print_lines([_conclusion(comparison)])
    return comparison.exit_code


def _line(change: Change) -> list[str]:
    interval = (
        MISSING if change.low is None or change.high is None else f"{signed(change.low)} .. {signed(change.high)}"
    )
    p = MISSING if change.p_holm is None else "< 0.0001" if change.p_holm < 1e-4 else f"{change.p_holm:.4f}"
    gap = MISSING if change.difference is None else signed(change.difference)
    gap += "" if change.stderr is None else f" ± {format_value(change.stderr)}"
    verdict = change.verdict or "no standard error"
    verdict += " (paired)" if change.paired else ""
    if change.within is not None:
        verdict = f"{change.within[1]} (margin {change.within[0]:g})"
    elif change.verdict == "not comparable":
        verdict += f": {one_line(change.note, 120)}" if change.new is None else " (protocols)"
    values = (format_value(change.old), format_value(change.new))
    cell = change.before if change.before == change.after else f"{change.before} -> {change.after}"
    return [f"{change.label} {ARROW[change.better]}", cell, *values, gap, interval, p, verdict]


def _conclusion(comparison: RunComparison) -> str:
    """The last line: why the exit code is what it is."""
    counts: dict[str, int] = {}
    for change in comparison.changes:
        if change.status:
            counts[change.status] = counts.get(change.status, 0) + 1
    scores = sum(counts.values())
    if not scores:
        return "nothing could be compared: exit code 4"
    worse, untold = counts.get("fail", 0), counts.get("inconclusive", 0)
    if comparison.exit_code == EXIT_GATE_FAILED:
        return f"{worse} of {scores} scores got worse: exit code 3"
    if untold:
        return f"{untold} of {scores} scores could not be compared or decided, none got surely worse: exit code 4"
    return f"none of {scores} scores got significantly worse: exit code 0"


def _print_differing(title: str, differing: Mapping[str, tuple[Any, Any]]) -> None:
    _print_block(title, [f"{key}: {_shown(old)} -> {_shown(new)}" for key, (old, new) in differing.items()])


def _print_block(title: str, lines: Sequence[str]) -> None:
    if not lines:
        return
    rest = len(lines) - MOST
    print_lines([f"{title}:"])
    print_lines(f"  {line}" for line in lines[:MOST])
    if rest > 0:
        print(f"  ... and {rest} more (--json has all)")


def _shown(value: Any) -> str:
    return "none" if value is None else one_line(str(value), SHOWN_VALUE)


def _lines_of(config: Mapping[str, Any]) -> list[str]:
    """The configuration, a line per key of the root; config.yaml has it whole."""
    lines = [f"  {key}: {one_line(json.dumps(value, ensure_ascii=False), 110)}" for key, value in config.items()]
    return lines if len(lines) <= MOST else [*lines[:MOST], f"  ... and {len(lines) - MOST} more (config.yaml)"]


def print_course(course: Course, most: int) -> int:
    """A plot per protocol, and a line per series and run, newest first."""
    from evalkit.history.plot import text_plot

    console = make_console()
    title = f"{course.label} {ARROW[course.better]}"
    for key, series in course.by_protocol.items():
        shown = series[:most]
        rest = f" (the first {most} of {len(series)} series; --match chooses)" if len(series) > most else ""
        print_lines([f"{title}, protocol {key}{rest}"])
        print_lines(text_plot(shown, console.width))
        alone = len(shown) == 1
        print_lines(f"{'●' if alone else letters(number)}  {each.name}" for number, each in enumerate(shown))
        lines = [
            _point_line("●" if alone else letters(number), point)
            for number, each in enumerate(shown)
            for point in reversed(each.points)
        ]
        heads = ["", "run", "made (UTC)", title, "", "difference", "95 % interval", "p (Holm)", "verdict"]
        print_table(heads, lines, right=(3, 5))
    if len(course.by_protocol) > 1:
        first, *others = course.by_protocol.values()
        print_lines(
            f"protocol {each[0].protocol_hash} is not compared with {first[0].protocol_hash}: "
            f"{protocol_difference(each[0].protocol, first[0].protocol)}"
            for each in others
        )
    return EXIT_DONE


def _point_line(mark: str, point: Point) -> list[str]:
    step = point.step
    value = score_text(point.row)
    if step is None:
        return [mark, point.run.name, point.run.day, value, "", "", "", "", ""]
    interval = MISSING if step.low is None or step.high is None else f"{signed(step.low)} .. {signed(step.high)}"
    p = MISSING if point.p_holm is None else "< 0.0001" if point.p_holm < 1e-4 else f"{point.p_holm:.4f}"
    verdict = (point.verdict or "no standard error") + (" (paired)" if step.paired else "")
    return [mark, point.run.name, point.run.day, value, point.arrow, signed(step.value), interval, p, verdict]
