"""`evalkit watch`: scores a training's checkpoints as they arrive."""

from __future__ import annotations

import logging
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from evalkit.commands.program import Action, app
from evalkit.errors import EXIT_DONE, ConfigError, DataError

if TYPE_CHECKING:
    from evalkit.config.checkpoints import Checkpoint
    from evalkit.config.schema import RunConfig
    from evalkit.loop.watch import Rules
    from evalkit.results.table import ResultTable

log = logging.getLogger(__name__)

_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


@app.command(short_help="Score a training's checkpoints as they arrive.")
def watch(
    words: Annotated[list[str], typer.Argument(metavar="KEY=VALUE ...", help="as of a run, with a series in it")],
    reference: Annotated[str | None, typer.Option("--reference", "-r")] = None,
    config_dir: Annotated[str | None, typer.Option("--config-dir", "-cd")] = None,
    newest: Annotated[bool, typer.Option("--newest", help="one at a time, the newest first")] = False,
    poll: Annotated[float, typer.Option(help="seconds between looks")] = 30.0,
    patience: Annotated[int | None, typer.Option(help="stop after so many checkpoints without a gain")] = None,
    metric: Annotated[str | None, typer.Option(help="of which metric; else the first")] = None,
    until_gate: Annotated[bool, typer.Option("--until-gate", help="stop once a checkpoint passes the gate")] = False,
    time: Annotated[str | None, typer.Option("--for", help="stop after 90m, 6h, ...; 0: after what is there")] = None,
    settle: Annotated[float, typer.Option(help="seconds without a change until one counts as written")] = 2.0,
    stale: Annotated[float, typer.Option(help="seconds until a half-written one counts as damaged")] = 120.0,
) -> Action:
    """Score a training's checkpoints as they arrive, and keep the report up to date; the same command goes on.

    \b
    evalkit watch model.gan.module=my.Generator 'model.gan.checkpoints=out/g_*.pt' \\
        reference.folder.path=REAL 'metric=[fid]' --patience 3
    """

    def act() -> int:
        from evalkit.loop.watch import Rules

        if poll <= 0 or settle < 0 or (patience is not None and patience < 1):
            raise ConfigError("--poll takes seconds above 0, --settle at least 0, --patience at least 1 checkpoint")
        rules = Rules(patience, metric, until_gate, None if time is None else seconds_of(time))
        config, choose = _config(words, reference, config_dir)
        return run_watch(
            config,
            rules,
            choose=choose,
            newest=newest,
            poll=poll,
            settle=settle,
            stale=stale,
            command=shlex.join(["evalkit", *sys.argv[1:]]),
        )

    return act


def seconds_of(text: str) -> float:
    """ "90m", "6h", "30" as seconds. ConfigError: it is none of these."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", text.strip())
    if match is None:
        raise ConfigError(f"--for {text}: give a time such as 90m, 6h or 2d")
    return float(match[1]) * _UNITS[match[2]]


def _config(words: Sequence[str], reference: str | None, config_dir: str | None) -> tuple[RunConfig, bool]:
    """The configuration of a run's words, and whether its metrics are candidates (`make_plan`)."""
    from evalkit.config.call import compose_words
    from evalkit.config.compose import resolve

    config, choose = compose_words(words, reference, config_dir, commands=["watch"])
    return resolve(config), choose


def run_watch(
    config: RunConfig,
    rules: Rules,
    *,
    choose: bool,
    newest: bool,
    poll: float,
    settle: float,
    stale: float,
    command: str = "evalkit watch",
) -> int:
    """Watches a configuration's series until a rule ends it; the exit code is that of its gate, where there is one."""
    from evalkit.loop.watch import Watched
    from evalkit.loop.watch import watch as watch_series
    from evalkit.plan.plugins import build_metrics

    if rules.until_gate and not config.gate:
        raise ConfigError("--until-gate: there is no gate; choose one (gate=NAME)")
    runs = _Runs.of(config, choose, command)
    build_metrics(config)  # what is wrong with these is told before the first checkpoint is there
    watched = Watched(runs.check, settle, stale)
    reason, table = watch_series(
        runs.find, runs.score, watched, rules=rules, newest=newest, poll=poll, before=runs.scored_before
    )
    log.info("watch ends: %s", reason)
    return _exit_code(table)


