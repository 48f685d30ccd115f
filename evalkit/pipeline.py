"""Runs the stages in order: plan, samples, features and scores, table. Each stage reads what the one before left."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit import gate
from evalkit.data.moments import Moments, write_moments
from evalkit.data.source import Source
from evalkit.errors import DataError, StoreError
from evalkit.gate import judge
from evalkit.gate.rules import IMAGE_SHARES
from evalkit.lint import Finding, Watch, asked_of, lint
from evalkit.metric import ReferenceMetric
from evalkit.plan.attributes import flags_of
from evalkit.plan.auto import read_growth
from evalkit.plan.floors import is_distance
from evalkit.plan.look import at_look, at_rest
from evalkit.plan.plan import Plan, make_plan, without_noise
from evalkit.plan.remakes import change_text
from evalkit.plan.results_folder import results_folder
from evalkit.results import previous
from evalkit.results.compare import compare, rename_apart, surely_worse
from evalkit.results.feature_map import check_map, write_map
from evalkit.results.files import write
from evalkit.results.judges import calibrations, judge_notes
from evalkit.results.latent_walk import write_walks
from evalkit.results.looks import Grown, Looks, Stopped
from evalkit.results.made import made_before, made_now
from evalkit.results.noise_floor import called_none, measure_floor, with_floor
from evalkit.results.notebook import ResultTable
from evalkit.results.publish import copy_results, staged
from evalkit.results.ratings import rating_notes, with_ratings
from evalkit.results.real_floor import real_rows, with_best_multiples, with_real
from evalkit.results.real_text import is_real, multiple_of
from evalkit.results.rows import Outcome, make_rows, notes, run_info, unpaired
from evalkit.results.seeds import pool_cells, pool_seeds
from evalkit.results.series import find_series
from evalkit.results.stats import CONFIDENCE
from evalkit.results.table import COSTS, Row, group
from evalkit.samples.profiling import Profile
from evalkit.trackers.push import push
from evalkit.utils.files import check_writable, writing
from evalkit.utils.progress import stage
from evalkit.work.stages import Stages
from evalkit.work.worker import Worker, scoring_arguments

if TYPE_CHECKING:
    from evalkit.config.schema import RunConfig
    from evalkit.samples.model_pool import ModelPool
    from evalkit.scoring.scoring import Scored

log = logging.getLogger(__name__)


def fill(plan: Plan) -> Stages:
    """Has the plan's engine make what is missing in the store; errors as of `Stages.run`."""
    check_writable(plan.out)  # the store may be read-only where all is there
    stages = Stages(plan)
    try:
        stages.run()
    finally:
        plan.engine.close()
    return stages


@dataclass(frozen=True)
class Measured:
    """A plan's samples and scores, before anything is written."""

    stages: Stages
    outcome: Outcome
    findings: Sequence[Finding]
    seconds: Mapping[str, float]
    floor: Mapping[str, Any] | None = None  # of `noise_floor`
    real: Outcome | None = None  # of `floor`
    judges: Mapping[str, Any] = field(default_factory=dict)  # of `calibrations`


def run(plan: Plan, *, command: str = "") -> ResultTable:
    """Makes what is missing, scores it, and writes the results into `plan.out`.

    Of several processes that work on the run, the one that leads writes; the others return the same table.
    """
    return conclude(plan, measure(plan), command=command)


def run_auto(config: RunConfig, *, choose: bool = False, command: str = "") -> tuple[Plan, ResultTable]:
    """`num_samples=auto`: look after look, twice as many samples, until it is decided; then as `run`.

    A look that was taken before is read from the store. Returns the last look's plan and table.
    """
    growth = read_growth(config)
    plan = make_plan(at_look(config, growth.first), choose=choose)
    growth.check(plan)
    looks, config = growth.looks(plan.cells), replace(plan.config, name=config.name)
    stopped: dict[str, Stopped] = {}
    sizes: dict[str, int] = {}  # of the cells of the grid that stopped: of each seed's
    for number, n in enumerate(looks.sizes, 1):
        plan = make_plan(at_look(config, n, sizes))
        measured = measure(plan)
        table = _tabled(plan, measured, command, looks)
        going = {cell.name for cell in plan.shown} - stopped.keys()
        verdict = _judge(plan, measured.outcome, table, looks.one_sided) if plan.gates else None
        why = growth.decide(table, verdict, going, [*COSTS, *IMAGE_SHARES])
        if not why and number == len(looks.sizes):
            why = "the ceiling is reached"
        if not why and max(cell.num_samples for cell in plan.cells if cell.name not in sizes) < n:
            why = "there are no more images"
        found = _stop(plan, measured.outcome, table, growth.halving, looks, going) if growth.halving and not why else {}
        if found and len(going - found.keys()) == 1 and not growth.target and not plan.gates:
            why = f"the best in {growth.halving} is found"  # the others have as many samples, and are ranked
        log.info("look %d of %d, N = %d: %s", number, len(looks.sizes), n, why or "goes on")
        if why:
            break
        stopped |= found
        groups = pool_cells(plan.cells) if plan.config.seeds != "apart" else [(cell, [cell]) for cell in plan.cells]
        sizes |= {one.name: one.num_samples for cell, group in groups if cell.name in found for one in group}
    plan = replace(plan, config=at_rest(plan.config))
    return plan, conclude(plan, measured, command=command, grown=Grown(looks, number, why, stopped))


