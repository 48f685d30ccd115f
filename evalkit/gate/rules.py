"""configs/gate/*.yaml -> gates: every rule and waiver is checked, and earlier results are read, before any work."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from typing import Any, Literal

from evalkit.cell import Cell, find_baseline, matches, why_none
from evalkit.errors import ConfigError, nearest, whole_number
from evalkit.gate.baseline import EarlierRun, is_file
from evalkit.gate.statistic import in_words
from evalkit.metric import Metric, PairMetric
from evalkit.numerics.statistics import Statistic, parse
from evalkit.results.real_text import OF_FLOOR, multiple_of
from evalkit.results.table import COSTS

Kind = Literal["max", "min", "no_worse_than", "within"]
BOUNDS: tuple[Kind, ...] = ("max", "min", "no_worse_than", "within")
AGAINST: tuple[Kind, ...] = ("no_worse_than", "within")  # a baseline
OPTIONS = ("statistic", "by", "samples", "where")
MEAN = Statistic("mean")

# Shares of a cell's images that are counted, not estimated: in the samples' records, or by the lint.
IMAGE_SHARES: Mapping[str, str] = {
    "blanked": "blanked images [share]",
    "prompt_truncated": "images of truncated prompts [share]",
    "duplicates": "duplicate images [share]",
    "near_duplicates": "near-duplicate images [share]",
    "black": "black images [share]",
    "constant": "images of one colour [share]",
}
JUDGED = "judge_agreement"  # how far each judge of the run agrees with its known answers, as a share
LINTED = ("duplicates", "near_duplicates", "black", "constant")  # kinds of evalkit.lint's findings


@dataclass(frozen=True)
class Margin:
    """How much worse, or how far apart, a score may be: absolute, or a part of the baseline's value."""

    amount: float
    relative: bool = False

    def edge(self, baseline: float, sign: int) -> tuple[float, float]:
        """What a score may reach above (`sign` 1) or below (-1) its baseline: the edge is `factor` times the baseline's
        value plus `offset`. Of a relative margin the factor carries the baseline's own uncertainty."""
        if not self.relative:
            return 1.0, sign * self.amount
        return (1 + sign * math.copysign(self.amount, baseline) if baseline else 1.0), 0.0

    def __str__(self) -> str:
        return f"{100 * self.amount:g}%" if self.relative else f"{self.amount:g}"


@dataclass(frozen=True)
class Baseline:
    """What a cell is compared with: a cell of this run, or of an earlier one."""

    name: str
    cell: str
    earlier: EarlierRun | None = None


@dataclass(frozen=True)
class Rule:
    """One bound on one metric of the selected cells.

    Attributes:
        text: the rule in words.
        metric: a metric of the run, a cost, one of `IMAGE_SHARES`, or `JUDGED`.
        kind: "max", "min", "no_worse_than" or "within".
        cells: names of the cells that it judges; of `JUDGED` those of the judges.
        limit: of max and min.
        margin: of no_worse_than and within.
        baselines: of no_worse_than and within, by cell.
        statistic: of the metric's values per sample, that max and min are about; the mean is the score itself.
        by_value: whether max and min hold the value itself against the limit, whatever its standard error.
        samples: the only number of samples of which it says anything; none: any.
    """

    text: str
    metric: str
    kind: Kind
    cells: tuple[str, ...]
    limit: float | None = None
    margin: Margin = Margin(0.0)
    baselines: Mapping[str, Baseline] = field(default_factory=dict)
    statistic: Statistic = MEAN
    by_value: bool = False
    samples: int | None = None


@dataclass(frozen=True)
class Waiver:
    """A known failure that is let pass up to and including a day."""

    metric: str
    cells: tuple[str, ...]
    reason: str
    until: date


@dataclass(frozen=True)
class Gate:
    """The rules of one configs/gate/NAME.yaml."""

    name: str
    rules: tuple[Rule, ...]
    waivers: tuple[Waiver, ...] = ()


