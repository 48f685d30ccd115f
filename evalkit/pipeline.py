"""Runs the stages in order: plan, samples, features and scores, table. Each stage reads what the one before left."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from evalkit import gate
from evalkit.data.moments import Moments, write_moments
from evalkit.data.source import Source
from evalkit.errors import DataError, StoreError
from evalkit.gate import judge
from evalkit.lint import Finding, Watch, asked_of, lint
from evalkit.metric import ReferenceMetric
from evalkit.plan.plan import Plan
from evalkit.plan.results_folder import results_folder
from evalkit.results.compare import compare, rename_apart
from evalkit.results.files import write
from evalkit.results.latent_walk import write_walks
from evalkit.results.made import made_before, made_now
from evalkit.results.notebook import ResultTable
from evalkit.results.publish import copy_results, staged
from evalkit.results.rows import Outcome, make_rows, notes, run_info
from evalkit.results.seeds import pool_seeds
from evalkit.results.series import find_series
from evalkit.results.table import COSTS
from evalkit.trackers.push import push
from evalkit.utils.files import check_writable, writing
from evalkit.utils.progress import stage
from evalkit.work.stages import Stages
from evalkit.work.worker import scoring_arguments

if TYPE_CHECKING:
    from evalkit.samples.model_pool import ModelPool
    from evalkit.scoring.scoring import Scored


def fill(plan: Plan) -> Stages:
    """Has the plan's engine make what is missing in the store; errors as of `Stages.run`."""
    check_writable(plan.out)  # the store may be read-only where all is there
    stages = Stages(plan)
    try:
        stages.run()
    finally:
        plan.engine.close()
    return stages


def run(plan: Plan, *, command: str = "") -> ResultTable:
    """Makes what is missing, scores it, and writes the results into `plan.out`.

    Of several processes that work on the run, the one that leads writes; the others return the same table.
    """
    started = time.time()
    seconds: dict[str, float] = {}
    stages = fill(plan)
    worker = stages.worker
    seconds["generate"] = time.time() - started
    with stage("looking through the samples"):
        sources = {cell.name: worker.source(cell.name) for cell in plan.cells}
    clusters = plan.clusters(sources)
    watch = None
    if plan.config.lint:
        watch = Watch(plan.store.lint, rescan=plan.config.rescan, parts=worker.parts)
    try:
        with stage("scoring"):
            scored = _score(plan, stages, sources, clusters, watch)
    except DataError:
        if watch is not None:
            _lint(plan, sources, watch)  # names all files that are not as they should be; scoring stopped at the first
        raise
    seconds["score"] = time.time() - started - seconds["generate"]
    findings = _lint(plan, sources, watch) if watch is not None else []
    leads = stages.leads()
    if worker.parts is not None and leads:
        worker.parts.sweep()
    seconds["lint"] = time.time() - started - seconds["generate"] - seconds["score"]
    outcome = Outcome(plan.cells, plan.metrics, sources, scored, plan.reference, plan.training, clusters)
    if plan.config.seeds != "apart":
        outcome = pool_seeds(outcome)
    about = run_info(outcome, plan.config, plan.store.address, baseline=plan.baseline, command=command, seconds=seconds)
    table = _table(plan, about, outcome)
    table = replace(table, lint=tuple(asdict(finding) for finding in findings))
    made = made_before(table, plan.out / "results.json") or {"made": made_now()}
    table = replace(table, run={**table.run, **made})
    verdict = None
    if plan.gates:
        influences, pairing = outcome.influences, outcome.pairing
        verdict = judge(table, plan.gates, influences=influences, pairing=pairing, clusters=outcome.clusters)
        table = replace(table, gate=verdict.to_json())
    if leads:
        _write(plan, outcome, table, verdict, worker.pool)
    return table


def _write(plan: Plan, outcome: Outcome, table: ResultTable, verdict: gate.Verdict | None, pool: ModelPool) -> None:
    """All that a run leaves beside its store's samples, features and scores."""
    with stage("writing the results"), writing(plan.out), staged(plan.out, partial(_check_out, plan)) as folder:
        if verdict is not None:
            gate.write(verdict, folder)
        write(outcome, table, plan.config, folder)
        if plan.walk.lines:
            with pool:
                write_walks(plan.walk, plan.generators(pool).values(), folder / "sheets", plan.config.batch_size)
        if plan.config.report:
            from evalkit.report import write_report

            write_report(folder)
    if plan.store.remote is not None:
        with stage("copying the results to the store"):
            copy_results(plan.out, plan.store.remote.below(f"results/{plan.out.name}"))
    _save_stats(plan)
    _export(plan, outcome.sources)
    push(plan.config.tracker, plan.out)  # only now: the local results are final