@dataclass(frozen=True)
class _Runs:
    """A configuration with one series of checkpoints, run with those that are whole.

    Attributes:
        config: what is asked for.
        choose: as of `make_plan`.
        command: for the results.
        name, place: the model's name, and where in its option the series stands.
        series: the series itself.
    """

    config: RunConfig
    choose: bool
    command: str
    name: str
    place: tuple[str, ...]
    series: Mapping[str, Any]

    @classmethod
    def of(cls, config: RunConfig, choose: bool, command: str) -> _Runs:
        """ConfigError: there is not one series."""
        from evalkit.config.checkpoints import series_in

        places = [(name, *found) for name, option in config.model.items() for found in series_in(option)]
        if len(places) != 1:
            what = "no series of checkpoints" if not places else f"{len(places)} series"
            raise ConfigError(f"watch wants one series, and there is {what}: give model.NAME.checkpoints='out/ckpt_*'")
        return cls(config, choose, command, *places[0])

    def find(self) -> list[Checkpoint]:
        from evalkit.config.checkpoints import find

        return find(self.series, f"model.{self.name}.{'.'.join(self.place)}")

    def without(self, paths: Sequence[str]) -> RunConfig:
        """The configuration, these checkpoints left out."""
        from evalkit.config.checkpoints import passed_over

        option = passed_over(self.config.model[self.name], {self.place: list(paths)})
        return replace(self.config, model={**self.config.model, self.name: option})

    def alone(self, checkpoint: Checkpoint) -> RunConfig:
        return self.without([other.path for other in self.find() if other.path != checkpoint.path])

    def check(self, checkpoint: Checkpoint) -> None:
        """Builds the checkpoint's model, and has it look for its files."""
        from evalkit.config.build import GRID_KEYS, build, split_call_settings
        from evalkit.config.sweep import expand
        from evalkit.models.base import Model

        option, _ = split_call_settings(expand(self.name, self.alone(checkpoint).model[self.name])[0].option)
        model: Model = build(
            {key: value for key, value in option.items() if key not in GRID_KEYS}, f"model.{self.name}", Model
        )
        model.check()

    def score(self, left_out: Sequence[str]) -> ResultTable:
        from evalkit import pipeline
        from evalkit.plan.plan import make_plan

        plan = make_plan(self.without(left_out), choose=self.choose)
        table = pipeline.run(plan, command=self.command)
        _tell(table, str(plan.out))
        return table

    def scored_before(self, checkpoint: Checkpoint) -> list[float]:
        """The steps that stand in the results' folder already."""
        from evalkit.plan.plan import make_plan
        from evalkit.results.table import ResultTable

        out = make_plan(self.alone(checkpoint), choose=self.choose).out
        try:
            table = ResultTable.load(out / "results.json")
        except DataError:  # nothing is there
            return []
        return [step for one in table.run.get("series") or () for step in one["steps"].values()]


def _tell(table: ResultTable, out: str) -> None:
    from evalkit.results.headline import series_lines

    lines = series_lines(table) or [f"scored: {', '.join(table.cells[:3])}; no trend of checkpoints is known yet"]
    for line in lines:
        print(line, flush=True)
    print(f"results: {out}", flush=True)


def _exit_code(table: ResultTable | None) -> int:
    """0 where a checkpoint passes the gate, or there is none; else the gate's own."""
    from evalkit.gate import Verdict
    from evalkit.loop.watch import passing_cell

    if table is None or table.gate is None or passing_cell(table.gate) is not None:
        return EXIT_DONE
    return Verdict.from_json(table.gate).exit_code