def make_gates(
    config: Mapping[str, Any],
    cells: Sequence[Cell],
    metrics: Mapping[str, Any],
    *,
    lint: bool = True,
    baseline: str | None = None,
    multiples: Collection[str] = (),
    judges: Sequence[str] = (),
) -> dict[str, Gate]:
    """Checks the chosen gates against the run.

    Args:
        config: by name, what the gate's YAML holds: {rules: [...], waivers: [...]}.
        cells: of the run.
        metrics: of the run, by name.
        lint: whether the run looks for duplicates.
        baseline: the run's own, for rules that name none; metrics of pairs have no score of it.
        judges: the names of extractors that are held against known answers.
        multiples: the metrics that stand as a multiple of real images' as well ("fid/floor").

    Raises:
        ConfigError: a name that is not known, a rule that selects nothing or says nothing, a baseline that cannot be
            read or lacks what is compared.
    """
    known = {**metrics, **{f"{name}{OF_FLOOR}": metrics[name] for name in multiples}}
    run = _Run(cells, known, lint, baseline, {}, tuple(judges))
    return {name: run.gate(name, option) for name, option in config.items()}


@dataclass(frozen=True)
class _Run:
    """What a gate's options are checked against."""

    cells: Sequence[Cell]
    metrics: Mapping[str, Any]
    lint: bool
    baseline: str | None
    files: dict[str, EarlierRun]  # read so far
    judges: tuple[str, ...] = ()

    def gate(self, name: str, option: Any) -> Gate:
        where = f"gate.{name}"
        _keys(option, where, ("rules", "waivers"), "{rules: [...], waivers: [...]}")
        entries = enumerate(_list(option.get("rules"), f"{where}.rules"))
        rules = tuple(rule for i, entry in entries for rule in self.rules(entry, f"{where}.rules[{i}]"))
        if not rules:
            raise ConfigError(f"{where}.rules: there are none; give one, such as {{metric: fid, max: 12}}")
        known = [rule.metric for rule in rules]
        entries = enumerate(_list(option.get("waivers"), f"{where}.waivers"))
        return Gate(name, rules, tuple(self.waiver(entry, f"{where}.waivers[{i}]", known) for i, entry in entries))

    def rules(self, entry: Any, where: str) -> Iterator[Rule]:
        """One rule per bound: an entry may hold several (c_t is to lie between -3 and 3)."""
        _keys(entry, where, ("metric", *BOUNDS, *OPTIONS), "{metric: fid, max: 12}")
        metric = self.metric(entry.get("metric"), where)
        if metric == JUDGED:
            _keys(entry, where, ("metric", "min", "by"), f"{{metric: {JUDGED}, min: 0.8}}")
            limit = _number(entry.get("min"), f"{where}.min")
            if not 0 <= limit <= 1:
                raise ConfigError(f"{where}.min={limit:g}: an agreement is a share, from 0 to 1")
            by_value = _choice(entry.get("by"), ("bound", "value"), f"{where}.by") == "value"
            yield Rule(f"{JUDGED} min {limit:.10g}", JUDGED, "min", self.judges, limit, by_value=by_value)
            return
        cells = self.scored(metric, self.select(entry.get("where"), f"{where}.where"), where)
        kinds = [kind for kind in BOUNDS if entry.get(kind) is not None]
        if not kinds:
            raise ConfigError(f"{where}: {metric} has no bound: give max, min, no_worse_than or within")
        limits = {kind: _number(entry[kind], f"{where}.{kind}") for kind in kinds if kind not in AGAINST}
        if limits.get("max", math.inf) < limits.get("min", -math.inf):
            raise ConfigError(f"{where}: max {limits['max']:g} is below min {limits['min']:g}: nothing could pass")
        statistic = self.statistic(entry.get("statistic"), metric, where)
        if statistic.threshold is not None and not all(0 <= limit <= 1 for limit in limits.values()):
            raise ConfigError(f"{where}: a {statistic} is from 0 to 1: give such a limit")
        by_value = _choice(entry.get("by"), ("bound", "value"), f"{where}.by") == "value"
        samples = entry.get("samples")
        if samples is not None:
            whole_number(samples, f"{where}.samples")
        against = [kind for kind in kinds if kind in AGAINST]
        if against and (statistic != MEAN or by_value):
            option = "statistic" if statistic != MEAN else "by"
            raise ConfigError(f"{where}.{option}: it goes with max and min; {against[0]} compares the scores' bounds")
        what = in_words(statistic, metric)
        names = tuple(cell.name for cell in cells)
        for kind, limit in limits.items():
            about = {"statistic": statistic, "by_value": by_value, "samples": samples}
            yield Rule(f"{what} {kind} {limit:.10g}", metric, kind, names, limit, **about)
        for kind in against:
            rule = self.against(kind, entry[kind], f"{where}.{kind}", metric, cells)
            yield replace(rule, samples=samples)

    def scored(self, metric: str, cells: Sequence[Cell], where: str) -> Sequence[Cell]:
        """The cells without the run's baseline, where the metric compares each cell with it."""
        if not self.is_paired(metric):
            return cells
        others = [cell for cell in cells if cell.name != self.baseline]
        if not others:
            what = f"{metric} compares the cells with {self.baseline}, and the rule selects that one alone"
            raise ConfigError(f"{where}: {what}")
        return others

    def is_paired(self, metric: str) -> bool:
        """Whether a metric compares each cell with the run's baseline."""
        made = self.metrics.get(metric)
        return isinstance(made, PairMetric) and made.pairs == "baseline"

    def statistic(self, option: Any, metric: str, where: str) -> Statistic:
        """The statistic that a rule is about; the mean where it names none.

        Raises:
            ConfigError: there is none of that name, or the metric has no value per sample.
        """
        if option is None:
            return MEAN
        try:
            statistic = parse(str(option))
        except ValueError as error:
            raise ConfigError(f"{where}.statistic: {error}") from error
        made = self.metrics.get(metric)
        within = isinstance(made, PairMetric) and made.pairs in ("prompt", "any")
        if statistic != MEAN and (
            metric in COSTS or metric in IMAGE_SHARES or within or (isinstance(made, Metric) and not made.per_sample)
        ):
            raise ConfigError(f"{where}.statistic: {metric} has no value per sample, and so no {statistic}")
        return statistic

    def metric(self, name: Any, where: str) -> str:
        known = [*self.metrics, *COSTS, *IMAGE_SHARES, *([JUDGED] if self.judges else ())]
        if name is None:
            raise ConfigError(f"{where}: no metric is named. Choices: {', '.join(known)}.")
        if name not in known:
            if name == JUDGED:
                fix = "give extractor.NAME.calibration=FILE"
                raise ConfigError(f"{where}: no judge of this run is held against known answers: {fix}")
            if (base := multiple_of(str(name))) in self.metrics and not any(map(multiple_of, self.metrics)):
                raise ConfigError(f"{where}: this run has no floor to measure {base} by: give floor=split or floor=DIR")
            from evalkit.config.compose import group_options, register

            register()
            if name in group_options("metric"):
                raise ConfigError(f"{where}: this run does not compute {name}. Add it: metric=[...,{name}]")
            raise ConfigError(f"{where}: there is no metric '{name}' in this run. {nearest(str(name), known)}")
        if name in LINTED and not self.lint:
            raise ConfigError(f"{where}: {name} images are counted by the lint, which this run leaves out: lint=true")
        return str(name)

    def select(self, rule: Any, where: str) -> list[Cell]:
        """The cells that a `where` selects; all without one."""
        if rule is None:
            return list(self.cells)
        selected = [cell for cell in self.cells if matches(cell, rule, where)]
        if selected:
            return selected
        raise ConfigError(f"{where} selects no cell: {why_none(self.cells, rule)}")

    def against(self, kind: Kind, option: Any, where: str, metric: str, cells: Sequence[Cell]) -> Rule:
        """A rule on scores and those of a baseline: of this run, or of an earlier one."""
        if metric in IMAGE_SHARES:
            raise ConfigError(f"{where}: {metric} is counted in each set, not estimated: give max")
        option = option if isinstance(option, Mapping) else {"baseline": option}
        _keys(option, where, ("baseline", "margin", "cell"), "{baseline: runs/prev/results.json, margin: 5%}")
        baseline = self.baseline if option.get("baseline") is None else option["baseline"]
        margin = _margin(option.get("margin"), f"{where}.margin")
        if kind == "within":
            if not margin.amount:
                raise ConfigError(f"{where}.margin: no two scores are within 0: give a number, or a part such as 0.2%")
            text = f"{metric} within {margin} of {{}}"
        else:
            text = f"{metric} no worse than {{}}" + (f" by more than {margin}" if margin.amount else "")
        if isinstance(baseline, str) and baseline not in [cell.name for cell in self.cells] and is_file(baseline):
            if baseline not in self.files:
                self.files[baseline] = EarlierRun.load(baseline, f"{where}.baseline")
            earlier, named = self.files[baseline], option.get("cell")
            compared = {cell.name: earlier.find(cell, named, metric, where) for cell in cells}
            baselines = {name: Baseline(f"{baseline}: {cell}", cell, earlier) for name, cell in compared.items()}
            text = text.format(baseline if named is None else f"{baseline}: {named}")
            return Rule(text, metric, kind, tuple(compared), None, margin, baselines)
        if option.get("cell") is not None:
            raise ConfigError(f"{where}.cell: it names a cell of an earlier results.json; here the baseline is a cell")
        try:
            cell = find_baseline(self.cells, baseline)
        except ConfigError as error:
            raise ConfigError(f"{where}: {error} (or give the path of a results.json)") from error
        if cell is None:
            what = "give the path of a results.json, or a cell of this run (or baseline=CELL for the whole run)"
            raise ConfigError(f"{where}.baseline is not set: {what}")
        if self.is_paired(metric) and cell == self.baseline:
            what = f"{metric} compares the cells with {cell}, which has no score of its own: give min or max"
            raise ConfigError(f"{where}: {what}")
        names = tuple(other.name for other in cells if other.name != cell)
        if not names:
            raise ConfigError(f"{where}: the rule selects {cell} alone, which is the baseline itself")
        baselines = dict.fromkeys(names, Baseline(cell, cell))
        return Rule(text.format(cell), metric, kind, names, None, margin, baselines)

    def waiver(self, entry: Any, where: str, metrics: Sequence[str]) -> Waiver:
        _keys(entry, where, ("metric", "where", "reason", "until"), "{metric: fid, reason: why, until: 2030-01-31}")
        metric = entry.get("metric")
        if metric not in metrics:
            raise ConfigError(f"{where}: no rule of this gate is on '{metric}'. {nearest(str(metric), metrics)}")
        reason = entry.get("reason")
        if not isinstance(reason, str) or not reason.strip():
            raise ConfigError(f"{where}: a waiver without a reason never counts: give reason: WHY")
        until = entry.get("until")
        try:
            day = until if isinstance(until, date) else date.fromisoformat(str(until))
        except ValueError as error:
            raise ConfigError(f"{where}.until: {until!r} is not a day such as 2030-01-31: give its last day") from error
        cells = [cell.name for cell in self.select(entry.get("where"), f"{where}.where")]
        return Waiver(metric, self.judges if metric == JUDGED else tuple(cells), " ".join(reason.split()), day)


