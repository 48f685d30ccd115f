"""What all subcommands share: the program, and what each returns."""

from __future__ import annotations

from collections.abc import Callable

import typer

Action = Callable[[], int]
"""What is to be done, which gives the exit code. It is done outside of typer, which would keep Ctrl-C and errors."""

app = typer.Typer(
    add_completion=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    invoke_without_command=True,
    options_metavar="",
    subcommand_metavar="[FOLDER ...] [KEY=VALUE ...]  |  COMMAND",
    context_settings={"help_option_names": ["--help", "-h"]},
)
