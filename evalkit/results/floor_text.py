"""What the noise floor in `table.run` says of scores, in words (`evalkit.results.noise_floor` measures it)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Run = Mapping[str, Any]

WITHIN, IDENTICAL, BEYOND = "within the noise floor", "identical", "beyond the noise floor"
RUN = "noise_floor"  # the key of a table's `run`, and of its rows' details
NEAR = "≈"  # marks values that are within the floor


def floor_of(run: Run, metric: str) -> Mapping[str, Any] | None:
    """A metric's entry in the floor; none where it has none."""
    found: Mapping[str, Any] | None = (run.get(RUN) or {}).get("metrics", {}).get(metric)
    return found


def verdict(run: Run, cell: str, metric: str) -> str:
    """What a score is called next to the floor; "" where it is not held against it."""
    return str((run.get(RUN) or {}).get("cells", {}).get(metric, {}).get(cell, ""))


def is_within(run: Run, cell: str, metric: str) -> bool:
    """Whether a score does not differ from the baseline's by more than the baseline from itself."""
    return verdict(run, cell, metric) in (WITHIN, IDENTICAL)


def floor_text(run: Run, cell: str, metric: str) -> str:
    """A metric's floor as the baseline's line shows it, which has no score of pairs of its own; "" of other cells."""
    about = floor_of(run, metric)
    if about is None or about["kind"] != "pairs" or cell != run.get("baseline"):
        return ""
    return f"floor {about['shown']}"


def floor_lines(run: Run) -> list[str]:
    """What must be read with a table that has a floor: how it was measured, and each metric's."""
    floor = run.get(RUN)
    if not floor:
        return []
    parts = []
    for about in floor["metrics"].values():
        by = "" if about["identical"] else f" ({about['worst']})"
        sign = "± " if about["kind"] == "difference" and not about["identical"] else ""
        parts.append(f"{about['label']} {sign}{about['shown']}{by}")
    names = ", ".join(remake["name"] for remake in floor["remakes"])
    return [
        f"{NEAR} within the noise floor: no farther from the baseline than the baseline is from itself, made again "
        f"({names}; N = {floor['n']}): {', '.join(parts)}."
    ]
