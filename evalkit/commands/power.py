"""`evalkit power`: before the budget is spent."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from evalkit.commands.program import Action, app
from evalkit.errors import EXIT_DONE, ConfigError

if TYPE_CHECKING:
    from evalkit.results.forecast import Forecast, Need, Outlook, Pilot


@app.command(short_help="How many samples tell a difference apart, from a pilot.")
def power(
    pilot: Annotated[Path, typer.Argument(metavar="RUN", help="a finished run's folder, or its results.json")],
    delta: Annotated[list[str] | None, typer.Option(metavar="METRIC=VALUE", help="a difference that matters")] = None,
    power: Annotated[float, typer.Option("--power", help="how often it is to be seen, 0 to 1")] = 0.8,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> Action:
    """How many samples per cell tell a difference apart, paired and unpaired, and what they cost: from a pilot.

    Two-sided at 5 %. Without --delta the pilot's own differences are taken: the smallest, the median, the largest.
    """
    return functools.partial(_print_power, pilot, delta or (), power, as_json)


def _print_power(path: Path, deltas: Sequence[str], power: float, as_json: bool) -> int:
    from evalkit.results.forecast import make_outlook

    if not 0.05 < power < 1:
        raise ConfigError(f"--power {power:g}: give a share above 0.05 and below 1, such as 0.8")
    outlook = make_outlook(load_pilot(path), _read_deltas(deltas), power)
    if as_json:
        print(json.dumps(outlook.to_json(), indent=2))
    else:
        _print(outlook)
    return EXIT_DONE


def load_pilot(path: Path) -> Pilot:
    """A finished run as a pilot.

    Raises:
        ConfigError: no results.json there, or one that cannot be read.
    """
    from evalkit.gate.baseline import EarlierRun
    from evalkit.results.csv_files import read_heads
    from evalkit.results.forecast import Pilot

    run = EarlierRun.load(str(path), "power")
    folder = path if path.is_dir() else path.parent
    samples = folder / "samples.csv"
    heads = set(read_heads(samples)) if samples.is_file() else set()
    means = {metric for _, metric in run.influences if metric in heads}  # others' heads end in .influence
    return Pilot(run.table, run.influences, run.clusters, run.pairing, means)


def _read_deltas(texts: Sequence[str]) -> dict[str, float]:
    deltas = {}
    for text in texts:
        metric, _, value = text.partition("=")
        try:
            deltas[metric] = abs(float(value))
        except ValueError:
            raise ConfigError(f"--delta {text}: give METRIC=VALUE, such as fid=2") from None
        if not metric or not math.isfinite(deltas[metric]) or not deltas[metric]:
            raise ConfigError(f"--delta {text}: the difference must be a finite number other than 0")
    return deltas


def _print(outlook: Outlook) -> None:
    from rich.table import Table
    from rich.text import Text

    from evalkit.results.terminal import make_console
    from evalkit.utils.text import letters

    console = make_console()

    def show(title: str, heads: Sequence[str], lines: Sequence[Sequence[str]], left: int) -> None:
        view = Table(title=Text(title), title_justify="left")
        for place, head in enumerate(heads):
            view.add_column(head, justify="left" if place < left else "right", overflow="fold")
        for line in lines:
            view.add_row(*map(Text, line))
        console.print(view)

    title = f"Samples per cell that tell a difference apart {100 * outlook.power:.0f} times in 100, two-sided at 5 %"
    heads = ("metric", "cells", "difference", "r", "N paired", "N unpaired", "N with Holm", "±", "hours")
    names = [name for f in outlook.forecasts for name in (f.cell, f.baseline) if name]
    keys = {name: letters(place) for place, name in enumerate(sorted(set(names)))}
    show(title, heads, [_line(forecast, keys) for forecast in outlook.forecasts], 2)
    designs = [forecast for forecast in outlook.forecasts if forecast.designs]
    if designs:
        ks = [f"{d.k} per prompt" for d in designs[0].designs]
        lines = [
            [f.label, f"{f.delta:.3g}", *(f"{_count(d.prompts)} ({_count(d.samples)})" for d in f.designs)]
            for f in designs
        ]
        show("Prompts (samples) per cell, by samples per prompt", ("metric", "difference", *ks), lines, 1)
        alike = {f.label: f.designs[-1] for f in designs}
        told = "; ".join(f"{label} {(d.effect - 1) / (d.k - 1):.2f}" for label, d in alike.items())
        console.print(f"How alike samples of one prompt are, of what is compared: {told}.", highlight=False)
    for name, key in keys.items():
        console.print(f"{key}: {name}", markup=False, highlight=False)
    count = max(forecast.comparisons for forecast in outlook.forecasts)
    console.print(
        f"N with Holm: at its first step, p < 5 % / {count}, where all comparisons of a metric count. "
        "±: two standard errors of the pilot's spread. Hours: of both cells' samples, on the pilot's device.",
        style="dim",
        highlight=False,
    )
    for note in outlook.notes:
        console.print(note, style="dim", markup=False, highlight=False)


def _line(forecast: Forecast, keys: Mapping[str, str]) -> list[str]:
    def samples(need: Need | None) -> str:
        return "–" if need is None else _count(need.samples)

    best = forecast.need
    factor = f" (x{best.with_holm / best.samples:.1f})" if best.with_holm and best.samples else ""
    one, other = keys[forecast.cell], keys.get(forecast.baseline or "")
    cells = f"{one} - {other}" if other else f"two like {one}"
    return [
        forecast.label,
        cells,
        f"{forecast.delta:.3g}",
        "–" if forecast.correlation is None else f"{forecast.correlation:.2f}",
        samples(forecast.paired),
        samples(forecast.unpaired),
        _count(best.with_holm) + factor,
        f"{100 * forecast.doubt:.0f} %",
        _hours(best.hours),
    ]


def _count(number: Any) -> str:
    return "never" if number is None else f"{number:,}"


def _hours(hours: float | None) -> str:
    return "–" if hours is None else f"{hours:.3f}" if hours < 0.1 else f"{hours:,.1f}"
