"""The command line: folders and overrides to score, subcommands next to them, errors of one line, exit codes for CI.

Subcommands are typer's (`evalkit.commands`); everything that is no subcommand is a run, whose grid Hydra composes.
"""

from __future__ import annotations

import functools
import logging
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple, NoReturn

import typer

from evalkit import __version__
from evalkit.commands import Action, app
from evalkit.errors import (
    EXIT_CONFIG,
    EXIT_DONE,
    EXIT_ERROR,
    EXIT_INTERRUPTED,
    EXIT_TERMINATED,
    ConfigError,
    EvalkitError,
    printable,
)
from evalkit.utils.files import disk_error
from evalkit.utils.progress import LogHandler, stage
from evalkit.utils.signals import Terminated, leave, sigterm_is_ctrl_c

if TYPE_CHECKING:
    from evalkit.config.schema import RunConfig
    from evalkit.plan.plan import Plan
    from evalkit.results.table import ResultTable

log = logging.getLogger(__name__)

# Where torchao is installed, `import diffusers` warns of what concerns their developers alone.
_CHATTY = ("torch.utils._pytree", "diffusers.quantizers.torchao.torchao_quantizer")


class _Show(NamedTuple):
    """How `--cfg job` prints the configuration."""

    package: str | None
    resolved: bool


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print evalkit's version.")] = False,
) -> None:
    """Which image generator is better, by how much, and is the difference real?

    \b
    evalkit                                    the demo: embedded models of digits
    evalkit FOLDER [REFERENCE]                 score a folder of images
    evalkit A B --reference REAL               compare folders, archives or tables of images
    evalkit model.diffusers.path=DIR prompts.text.path=prompts.txt
                                               make a model's images, and score them
    evalkit 'model=[A,B]' 'sampler=[ddim,unipc]' 'model.A.guidance_scale={sweep: [3, 7]}'
                                               a grid; docs/getting_started.md says how
    evalkit experiment=sampler_sweep           a recipe of docs/recipes/

    \b
    KEY=VALUE           any setting: metric=[fid,kid], num_samples=1000, seed={sweep: [0, 1]}, ...
    dry_run=true        print the cells and what is missing; make and fetch nothing
    --reference, -r R   a folder, archive or table of images, statistics (.npz), or an option's name
    --config-dir DIR    a folder with YAMLs of your own (`evalkit init` makes one)
    --cfg job           print the composed configuration
    --hydra-help        Hydra's own help
    """
    if version:
        print(f"evalkit {__version__}")


def _complete(incomplete: str) -> list[str]:
    """What a word of a run may go on as: groups with their options, settings, subcommands."""
    from evalkit.config.listing import complete_word

    return complete_word(incomplete, _names())


@app.command(hidden=True)
def run(
    words: Annotated[list[str] | None, typer.Argument(autocompletion=_complete)] = None,
    reference: Annotated[str | None, typer.Option("--reference", "-r")] = None,
    config_dir: Annotated[str | None, typer.Option("--config-dir", "-cd")] = None,
    config_name: Annotated[str, typer.Option("--config-name", "-cn")] = "eval",
    config_path: Annotated[str | None, typer.Option("--config-path", "-cp", hidden=True)] = None,
    cfg: Annotated[str | None, typer.Option("--cfg", "-c", help="job, hydra or all")] = None,
    resolved: Annotated[bool, typer.Option("--resolve")] = False,
    package: Annotated[str | None, typer.Option("--package", "-p")] = None,
    info: Annotated[str | None, typer.Option("--info", "-i")] = None,
    hydra_help: Annotated[bool, typer.Option("--hydra-help")] = False,
    multirun: Annotated[bool, typer.Option("--multirun", "-m", hidden=True)] = False,
) -> Action:
    """Scores folders, or runs a grid: see `evalkit --help`."""
    if multirun:
        raise ConfigError("--multirun is Hydra's, one run per job; evalkit runs a grid at once: seed={sweep: [0, 1]}")
    if config_path is not None:
        raise ConfigError("--config-path has no effect on evalkit's own configs: give --config-dir DIR for yours")
    if config_dir is not None and not Path(config_dir).is_dir():
        raise ConfigError(f"--config-dir {config_dir}: there is no such folder")
    flags = [*(["--hydra-help"] if hydra_help else []), *(["--info", info] if info else [])]
    if cfg in ("hydra", "all"):
        flags += ["--cfg", cfg, *(["--resolve"] if resolved else []), *(["--package", package] if package else [])]
    folder = str(Path(config_dir).resolve()) if config_dir else None
    if flags:
        flags += ["--config-dir", folder] if folder else []
        return functools.partial(_hydra, [*flags, *(words or [])])
    if cfg not in (None, "job"):
        raise ConfigError(f"--cfg {cfg}: give job, hydra or all")
    show = _Show(package, resolved) if cfg else None
    return functools.partial(_run, words or [], reference, folder, config_name, show)


