"""`evalkit runs`, `show`, `compare`, `history`, `leaderboard` and `view`: runs over time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from evalkit.commands.program import Action, app
from evalkit.errors import EXIT_DONE, ConfigError

_RUN = "a run's folder, its results.json, or its name in the store"
_Place = Annotated[str, typer.Argument(metavar="[DIR]", help="a store (a folder or a URL), or a folder of stores")]
_Json = Annotated[bool, typer.Option("--json", help="print JSON")]
_Store = Annotated[str, typer.Option(help="where a run is looked for by its name")]


@app.command(short_help="List the runs below a folder, newest first.")
def runs(
    place: _Place = "runs",
    as_json: _Json = False,
) -> Action:
    """List the runs below a folder, newest first, from their results.json alone."""

    def act() -> int:
        from evalkit.history.registry import Registry
        from evalkit.history.text import print_json, print_runs

        registry = Registry.read(place)
        if not as_json:
            return print_runs(registry)
        registry.say()
        print_json({"runs": [run.to_json() for run in registry.runs], "passed_over": list(registry.passed_over)})
        return EXIT_DONE

    return act


@app.command(short_help="Show how a run was made, and its scores.")
def show(run: Annotated[str, typer.Argument(help=_RUN)], store: _Store = "runs", as_json: _Json = False) -> Action:
    """Show a run's configuration, versions, protocols, machine, commit, headline and table."""

    def act() -> int:
        from evalkit.history.registry import find_run
        from evalkit.history.text import print_json, print_run

        found = find_run(run, store)
        if not as_json:
            return print_run(found)
        print_json({**found.to_json(), "results": found.table.to_json()})
        return EXIT_DONE

    return act


@app.command(short_help="Compare a run with an earlier one; the exit code is a gate.")
def compare(
    before: Annotated[str, typer.Argument(metavar="RUN_A", help=_RUN)],
    after: Annotated[str, typer.Argument(metavar="RUN_B", help="likewise; differences are RUN_B less RUN_A")],
    metric: Annotated[list[str] | None, typer.Option("--metric", help="compare these alone")] = None,
    within: Annotated[list[str] | None, typer.Option(metavar="METRIC=MARGIN", help="how much worse is allowed")] = None,
    cell: Annotated[list[str] | None, typer.Option(metavar="A=B", help="compare these two cells")] = None,
    store: _Store = "runs",
    as_json: _Json = False,
) -> Action:
    """Show what differs between two runs: configuration, versions, protocols, and every score with its interval.

    \b
    Exit code 0: nothing got significantly worse (5 %, Holm over all scores);
              3: something did, or was shown to be worse by more than its margin (--within);
              4: a score could not be compared (it is gone, or its protocol is another one),
                 or whether it is within its margin is not decided.
    """

    def act() -> int:
        from evalkit.history.compare import compare_runs
        from evalkit.history.registry import find_run
        from evalkit.history.text import print_comparison, print_json

        margins = {name: _number(value, f"--within {name}") for name, value in _pairs(within, "--within")}
        names = [name for given in metric or [] for name in given.split(",")]
        cells = dict(_pairs(cell, "--cell"))
        found = (find_run(before, store), find_run(after, store))
        comparison = compare_runs(*found, metrics=names, within=margins, cells=cells)
        if not as_json:
            return print_comparison(comparison)
        print_json(comparison.to_json())
        return comparison.exit_code

    return act


@app.command(short_help="Follow a metric over the runs below a folder.")
def history(
    metric: Annotated[str, typer.Argument(metavar="METRIC", help="its name in the configuration: fid")],
    place: _Place = "runs",
    by: Annotated[str, typer.Option(help="a series per cell, or per model (its best cell of each run)")] = "cell",
    match: Annotated[str, typer.Option(help="only names that hold this")] = "",
    last: Annotated[int | None, typer.Option(min=1, help="only so many runs of each series")] = None,
    most: Annotated[int, typer.Option(min=1, help="series that are printed per protocol")] = 8,
    svg: Annotated[Path | None, typer.Option(help="write the plot to this file")] = None,
    as_json: _Json = False,
) -> Action:
    """Follow a metric over runs: each score against the run before, with a plot; protocols stand apart.

    Steps are paired where the samples are; p is corrected for the steps of a series (Holm).
    """

    def act() -> int:
        from evalkit.history.course import follow
        from evalkit.history.registry import Registry
        from evalkit.history.text import print_course, print_json
        from evalkit.utils.files import write_text

        registry = Registry.read(place)
        registry.say()
        course = follow(registry, metric, by=by, last=last, match=match)
        if svg is not None:
            from evalkit.history.plot import to_svg

            write_text(svg.expanduser(), to_svg(course))
        if not as_json:
            return print_course(course, most)
        print_json(course.to_json())
        return EXIT_DONE

    return act


@app.command(short_help="Write a page that ranks the cells of all runs.")
def leaderboard(
    place: _Place = "runs",
    out: Annotated[Path, typer.Option(help="the page to write; the JSON has its name")] = Path("board.html"),
    metric: Annotated[list[str] | None, typer.Option("--metric", help="these alone")] = None,
    title: Annotated[str, typer.Option(help="of the page")] = "Leaderboard",
) -> Action:
    """Write a static page over the runs below a folder: filter, sort, ranks that chance cannot give; and its JSON.

    Scores of different protocols are never in one table.
    """

    def act() -> int:
        from evalkit.history.board import make_boards
        from evalkit.history.board_page import write_board
        from evalkit.history.registry import Registry

        path = out.expanduser()
        if path.suffix == ".json":
            raise ConfigError(f"--out {out}: name the page (board.html); the JSON next to it gets its name")
        registry = Registry.read(place)
        registry.say()
        boards = make_boards(registry, [name for given in metric or [] for name in given.split(",")])
        page, beside = write_board(registry, boards, path, title)
        size = page.stat().st_size / 1e6
        print(f"{page} ({size:.2f} MB) and {beside}: {len(boards)} tables of {len(registry.runs)} runs")
        return EXIT_DONE

    return act


@app.command(short_help="Show all runs and samples on a local page.")
def view(
    place: Annotated[str, typer.Argument(metavar="[DIR]", help="a store, or a folder of stores")] = "runs",
    port: Annotated[int, typer.Option(min=0, max=65535, help="of 127.0.0.1; 0: a free one")] = 0,
    also: Annotated[list[Path] | None, typer.Option(help="a further folder whose images may be shown")] = None,
) -> Action:
    """Show all runs and all samples below a folder on a page of this machine alone, images in full size.

    It needs pip install 'evalkit[view]', writes nothing, and answers to 127.0.0.1 and localhost only.
    """

    def act() -> int:
        from evalkit.utils.blobs import is_url
        from evalkit.view.serve import serve

        if is_url(place):
            raise ConfigError(f"{place}: the pages show files of this machine: copy the store here, and give the copy")
        return serve(Path(place).expanduser(), port=port, also=[folder.expanduser() for folder in also or []])

    return act


def _pairs(given: Sequence[str] | None, option: str) -> list[tuple[str, str]]:
    pairs = [tuple(text.split("=", 1)) for text in given or []]
    for text, pair in zip(given or [], pairs, strict=True):
        if len(pair) != 2 or not all(pair):
            raise ConfigError(f"{option} {text}: give two parts with = between them")
    return [(pair[0], pair[1]) for pair in pairs]


def _number(text: str, what: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ConfigError(f"{what}={text}: give a number") from None
