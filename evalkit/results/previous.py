"""previous.json, which `evalkit report --previous` puts next to results.json: each score against an earlier run's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from evalkit.errors import DataError
from evalkit.results.render import format_value, signed
from evalkit.utils.json_files import read_json

NAME = "previous.json"


@dataclass(frozen=True)
class Step:
    """A score less the earlier run's.

    Attributes:
        new: the score that was compared: where the run has another one by now, this does not count.
        verdict: "better" or "worse" where that is significant.
        text: in words, for a tooltip.
    """

    new: float
    verdict: str
    text: str


@dataclass(frozen=True)
class Previous:
    """The earlier run's name and date, and by (cell, metric) the step from it."""

    run: str = ""
    date: str = ""
    steps: Mapping[tuple[str, str], Step] = field(default_factory=dict)


def read_previous(path: Path) -> Previous:
    """Reads a previous.json.

    Raises:
        DataError: it is none.
        OSError: it cannot be read.
    """
    data = read_json(path, finite=True)
    try:
        run, date = str(data["run"]), str(data["date"])
        steps = {}
        for change in data["changes"]:
            low, high, verdict = change["low"], change["high"], str(change["verdict"])
            gap = float(change["new"]) - float(change["old"])
            sure = f" [{signed(float(low))}, {signed(float(high))}]" if low is not None and high is not None else ""
            old, said = format_value(float(change["old"])), verdict or "no standard error"
            text = f"{run}: {old}, {signed(gap)}{sure} since: {said}"
            steps[str(change["cell"]), str(change["metric"])] = Step(float(change["new"]), verdict, text)
    except (LookupError, TypeError, ValueError) as error:
        raise DataError(f"{path}: not as `evalkit report --previous` writes it ({error})") from None
    return Previous(run, date, steps)
