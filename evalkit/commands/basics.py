"""`evalkit ls`, `init`, `report` and `verify`."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Annotated

import typer

from evalkit.commands.program import Action, app

LISTED = ("metrics", "models", "samplers", "extractors", "benchmarks")


def _listed(incomplete: str) -> list[str]:
    return [name for name in LISTED if name.startswith(incomplete)]


@app.command(short_help="List metrics, models, samplers, extractors or benchmarks, and what is here.")
def ls(
    what: Annotated[str, typer.Argument(help=f"{', '.join(LISTED[:-1])} or {LISTED[-1]}", autocompletion=_listed)],
    config_dir: Annotated[str | None, typer.Option("--config-dir", "-cd")] = None,
) -> Action:
    """List metrics, models, samplers, extractors or benchmarks: what each is and needs, and what of it is here."""
    from evalkit.plan.catalogue import print_catalogue

    return functools.partial(print_catalogue, what, config_dir)


@app.command(short_help="Write a config, a gate and a CI workflow to start from.")
def init(folder: Annotated[Path, typer.Argument(help="where to; by default here")] = Path()) -> Action:
    """Write a config folder, prompts, a gate and a CI workflow to start from; nothing is overwritten."""
    from evalkit.config.starter import write_starter

    return functools.partial(write_starter, folder)


@app.command()
def report(
    results: Annotated[Path, typer.Argument(metavar="RUN", help="a run's folder, or its results.json")],
    out: Annotated[Path | None, typer.Option(help="the page to write")] = None,
    previous: Annotated[str | None, typer.Option(help="arrows against this earlier run; auto: the last one")] = None,
) -> Action:
    """Make a finished run's report.html again; with --previous its table tells what got better or worse since."""

    def act() -> int:
        from evalkit.report.__main__ import main as write

        if previous is not None:
            from evalkit.history.previous import write_previous
            from evalkit.history.registry import find_run

            before = write_previous(find_run(str(results)), previous)
            if before is not None:
                print(f"arrows against {before.name} of {before.day} UTC")
        return write([str(results), *(["--out", str(out)] if out else [])])

    return act


@app.command(short_help="Check a store against its digests.")
def verify(store: Annotated[Path, typer.Argument(help="a store's folder")] = Path("runs")) -> Action:
    """Read all that a store holds, compare it with its digests, and say how to fix what is wrong."""
    from evalkit.results.verify import print_verification

    return functools.partial(print_verification, store)