def _stop(
    plan: Plan, outcome: Outcome, table: ResultTable, metric: str, looks: Looks, going: set[str]
) -> dict[str, Stopped]:
    """The cells that go on no more. The truly best one is among them, at any look, in at most 5 % of runs: it would
    have to lose against one of all the others."""
    level = looks.level(0.05 / max(len(plan.shown) - 1, 1), one_sided=True)
    rows = [row for row in table.rows if row.metric == metric and row.cell in going]
    influences, pairing, clusters = outcome.influences, outcome.pairing, outcome.clusters
    sizes = {row.cell: row.n for row in rows}
    found: dict[str, Stopped] = {}
    for alike in group(rows, lambda row: row.protocol_hash).values():
        for cell, (than, by) in surely_worse(
            alike, level, influences=influences, pairing=pairing, clusters=clusters
        ).items():
            if cell != plan.baseline:  # all are compared with it in the end
                found[cell] = Stopped(sizes[cell], metric, than, by)
    if found:
        log.info("%d of %d cells stop: surely worse in %s", len(found), len(going), metric)
    return found


def measure(plan: Plan) -> Measured:
    """Makes what is missing, and scores it."""
    started = time.time()
    judges = calibrations(plan.extractors, plan.config.device)  # before anything is made for a judge that is no good
    seconds: dict[str, float] = {"judges": time.time() - started} if judges else {}
    stages = fill(plan)
    worker = stages.worker
    seconds["generate"] = time.time() - started
    with stage("looking through the samples"):
        sources = {cell.name: worker.source(cell.name) for cell in plan.all_cells}
    shown = {cell.name: sources[cell.name] for cell in plan.cells}
    real = {cell.name: sources[cell.name] for cell in plan.floors}
    looked = shown | (real if plan.floor is not None and plan.floor.linted else {})
    clusters = plan.clusters(sources)
    watch = None
    if plan.config.lint:
        watch = Watch(plan.store.lint, rescan=plan.config.rescan, parts=worker.parts)
    try:
        with stage("scoring"):
            scored = _score(plan, stages, sources, looked, clusters, watch)
    except DataError:
        if watch is not None:  # it names all files that are not as they should be; scoring stopped at the first
            _lint(plan, shown | real, watch)
        raise
    seconds["score"] = time.time() - started - seconds["generate"]
    findings = _lint(plan, looked, watch) if watch is not None else []
    if worker.parts is not None and stages.leads():
        worker.parts.sweep()
    seconds["lint"] = time.time() - started - seconds["generate"] - seconds["score"]
    floor = _floor(plan, scored) if plan.remakes else None
    sides = (plan.reference, plan.training)
    outcome, floors = (
        Outcome(cells, plan.metrics, of, {key: s for key, s in scored.items() if key[0] in of}, *sides, clusters)
        for cells, of in ((plan.cells, shown), (plan.floors, real))
    )
    outcome = replace(outcome, noise=plan.noise, attributes=flags_of(plan.attributes, plan.cells, plan.built, sources))
    if plan.config.seeds != "apart":
        outcome = pool_seeds(outcome)
    outcome = with_ratings(outcome, plan.ratings)
    return Measured(stages, outcome, findings, seconds, floor, floors if real else None, judges)


def _floor(plan: Plan, scored: Mapping[tuple[str, str], Scored]) -> Mapping[str, Any]:
    """The noise floor: what the baseline's remakes differ from it by."""
    baseline = next(cell for cell in plan.cells if cell.name == plan.baseline_of(plan.remakes[0].seed))
    return measure_floor(baseline, [(cell, change_text(cell.remake)) for cell in plan.remakes], plan.metrics, scored)