def _keys(option: Any, where: str, known: Sequence[str], example: str) -> None:
    if not isinstance(option, Mapping):
        raise ConfigError(f"{where}: {option!r} is not a mapping such as {example}")
    for key in option:
        if key not in known:
            raise ConfigError(f"{where}.{key}: no such key. {nearest(str(key), known)}")


def _list(value: Any, where: str) -> list[Any]:
    if value is not None and not isinstance(value, list):
        raise ConfigError(f"{where}: {value!r} is not a list")
    return value or []


def _number(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ConfigError(f"{where}: {value!r} is not a number")
    return float(value)


def _choice(value: Any, choices: Sequence[str], where: str) -> str:
    """One of `choices`; the first where none is given."""
    if value is not None and value not in choices:
        raise ConfigError(f"{where}: {value!r}. {nearest(str(value), choices)}")
    return value or choices[0]


def _margin(value: Any, where: str) -> Margin:
    """0.5, or "5%" of the baseline's value; 0 where none is given."""
    percent = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*%\s*", value) if isinstance(value, str) else None
    if percent:
        return Margin(float(percent[1]) / 100, relative=True)
    if value is None:
        return Margin(0.0)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise ConfigError(f"{where}: {value!r} is no margin: give a number >= 0, such as 0.5, or a part, such as 5%")
    return Margin(float(value))
