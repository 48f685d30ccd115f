"""`evalkit vote`: people say which of two cells' images is better, on a local page or an exported one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evalkit.commands.program import Action, app
from evalkit.errors import EXIT_DONE, ConfigError

if TYPE_CHECKING:
    from evalkit.history.registry import PastRun
    from evalkit.view.ballot import Ballot


@app.command(short_help="Ask people which of two cells' images is better.")
def vote(
    run: Annotated[str, typer.Argument(metavar="RUN", help="a run's folder, or its name in the store")],
    cells: Annotated[list[str] | None, typer.Option("--cells", help="these alone, by their names: A,B")] = None,
    prompts: Annotated[int, typer.Option(min=1, help="so many prompts at most, drawn at random")] = 1000,
    votes: Annotated[int, typer.Option(min=1, help="so many votes per voter, repeated items among them")] = 100,
    repeats: Annotated[float, typer.Option(min=0, max=0.5, help="the share of items that come again")] = 0.1,
    file: Annotated[Path | None, typer.Option(help="where votes go; by default RUN/votes.csv")] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="of 127.0.0.1; 0: a free one")] = 0,
    also: Annotated[list[Path] | None, typer.Option(help="a further folder whose images may be shown")] = None,
    export: Annotated[Path | None, typer.Option(metavar="DIR", help="write a page for people elsewhere")] = None,
    imported: Annotated[
        list[Path] | None, typer.Option("--import", metavar="FILE", help="add what such a page's voters sent")
    ] = None,
    agreement: Annotated[bool, typer.Option("--agreement", help="show how voters agree, and end")] = False,
    store: Annotated[str, typer.Option(help="where a run is looked for by its name")] = "runs",
) -> Action:
    """Ask people which of two cells' images is better: same prompt, same seed, blind, on a page of this machine.

    Votes are lines of votes.csv, only ever added to. Some items come again with their sides swapped: --agreement shows
    how often voters said the same. --export writes a page that needs no server, --import reads what it gave.

    The page needs pip install 'evalkit[view]', and answers to 127.0.0.1 and localhost only.
    """

    def act() -> int:
        from evalkit.history.registry import find_run
        from evalkit.utils.blobs import is_url
        from evalkit.view.ballot import Ballot, Choice
        from evalkit.votes.records import VOTES

        if (export is not None) + bool(imported) + agreement > 1:
            raise ConfigError("give one of --export, --import and --agreement")
        for place in (run, store):
            if is_url(place):
                raise ConfigError(
                    f"{place}: votes are on images of this machine: copy the store here, and give the copy"
                )
        found = find_run(run, store)
        path = (file or found.path.with_name(VOTES)).expanduser()
        if imported:
            return _import(found, imported, path)
        if agreement:
            return _agreement(path)
        folders = [folder.expanduser() for folder in also or []]
        for folder in folders:
            if not folder.is_dir():
                raise ConfigError(f"--also {folder}: there is no such folder")
        names = tuple(name for given in cells or [] for name in given.split(",") if name)
        ballot = Ballot(found, Choice(names, prompts, votes, repeats), file=path, also=folders)
        return _serve(ballot, port) if export is None else _export(ballot, export.expanduser())

    return act


def _serve(ballot: Ballot, port: int) -> int:
    from evalkit.utils.files import check_writable
    from evalkit.view.serve import check_packages, run_app
    from evalkit.view.voting import make_voting_app

    check_packages("evalkit vote")
    check_writable(ballot.file.absolute().parent)
    before = len(ballot.votes())
    code = run_app(make_voting_app(ballot), port, f"asks about {_asked(ballot)}; votes go to {ballot.file}")
    print(f"{ballot.file}: {len(ballot.votes()) - before:,} new votes, {len(ballot.votes()):,} in all")
    return code


def _asked(ballot: Ballot) -> str:
    pairs, samples = len(ballot.pairs), len(ballot.prompts)
    return f"{pairs:,} pair{'s' * (pairs != 1)} of cells, {samples:,} sample{'s' * (samples != 1)} each"


def _export(ballot: Ballot, folder: Path) -> int:
    from evalkit.view.vote_export import export

    made = export(ballot, folder)
    print(f"{made.folder}: {made.images:,} images, {made.size / 1e6:.1f} MB, up to {made.votes:,} votes per voter")
    print(f"{made.key} says which image is of which cell: keep it, and do not send it")
    return EXIT_DONE


def _import(run: PastRun, files: Sequence[Path], votes: Path) -> int:
    from evalkit.view.vote_export import import_votes

    for file in files:
        new, known = import_votes(run.path.parent, file.expanduser(), votes)
        print(f"{file}: {new:,} new lines in {votes}" + (f", {known:,} were there already" if known else ""))
    return EXIT_DONE


def _agreement(path: Path) -> int:
    from evalkit.history.text import print_lines, print_table
    from evalkit.numerics.binomial import clopper_pearson
    from evalkit.votes.agreement import overall, voters
    from evalkit.votes.records import read_votes

    def text(share: float | None, of: int, *, exact: bool = True) -> str:
        if share is None:
            return "–"
        low, high = clopper_pearson(share * of, of)
        return f"{share:.0%}{f' [{low:.0%}, {high:.0%}]' if exact else ''} of {of:,}"

    cast = read_votes(path)
    heads = ["voter", "votes", "same answer again", "same as others", "left rather than right", "seconds per vote"]
    lines = []
    for one in voters(cast):
        others = text(one.with_others, one.shared, exact=False)  # an item of three voters counts twice
        again, left = text(one.with_self, one.repeated), text(one.left, one.decided)
        lines.append([one.name, f"{one.votes:,}", again, others, left, f"{one.seconds:.1f}"])
    print_table(heads, lines, right=(1, 5))
    same, alpha, items = overall(cast)
    if same is not None:
        told = "" if alpha is None else f", Krippendorff's alpha {alpha:.2f}"
        print_lines([f"{items:,} items were voted on by several: they say the same in {same:.0%} of pairs{told}."])
    return EXIT_DONE