def conclude(plan: Plan, measured: Measured, *, command: str, grown: Grown | None = None) -> ResultTable:
    """The table, and all that a run leaves of it; `grown` says how its number of samples came about."""
    outcome = measured.outcome
    table = _tabled(plan, measured, command, grown.looks if grown else None)
    if grown is not None:
        rows = tuple(_marked(row, grown.stopped.get(row.cell)) for row in table.rows)
        table = replace(table, run={**table.run, "auto": grown.to_json()}, rows=rows, notes=(*table.notes, grown.note))
        table = _compared(plan, outcome, table, grown.looks.confidence)
    made = made_before(table, plan.out / "results.json") or {"made": made_now()}
    table = replace(table, run={**table.run, **made})
    verdict = None
    if plan.gates:
        verdict = _judge(plan, outcome, table, grown.looks.one_sided if grown else CONFIDENCE)
        table = replace(table, gate=verdict.to_json())
    if measured.stages.leads():
        _write(plan, outcome, table, verdict, measured.stages.worker)
    return table


def _marked(row: Row, stop: Stopped | None) -> Row:
    """A row of a cell that stopped early: it is kept, and never ranked with those of more samples."""
    if stop is None or row.metric in COSTS:
        return row
    return replace(row, unsure=True, note="; ".join(filter(None, (row.note, stop.note))))


def _judge(plan: Plan, outcome: Outcome, table: ResultTable, confidence: float) -> gate.Verdict:
    influences, pairing, clusters = outcome.influences, outcome.pairing, outcome.clusters
    return judge(table, plan.gates, influences=influences, pairing=pairing, clusters=clusters, confidence=confidence)


def _tabled(plan: Plan, measured: Measured, command: str, looks: Looks | None) -> ResultTable:
    """The table of scores, with intervals that hold however often the data were looked at."""
    outcome, seconds = measured.outcome, measured.seconds
    confidence = looks.confidence if looks else CONFIDENCE
    about = run_info(outcome, plan.config, plan.store.address, baseline=plan.baseline, command=command, seconds=seconds)
    table = _table(plan, {**about, **measured.judges}, measured, confidence)
    return replace(table, lint=tuple(asdict(finding) for finding in measured.findings))


def _write(plan: Plan, outcome: Outcome, table: ResultTable, verdict: gate.Verdict | None, worker: Worker) -> None:
    """All that a run leaves beside its store's samples, features and scores."""
    pool = worker.pool
    with stage("writing the results"), writing(plan.out), staged(plan.out, partial(_check_out, plan)) as folder:
        if verdict is not None:
            gate.write(verdict, folder)
        write(outcome, table, plan.config, folder)
        write_map(outcome, plan.store.features, plan.extractors, check_map(plan.config.map), folder)
        if plan.walk.lines:
            with pool:
                write_walks(plan.walk, plan.generators(pool).values(), folder / "sheets", plan.config.batch_size)
        _profile(plan, pool, folder)
        if plan.config.report:
            from evalkit.report import write_report

            if plan.config.arrows and not (
                (folder / previous.NAME).exists() and made_before(table, plan.out / "results.json")
            ):
                from evalkit.history.previous import write_arrows

                write_arrows(folder, plan.out)
            write_report(folder)
    for rated in outcome.ratings.values():
        rated.metric.write(plan.out)
    if plan.store.remote is not None:
        with stage("copying the results to the store"):
            copy_results(plan.out, plan.store.remote.below(f"results/{plan.out.name}"))
    _save_stats(plan)
    _export(plan, worker)
    push(plan.config.tracker, plan.out)  # only now: the local results are final


def _profile(plan: Plan, pool: ModelPool, folder: Path) -> None:
    """What `profile` asks for: one seed of each setting, on this process's device."""
    asked = Profile.read(plan.config.profile)
    if asked is None:
        return
    from evalkit.results.profile import why_not, write_profile

    existing = plan.existing
    cells = [(cell, why_not(plan.built[cell.key].model, cell.name in existing)) for cell in plan.shown]
    with pool:
        write_profile(asked, cells, pool, plan.config.device, folder)


def _check_out(plan: Plan) -> None:
    """Raises StoreError where another configuration's results came into the folder while this run went on."""
    if results_folder(plan.config, plan.extractors) != plan.out:
        fix = "give another name=NAME; all is kept, and it takes seconds"
        raise StoreError(f"{plan.out} took the results of another configuration while this run went on: {fix}")


def _export(plan: Plan, worker: Worker) -> None:
    """The cells' images and noise for other tools, below `plan.out`/export; what is there is not written again."""
    if not plan.exports:
        return
    from evalkit.results.export import Set, write_exports

    names = ("model", "sampler", "prompts", "settings", "seed")
    sets: dict[str, Set] = {}
    generators = plan.generators(worker.pool)
    for cell in plan.cells:
        source = worker.source(cell.name)
        shows = cell.name in generators and without_noise(plan.built[cell.key]) is None
        noise = partial(generators[cell.name].all_noise, len(source)) if shows else None
        about = {name: getattr(cell, name) for name in names}
        sets[cell.name] = Set(source, source.categories, about, cell.key, noise)
    with worker.pool:
        write_exports(plan.exports, sets, plan.out / "export", rescan=plan.config.rescan)


