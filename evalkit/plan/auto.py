"""`num_samples=auto`: what decides how many samples there are, as the configuration asks for it."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from evalkit.cell import Cell
from evalkit.engines.stripe import Stripe
from evalkit.errors import ConfigError, nearest, whole_number
from evalkit.gate.rules import JUDGED
from evalkit.metric import PairMetric
from evalkit.results.looks import Looks
from evalkit.samples.cells import default_size

if TYPE_CHECKING:
    from evalkit.config.schema import RunConfig
    from evalkit.gate import Verdict
    from evalkit.gate.verdict import Result
    from evalkit.plan.plan import Plan
    from evalkit.results.table import ResultTable

_KNOWN = ("first", "ceiling", "target", "halving")


@dataclass(frozen=True)
class Growth:
    """What `auto` asks for.

    Attributes:
        first, ceiling: samples per cell of the first look, and of the last.
        target: by metric the half width of the interval that is to be reached, in every cell that is left.
        halving: the metric by which cells that are surely worse stop early; none: all cells grow.
    """

    first: int
    ceiling: int
    target: Mapping[str, float]
    halving: str | None

    def looks(self, cells: tuple[Cell, ...]) -> Looks:
        """The sizes, the first rounded up to whole shards: a shard that is cut short would be made again."""
        size = max(default_size(cell) for cell in cells)
        return Looks.doubling(min(-(-self.first // size) * size, self.ceiling), self.ceiling)

    def check(self, plan: Plan) -> None:
        """Refuses what could never be decided, before any sample is made.

        Raises:
            ConfigError: an unknown metric, nothing that decides, or what a run of several sizes cannot do.
        """
        for metric in [*self.target, *([self.halving] if self.halving else [])]:
            if metric not in plan.metrics:
                raise ConfigError(f"auto: the run has no metric '{metric}'. {nearest(metric, plan.metrics)}")
        if not self.target and not plan.gates and not self.halving:
            metric = next(iter(plan.metrics))
            what = f"auto.target={{{metric}: HALF_WIDTH}}, gate=NAME or auto.halving={metric}"
            raise ConfigError(f"num_samples=auto: nothing says when to stop: give {what}")
        if isinstance(plan.engine, Stripe):
            raise ConfigError("num_samples=auto: one process decides; of engine=stripe each is a run: use local or ray")
        for name, rule in ((gate.name, rule) for gate in plan.gates.values() for rule in gate.rules):
            if rule.by_value or rule.samples is not None:
                what = "goes by its value" if rule.by_value else f"is about {rule.samples:,} samples"
                raise ConfigError(f"num_samples=auto: gate.{name}: the rule {rule.text} {what}: give num_samples=N")
        of_pairs = [n for n, m in plan.metrics.items() if isinstance(m, PairMetric) and m.pairs == "baseline"]
        if self.halving and of_pairs:
            raise ConfigError(f"auto.halving: {of_pairs[0]} pairs each cell with the baseline: all must be of one size")

    def decide(self, table: ResultTable, verdict: Verdict | None, going: set[str], costs: Collection[str]) -> str:
        """Why a run needs no more samples; empty where it does.

        Args:
            table: of this look, with the intervals that hold under the rule.
            verdict: of its gates, likewise.
            going: the cells that have not stopped early.
            costs: what gates count or time: it needs no bound to be decided.
        """
        decided = [f"{metric} is known to ±{width:g}" for metric, width in self.target.items()]
        for metric, width in self.target.items():
            rows = [row for row in table.rows if row.metric == metric and row.cell in going]
            if not all(
                row.low is not None and row.high is not None and row.high - row.low <= 2 * width for row in rows
            ):
                return ""
        if verdict is not None:
            given = [r for r in verdict.results if not r.waived]
            counted = [r for r in given if not _of_judge(r)]
            clear = [r for r in counted if r.status != "inconclusive"]
            sure = [r for r in clear if r.bound is not None or r.metric in costs or r.counted]
            failed = any(r.status == "fail" for r in sure)
            if not failed and len(sure) < len(counted):
                return ""
            said = "passed" if len(counted) == len(given) else "is decided but for a judge"
            decided.append(f"the gate {'failed' if failed else said}")
        return " and ".join(decided)


def _of_judge(result: Result) -> bool:
    """Whether it is about a judge, of whom no number of samples decides more."""
    return result.metric == JUDGED and result.status == "inconclusive"


def read_growth(config: RunConfig) -> Growth:
    """What the key `auto` holds.

    Raises:
        ConfigError: an unknown key, or a value that is none.
    """
    given: Mapping[str, Any] = config.auto
    for key in given:
        if key not in _KNOWN:
            raise ConfigError(f"auto.{key}: there is no such setting. {nearest(str(key), _KNOWN)}")
    whole_number(given["first"], "auto.first", least=2)
    whole_number(given["ceiling"], "auto.ceiling", least=2)
    if given["ceiling"] < given["first"]:
        raise ConfigError(f"auto.ceiling={given['ceiling']} is below auto.first={given['first']}")
    target = given["target"] or {}
    if not isinstance(target, Mapping):
        raise ConfigError(f"auto.target={target}: give half widths by metric, such as {{clip_score: 0.5}}")
    for metric, width in target.items():
        if isinstance(width, bool) or not isinstance(width, int | float) or not math.isfinite(width) or width <= 0:
            raise ConfigError(f"auto.target.{metric}={width}: give a half width above 0")
    return Growth(given["first"], given["ceiling"], {str(m): float(w) for m, w in target.items()}, given["halving"])