def _check_out(plan: Plan) -> None:
    """Raises StoreError where another configuration's results came into the folder while this run went on."""
    if results_folder(plan.config, plan.extractors) != plan.out:
        fix = "give another name=NAME; all is kept, and it takes seconds"
        raise StoreError(f"{plan.out} took the results of another configuration while this run went on: {fix}")


def _export(plan: Plan, sources: Mapping[str, Source]) -> None:
    """The cells' images for other tools, below `plan.out`/export; what is there already is not written again."""
    if not plan.exports:
        return
    from evalkit.results.export import Set, write_exports

    names = ("model", "sampler", "prompts", "settings", "seed")
    sets = {
        cell.name: Set(sources[cell.name], sources[cell.name].categories, {name: getattr(cell, name) for name in names})
        for cell in plan.cells
    }
    write_exports(plan.exports, sets, plan.out / "export", rescan=plan.config.rescan)


def _save_stats(plan: Plan) -> None:
    """The reference's moments as <metric>.npz, of each metric that compares moments."""
    folder = plan.config.save_stats
    if folder is None or plan.reference is None or isinstance(plan.reference, Moments):
        return
    from evalkit.scoring.sources import reference_statistics

    for name, metric in plan.metrics.items():
        if not isinstance(metric, ReferenceMetric) or not metric.gives_moments:
            continue
        extractors = {address.partition("/")[0]: plan.extractors[address.partition("/")[0]] for address in metric.needs}
        mean, cov, n = reference_statistics(name, metric, extractors, plan.reference, plan.store.features)
        identity = next(iter(extractors.values())).identity()
        path = Path(folder).expanduser() / f"{name}.npz"
        write_moments(path, mean.numpy(), cov.numpy(), n=n, features=metric.needs[0], extractor=identity)


def _table(plan: Plan, run: Mapping[str, object], outcome: Outcome) -> ResultTable:
    """The run's rows, those of earlier runs next to them, and all comparisons."""
    rows = make_rows(outcome)
    taken = {cell.name for cell in outcome.cells}
    for earlier in plan.earlier:
        rows += rename_apart(earlier.rows, taken, str(earlier.run.get("name", "earlier")))
    compared = [row for row in rows if not (row.unsure and row.metric in COSTS)]  # nothing is worse than such a cost
    influences, pairing, clusters = outcome.influences, outcome.pairing, outcome.clusters
    comparisons, best = compare(
        compared, baseline=plan.baseline, influences=influences, pairing=pairing, clusters=clusters
    )
    mine = [row for row in rows if row.cell in taken]
    series = find_series(mine, influences=influences, pairing=pairing, clusters=clusters)
    run = {**run, "series": series} if series else run
    unsure = {(row.metric, row.cell) for row in rows if row.unsure}
    best = {metric: [cell for cell in cells if (metric, cell) not in unsure] for metric, cells in best.items()}
    said = tuple(notes(outcome.sources))
    return ResultTable(run, tuple(rows), said, tuple(comparisons), best, folder=plan.out)


def _lint(plan: Plan, sources: Mapping[str, Source], watch: Watch) -> list[Finding]:
    asked = asked_of(plan.prompts, plan.cells, sources)
    with stage("checking the images"):
        return lint(sources, plan.reference, watch=watch, asked=asked, made_from=plan.made_from())


def _settle(watch: Watch, sources: Mapping[str, Source], name: str) -> None:
    watch.settle(sources[name])


def _score(
    plan: Plan,
    stages: Stages,
    sources: Mapping[str, Source],
    clusters: Mapping[str, Sequence[int]],
    watch: Watch | None,
) -> Mapping[tuple[str, str], Scored]:
    """All scores; with `watch`, the images are measured for the lint as they are read."""
    from evalkit.scoring import score_sources

    watched, done = plan, None
    if watch is not None:
        done = partial(_settle, watch, sources)
        sources = {name: watch.of(source) for name, source in sources.items()}
        reference = plan.reference
        reference = watch.of(reference) if reference and not isinstance(reference, Moments) else reference
        watched = replace(plan, reference=reference)
    with stages.worker.pool as pool:
        given = scoring_arguments(watched, pool, sources, clusters)
        return score_sources(sources, valueless=stages.valueless(), done=done, **given)