def _save_stats(plan: Plan) -> None:
    """The reference's moments as <metric>.npz, of each metric that compares moments."""
    folder = plan.config.save_stats
    if folder is None or plan.reference is None or isinstance(plan.reference, Moments):
        return
    from evalkit.scoring.protocol import side_for
    from evalkit.scoring.sources import reference_statistics

    for name, metric in plan.metrics.items():
        if not isinstance(metric, ReferenceMetric) or not metric.gives_moments:
            continue
        if isinstance(side_for(plan.reference, metric), Moments):
            continue  # they are there already
        extractors = {address.partition("/")[0]: plan.extractors[address.partition("/")[0]] for address in metric.needs}
        mean, cov, n = reference_statistics(name, metric, extractors, plan.reference, plan.store.features)
        identity = next(iter(extractors.values())).identity()
        path = Path(folder).expanduser() / f"{name}.npz"
        write_moments(path, mean.numpy(), cov.numpy(), n=n, features=metric.needs[0], extractor=identity)


def _table(plan: Plan, run: Mapping[str, object], measured: Measured, confidence: float) -> ResultTable:
    """The run's rows, those of earlier runs and of real images next to them, and all comparisons."""
    outcome = measured.outcome
    rows = make_rows(outcome, confidence)
    taken = {cell.name for cell in (*outcome.cells, *plan.floors)}
    for earlier in plan.earlier:
        rows += rename_apart(earlier.rows, taken, str(earlier.run.get("name", "earlier")))
    about = (*notes(outcome.sources), *judge_notes(outcome, run), *rating_notes(outcome))
    told = (*unpaired(outcome, plan.baseline), *about)
    table = with_floor(ResultTable(run, tuple(rows), told, folder=plan.out), measured.floor)
    if measured.real is not None and plan.floor is not None:
        distances = [name for name, metric in plan.metrics.items() if is_distance(metric)]
        table = with_real(table, real_rows(measured.real, confidence), distances, plan.floor.about, confidence)
    return _compared(plan, outcome, table, confidence)


def _compared(plan: Plan, outcome: Outcome, table: ResultTable, confidence: float) -> ResultTable:
    """The table with all comparisons of its rows; cells that stopped early were compared when they did."""
    stopped = table.run.get("auto", {}).get("stopped", {})
    compared = [row for row in table.rows if not (row.unsure and (row.metric in COSTS or row.cell in stopped))]
    compared = [row for row in compared if not is_real(row.model) and multiple_of(row.metric) is None]
    influences, pairing, clusters = outcome.influences, outcome.pairing, outcome.clusters
    comparisons, best = compare(
        compared,
        baseline=plan.baseline,
        influences=influences,
        pairing=pairing,
        clusters=clusters,
        confidence=confidence,
    )
    mine = [row for row in compared if row.cell in {cell.name for cell in outcome.cells}]
    series = find_series(mine, influences=influences, pairing=pairing, clusters=clusters)
    run = {**table.run, "series": series} if series else table.run
    unsure = {(row.metric, row.cell) for row in table.rows if row.unsure}
    best = {metric: [cell for cell in cells if (metric, cell) not in unsure] for metric, cells in best.items()}
    table = replace(table, run=run, comparisons=tuple(comparisons), best=with_best_multiples(best, table))
    return called_none(table)


def _lint(plan: Plan, sources: Mapping[str, Source], watch: Watch) -> list[Finding]:
    asked = asked_of(plan.prompts, plan.cells, sources)
    with stage("checking the images"):
        return lint(sources, plan.reference, watch=watch, asked=asked, made_from=plan.made_from())


def _settle(watch: Watch, sources: Mapping[str, Source], name: str) -> None:
    if name in sources:
        watch.settle(sources[name])


def _score(
    plan: Plan,
    stages: Stages,
    sources: Mapping[str, Source],
    looked: Mapping[str, Source],
    clusters: Mapping[str, Sequence[int]],
    watch: Watch | None,
) -> Mapping[tuple[str, str], Scored]:
    """All scores; with `watch`, images that the lint looks over (no remakes: copies by design) are measured as they are
    read."""
    from evalkit.scoring import score_sources

    watched, done = plan, None
    if watch is not None:
        done = partial(_settle, watch, looked)
        sources = {name: watch.of(source) if name in looked else source for name, source in sources.items()}
        reference = plan.reference
        reference = watch.of(reference) if reference and not isinstance(reference, Moments) else reference
        watched = replace(plan, reference=reference)
    with stages.worker.pool as pool:
        given = scoring_arguments(watched, pool, sources, clusters)
        return score_sources(sources, valueless=stages.valueless(), done=done, **given)