def main(*, program: bool = True) -> None:
    """Runs the command line and exits with DESIGN's codes.

    Args:
        program: whether the process ends with it: then Ctrl-C does not wait for the interpreter to be taken apart.
    """
    _set_up_logging()
    if program:
        os.environ["MPLBACKEND"] = "agg"  # of a notebook's `!evalkit` it names the kernel's own, which may not be here
    try:
        with sigterm_is_ctrl_c():
            action = _parse(sys.argv[1:])
            code = action() if callable(action) else int(action or 0)
    except EvalkitError as error:
        _fail(error, error.exit_code)
    except BrokenPipeError:  # `evalkit ls metrics | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_ERROR)
    except KeyboardInterrupt as stop:
        command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
        code = EXIT_TERMINATED if isinstance(stop, Terminated) else EXIT_INTERRUPTED
        sys.stdout.flush()
        print(
            f"evalkit: stopped. All finished shards are kept; the same command goes on from there: {command}",
            file=sys.stderr,
        )
        if program:
            leave(code)
    if code:
        sys.exit(code)


def _parse(arguments: list[str]) -> Action | int | None:
    """What a command line asks for. What does not begin with a subcommand is a run.

    Raises:
        ConfigError: an option or argument that is not known, or lacks its value.
    """
    names = ["run", *_names()]
    first = arguments[0] if arguments else ""
    if first not in names and {"--help", "-h"} & set(arguments):
        arguments = ["--help"]
    elif first not in names and first not in ("--version", "--install-completion", "--show-completion"):
        arguments = ["run", *arguments]
    _complete_runs(names)
    command = typer.main.get_command(app)
    try:
        action: Action | int | None = command.main(arguments, prog_name="evalkit", standalone_mode=False)
    except Exception as error:
        message = getattr(error, "format_message", None)  # click's UsageError, wherever typer keeps it
        if message is None:
            raise
        raise ConfigError(f"{' '.join(message().split())} (evalkit --help)") from None
    return action


def _names() -> list[str]:
    """The subcommands that people see."""
    return [c.name or c.callback.__name__ for c in app.registered_commands if c.callback and not c.hidden]


def _complete_runs(names: Sequence[str]) -> None:
    """While a shell asks for completions: the words of a run are those of the hidden subcommand `run`."""
    for variable in ("COMP_WORDS", "_TYPER_COMPLETE_ARGS"):
        program, _, rest = os.environ.get(variable, "").partition(" ")
        if program and "_EVALKIT_COMPLETE" in os.environ and rest.partition(" ")[0] not in names:
            os.environ[variable] = f"{program} run {rest}"
            if variable == "COMP_WORDS":
                os.environ["COMP_CWORD"] = str(int(os.environ.get("COMP_CWORD", "1")) + 1)


