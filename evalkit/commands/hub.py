"""`evalkit card` and `push`: a run's scores and files for the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from evalkit.commands.program import Action, app
from evalkit.errors import EXIT_DONE

_RUN = "a run's folder, its results.json, or its name in the store"
_Store = Annotated[Path, typer.Option(help="where a run is looked for by its name")]


@app.command(short_help="Print a run's scores as a model card's model-index.")
def card(
    run: Annotated[str, typer.Argument(help=_RUN)],
    cell: Annotated[str | None, typer.Option(help="whose scores; not needed where there is one cell")] = None,
    name: Annotated[str | None, typer.Option(help="of the model; by default the cell's")] = None,
    metric: Annotated[list[str] | None, typer.Option("--metric", help="these alone")] = None,
    into: Annotated[Path | None, typer.Option(metavar="README.md", help="put it into this model card")] = None,
    store: _Store = Path("runs"),
) -> Action:
    """Print a cell's scores as the model-index YAML of a model card, with standard errors and protocols."""

    def act() -> int:
        from evalkit.history.card import card_yaml, choose_cell, put_into
        from evalkit.history.registry import find_run

        found = find_run(run, store)
        chosen = choose_cell(found, cell)
        metrics = [each for given in metric or [] for each in given.split(",")]
        if into is None:
            print(card_yaml(found, chosen, name, metrics))
        else:
            count = put_into(into.expanduser(), found, chosen, name, metrics)
            print(f"{into}: {count} scores in its model-index")
        return EXIT_DONE

    return act


@app.command(short_help="Put a run's tables and report on the Hugging Face hub (--upload).")
def push(
    run: Annotated[str, typer.Argument(help=_RUN)],
    repo: Annotated[str, typer.Argument(metavar="USER/NAME", help="the repository")],
    repo_type: Annotated[str, typer.Option(help="model, dataset or space")] = "model",
    folder: Annotated[str | None, typer.Option(help="in the repository; by default evalkit/RUN")] = None,
    public: Annotated[bool, typer.Option("--public", help="make a new repository public")] = False,
    samples: Annotated[bool, typer.Option("--samples", help="samples.csv too: prompts, and paths of here")] = False,
    also: Annotated[list[Path] | None, typer.Option(help="a further file: board.html")] = None,
    upload: Annotated[bool, typer.Option("--upload", help="send it; without this nothing is sent")] = False,
    store: _Store = Path("runs"),
) -> Action:
    """Tell which files of a run would go to the Hugging Face hub, and send them with --upload, as one commit.

    results.json and config.yaml hold the configuration, the host's name and paths of this machine.
    """

    def act() -> int:
        from evalkit.history.hub import plan_push, push_to_hub
        from evalkit.history.registry import find_run
        from evalkit.history.text import print_lines

        more = [path.expanduser() for path in also or []]
        found = find_run(run, store)
        planned = plan_push(
            found, repo, repo_type=repo_type, folder=folder, private=not public, samples=samples, more=more
        )
        print_lines(planned.lines())
        address = push_to_hub(planned, upload=upload)
        print_lines([f"pushed: {address}" if address else "nothing was sent: --upload sends it"])
        return EXIT_DONE

    return act
