"""What a run made and scored, as the table's rows: scores, what the samples cost, warnings, versions."""

from __future__ import annotations

import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from evalkit.cell import Cell
from evalkit.data.source import GenerationStats, Source, UnderLoad
from evalkit.metric import cluster_ids
from evalkit.results.stats import CONFIDENCE, Estimate, interval
from evalkit.results.table import COSTS, FEW, LOAD_COSTS, Row
from evalkit.samples.store import SampleSet
from evalkit.utils.files import sha256_json

if TYPE_CHECKING:
    from evalkit.config.schema import RunConfig
    from evalkit.data.moments import Moments
    from evalkit.metric import Metric
    from evalkit.scoring.scoring import Scored
    from evalkit.votes.metric import Rated

# What a table's numbers may depend on, written into results.json (read from the installed metadata: no import).
_VERSIONS = ("evalkit", "torch", "diffusers", "transformers", "open-clip-torch", "torch-fidelity", "numpy", "scipy")


@dataclass(frozen=True)
class Outcome:
    """What a run made and scored.

    Attributes:
        cells: in the order of the grid.
        metrics: by name, in the order of the table.
        sources: each cell's images.
        scored: by (cell, metric).
        reference, training: what the samples were compared with, or none.
        seeds: by cell how many seeds it stands for, where several.
        noise: by cell what its starting noise is (`StartingNoise.about`), of those that take it from a file.
        clusters: by cell its samples' clusters; of one that is not named: those of one prompt.
        attributes: by cell and attribute (`evalkit.data.attributes`) a flag per sample, none where nobody says.
        ratings: by metric what was made of votes.
    """

    cells: Sequence[Cell]
    metrics: Mapping[str, Metric]
    sources: Mapping[str, Source]
    scored: Mapping[tuple[str, str], Scored]
    reference: Source | Moments | None = None
    training: Source | Moments | None = None
    clusters: Mapping[str, Sequence[int]] = field(default_factory=dict)
    seeds: Mapping[str, int] = field(default_factory=dict)
    noise: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    attributes: Mapping[str, Mapping[str, tuple[bool | None, ...]]] = field(default_factory=dict)
    ratings: Mapping[str, Rated] = field(default_factory=dict)

    def clusters_of(self, cell: str) -> Sequence[int]:
        return self.clusters.get(cell) or cluster_ids(self.sources[cell].prompts)

    @property
    def influences(self) -> dict[tuple[str, str], Sequence[float]]:
        """By (cell, metric): one value per sample, of the scores that have them."""
        return {key: item.score.influence for key, item in self.scored.items() if item.score.influence is not None}

    @property
    def pairing(self) -> dict[str, str]:
        """By cell a digest of its seed, prompts and number of samples: cells that share it are compared in pairs.

        Images that were made elsewhere are paired by their prompts; without prompts nothing says that they belong
        together. Where the starting noise comes from a file, its digest stands for the seed: cells of the same noise
        are paired, whatever their engines and seeds, others are not. Those of a service without seeds have no pairs.
        """
        digests = {}
        for cell in self.cells:
            source = self.sources[cell.name]
            known = _made_here(source) or any(source.prompts)
            noise = self.noise_of(cell)
            drawn: Any = cell.seed if noise is None else {"latents": noise}
            if _is_loose(source, noise):
                drawn = {"unseeded": source.digest}
            parts = [drawn, len(source), list(source.prompts) if known else cell.name]
            digests[cell.name] = sha256_json(parts)[:10]
        return digests

    def noise_of(self, cell: Cell) -> str | None:
        """The digest of a cell's starting noise, where that is known: it comes from a file, or it is the cell whose
        noise evalkit wrote into another cell's file. None: drawn from its seed."""
        given = self.noise.get(cell.name)
        if given is not None:
            return str(given["sha256"])
        return next((str(one["sha256"]) for one in self.noise.values() if one.get("cell") == cell.key), None)


def _made_here(source: Source) -> bool:
    return bool(getattr(source, "made_here", isinstance(source, SampleSet)))


def _is_loose(source: Source, noise: str | None) -> bool:
    """Whether nobody knows what samples began with: neither a seed nor latents."""
    return noise is None and bool(source.warnings.get(UNSEEDED))