def _hydra(arguments: Sequence[str]) -> int:
    """What Hydra answers itself: its help, its own configuration, where configs are looked for."""
    import hydra

    from evalkit.config.compose import register
    from evalkit.config.schema import CONFIG_MODULE

    register()
    sys.argv = [sys.argv[0], *arguments]
    hydra.main(version_base="1.3", config_path=f"pkg://{CONFIG_MODULE}", config_name="eval")(lambda config: None)()
    return EXIT_DONE


def _run(
    words: Sequence[str], reference: str | None, config_dir: str | None, config_name: str, show: _Show | None
) -> int:
    """Composes the configuration and runs it, or prints it; returns the exit code."""
    from evalkit.config.call import compose_words
    from evalkit.config.compose import print_config, resolve

    config, choose = compose_words(words, reference, config_dir, commands=_names(), config_name=config_name)
    if show is not None:
        print_config(config, show.package, resolved=show.resolved)
        return EXIT_DONE
    run_config = resolve(config)
    try:
        return _evaluate(run_config, choose)
    except OSError as error:  # a full disk, a store that cannot be read
        raise disk_error(error, Path(run_config.out or run_config.store), "read or write") from error


def _evaluate(config: RunConfig, choose: bool) -> int:
    if config.selfcheck:
        from evalkit.selfcheck import check_peers, print_selfcheck

        right = [print_selfcheck(config.device), check_peers(config)]
        return EXIT_DONE if all(right) else EXIT_ERROR
    with stage("loading"):
        from evalkit import pipeline
        from evalkit.plan.auto import read_growth
        from evalkit.plan.look import AUTO
        from evalkit.plan.plan import make_plan
        from evalkit.plan.show import print_plan
    grows = config.num_samples == AUTO
    with stage("planning"):
        if grows and config.dry_run:  # at its most
            config = replace(config, num_samples=read_growth(config).ceiling)
        plan = make_plan(config, choose=choose) if not grows or config.dry_run else None
    if plan is not None and config.dry_run:
        print_plan(plan)
        return EXIT_CONFIG if plan.missing else EXIT_DONE
    script = Path(sys.argv[0]).name
    command = shlex.join([*(["python", script] if script.endswith(".py") else ["evalkit"]), *sys.argv[1:]])
    if plan is None:
        plan, table = pipeline.run_auto(config, choose=choose, command=command)
        return _finish(plan, table)
    if not plan.engine.leads and not pipeline.fill(plan).leads():
        log.info("all is in the store; the process that leads this run makes the table")
        return EXIT_DONE
    return _finish(plan, pipeline.run(plan, command=command))


def _finish(plan: Plan, table: ResultTable) -> int:
    """Prints the results and the gate's verdict; the exit code."""
    from evalkit.results.terminal import print_results

    print_results(table, plan.out, against_baseline=plan.baseline is not None, report=plan.config.report)
    if plan.config.benchmark:
        from evalkit.results.by_category import print_categories

        print_categories(table, plan.out)
    if plan.config.profile:
        from evalkit.results.profile import print_profile

        print_profile(plan.out)
    exit_code = EXIT_DONE
    if table.gate is not None:
        from evalkit.gate import Verdict, announce

        verdict = Verdict.from_json(table.gate)
        announce(verdict)
        exit_code = verdict.exit_code
    if table.failures is not None:  # a failed gate says more: its code stands
        _fail(table.failures, exit_code or EXIT_ERROR)
    return exit_code


def _fail(message: object, exit_code: int) -> NoReturn:
    sys.stdout.flush()
    print(f"evalkit: {message}", file=sys.stderr)
    sys.exit(exit_code)


class _OneLine(logging.Formatter):
    """The message alone, which may hold names of files and others' words."""

    def format(self, record: logging.LogRecord) -> str:
        return super().format(record) if record.exc_info else printable(record.getMessage())


def _set_up_logging() -> None:
    logger = logging.getLogger("evalkit")
    if not logger.handlers:
        handler = LogHandler()
        handler.setFormatter(_OneLine())
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.ERROR)