def make_rows(outcome: Outcome, confidence: float = CONFIDENCE) -> list[Row]:
    """One row per cell and metric, with its interval at `confidence`, and one per cell and cost."""
    rows = []
    for cell in outcome.cells:
        about = (cell.name, cell.model, cell.sampler, cell.prompts, dict(cell.settings), cell.seed)
        for name, metric in outcome.metrics.items():
            result = outcome.scored[cell.name, name]
            score = result.score
            values = (score.value, score.stderr, score.n, metric.better, result.protocol, result.protocol_hash)
            few = score.value is not None and score.n < FEW and _of_distributions(metric) and not score.headings
            ends: tuple[float | None, float | None] = (None, None)
            if score.value is not None:
                ids = outcome.clusters_of(cell.name)
                about_it = Estimate(score.value, score.stderr, score.n, score.influence, ids, score.clusters)
                ends = interval(about_it, confidence) or ends
            rows.append(
                Row(
                    *(*about, name, result.label, *values),
                    details=dict(score.details),
                    note=score.note,
                    broken=score.broken,
                    unsure=few,
                    error=result.error,
                    clusters=score.clusters,
                    low=ends[0],
                    high=ends[1],
                    seeds=outcome.seeds.get(cell.name, 1),
                )
            )
        rows += _cost_rows(about, outcome.sources[cell.name])
    return rows


def _of_distributions(metric: Metric) -> bool:
    """Whether a metric tells of a set as a whole, not of its samples one by one, nor of the model itself."""
    from evalkit.metric import ReferenceMetric, SampleMetric

    return isinstance(metric, ReferenceMetric) or (isinstance(metric, SampleMetric) and not metric.per_sample)


_About = tuple[str, str, str | None, str | None, dict[str, Any], int]  # a row's first fields: which cell it is of
_TIMED = ("latency_p50", "latency_p90", "latency_p95", "latency_p99", "queueing", "images_per_second", "request_errors")
_UNKNOWN = {False: "these images were not made by evalkit", True: "the model does not tell"}
_SLOWEST = {
    "latency_p90": 10,
    "latency_p95": 20,
    "latency_p99": 100,
}  # of fewer requests it is nearly the slowest one's


def _cost_rows(about: _About, source: Source) -> list[Row]:
    """Latency per image and the like; images that were made elsewhere have none."""
    stats = source.stats()
    rows = []
    for name, (label, factor, better) in COSTS.items():
        if name in LOAD_COSTS and (stats is None or stats.under_load is None):
            continue
        value = getattr(stats.under_load if name in LOAD_COSTS and stats is not None else stats, name, None)
        value = None if value is None or math.isnan(value) else value * factor
        protocol = _cost_protocol(name, stats)
        note = _UNKNOWN[stats is not None] if value is None else None
        stderr = stats.stderrs.get(name) if stats is not None else None
        unsure = stats is not None and value is not None and name in _TIMED and stats.doubt is not None
        if unsure and stats is not None:
            note, stderr = stats.doubt, None
        error = None if stderr is None else stderr * factor
        figures = (value, error, len(source), better, protocol, sha256_json(protocol)[:10])
        row = Row(*about, name, label, *figures, note=note, unsure=unsure)
        rows.append(row if stats is None or stats.under_load is None else _under_load(row, stats.under_load, factor))
    return rows


def _cost_protocol(name: str, stats: GenerationStats | None) -> dict[str, Any]:
    """What a cost rests on: it is ranked with those of the same. A load is a setting of the cell, as its steps are."""
    protocol: dict[str, Any] = {"metric": name}
    if stats is None:
        return protocol
    loaded = stats.under_load is not None and name in _TIMED
    if name != "nfe":
        protocol |= {"device": stats.device, **({"load": True} if loaded else {"batch_size": stats.batch_size})}
    if stats.under_load is not None and name == "queueing":
        protocol["until"] = "begun" if stats.under_load.tells else "sent"
    if name in _TIMED and stats.beside > 1:
        protocol["beside"] = stats.beside  # never ranked with what was timed alone
    return protocol


def _under_load(row: Row, load: UnderLoad, factor: float) -> Row:
    """A cost with what is known of it under load: its interval, kinds of errors, and whether it says much."""
    if row.metric == "request_errors":
        row = replace(row, n=load.requests, details={f"errors: {kind}": float(n) for kind, n in load.kinds.items()})
    if row.metric not in _TIMED:
        return row
    row = replace(row, n=load.requests)
    if row.value is None:
        unknown = row.metric == "queueing" and load.request_errors < 1
        why = "the service does not tell when it begins" if unknown else "no request was answered under load"
        return replace(row, note=why)
    if row.unsure:
        return row
    if row.metric in load.intervals:
        low, high = (end * factor for end in load.intervals[row.metric])
        row = replace(row, low=low, high=high)
    answered, least = round(load.requests * (1 - load.request_errors)), _SLOWEST.get(row.metric, 0)
    if answered < least:
        return replace(row, unsure=True, note=f"of fewer than {least} answered requests it is nearly the slowest one's")
    if row.metric == "queueing" and not load.tells:
        return replace(row, note="until a request left this machine: the service does not tell when it begins")
    return row


UNSEEDED = "unseeded"
_WARNINGS = {
    "blanked": "blanked by the model's safety checker (black images that count as samples)",
    "prompt_truncated": "made from a prompt that was longer than the model's context and was cut",
    "alpha_dropped": "with transparency, which was dropped",
    "exif_rotated": "turned as their EXIF orientation says",
    "retried": "had from the service only after a failed request (429, 5xx, a cut connection, a wrong answer)",
    UNSEEDED: "made by a service that takes no seed: they cannot be made again",
    "seed_ignored": "made from another seed than the service was given",
    "prompt_revised": "made from a prompt that the service had rewritten",
    "negative_prompt_ignored": "made without their negative prompt, which has no effect here",
    "lora_unmatched": "made with a LoRA of whose keys half or more have no layer in the model",
    "lora_zero": "made with a LoRA that changes nothing: its last weights are all zero",
}


def notes(sources: Mapping[str, Source]) -> list[str]:
    return [*_warnings(sources), *_load_notes(sources)]


def _load_notes(sources: Mapping[str, Source]) -> list[str]:
    """Errors under load by kind, and loads that were measured in several parts."""
    lines = []
    for name, source in sources.items():
        stats = source.stats()
        load = stats.under_load if stats is not None else None
        if load is None:
            continue
        if load.kinds:
            kinds = ", ".join(f"{kind}: {count}" for kind, count in load.kinds.items())
            failed = f"{sum(load.kinds.values())} of {load.requests} requests failed under load ({kinds})"
            lines.append(f"Warning: {name}: {failed}; their images were asked for again when it was over.")
        if load.parts > 1:
            why = "an earlier run was broken off, or the set grew"
            lines.append(f"{name}: its load was measured in {load.parts} parts: {why}.")
    return lines


def _warnings(sources: Mapping[str, Source]) -> list[str]:
    return [
        f"Warning: {name}: {count} of {len(source)} images {_WARNINGS.get(kind, kind)}."
        for name, source in sources.items()
        for kind, count in source.warnings.items()
        if count
    ]


def unpaired(outcome: Outcome, baseline: str | None) -> list[str]:
    """Notes: which cells cannot be compared with the baseline sample by sample, for their noise is another."""
    cells = {cell.name: cell for cell in outcome.cells}
    if baseline not in cells:
        return []
    lines = []
    noise = {name: outcome.noise_of(cell) for name, cell in cells.items()}
    base = outcome.sources[baseline]
    for name in cells:
        source = outcome.sources[name]
        if name == baseline or not _made_here(source):
            continue
        why = None
        loose = next((who for who, of in ((name, source), (baseline, base)) if _is_loose(of, noise[who])), None)
        if loose is not None:
            why = f"{loose} takes neither a seed nor latents"
        elif noise[name] != noise[baseline]:
            told = {who: f"{who} begins with {_noise_text(outcome.noise.get(who))}" for who in (name, baseline)}
            why = f"{told[name]}, {told[baseline]}"
        if why is not None:
            lines.append(f"Unpaired: {name} cannot be compared with {baseline} sample by sample: {why}.")
    return lines


def _noise_text(about: Mapping[str, Any] | None) -> str:
    return "the noise of its seed" if about is None else f"that of {about['path']}"


def single_files(cells: Sequence[Cell]) -> dict[str, Any]:
    """By cell what is known of a model that was read from a single file: prediction type, EMA weights or not."""
    models = {cell.name: dict(cell.identity.get("model") or {}) for cell in cells}
    return {name: model["single_file"] for name, model in models.items() if "single_file" in model}


def run_info(
    outcome: Outcome,
    config: RunConfig,
    store: str,
    *,
    baseline: str | None,
    command: str,
    seconds: Mapping[str, float],
) -> dict[str, Any]:
    """How the run was made: versions, timings, the configuration (JSON values)."""
    versions = {}
    for package in _VERSIONS:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:  # a bare checkout, say
            versions[package] = "not installed"
    return {
        "name": config.name,
        "command": command,
        "cells": {cell.name: cell.key for cell in outcome.cells},
        "reference": outcome.reference.name if outcome.reference is not None else None,
        "training": outcome.training.name if outcome.training is not None else None,
        "baseline": baseline,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "store": store,
        "pairing": outcome.pairing,
        **({"latents": {name: dict(about) for name, about in outcome.noise.items()}} if outcome.noise else {}),
        **({"single_files": files} if (files := single_files(outcome.cells)) else {}),
        "images": {name: {"count": len(s), "warnings": dict(s.warnings)} for name, s in outcome.sources.items()},
        "versions": versions,
        "seconds": {stage: round(value, 2) for stage, value in seconds.items()},
        "config": asdict(config),
    }
