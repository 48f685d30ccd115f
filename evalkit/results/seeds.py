"""`seed={sweep: [...]}`: seeds are replicates of a setting, not rivals: one line per setting."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

from evalkit.cell import Cell
from evalkit.data.source import GenerationStats, Headers, Source, UnderLoad, content_digest
from evalkit.metric import PairMetric, Score, standard_error
from evalkit.results.rows import Outcome
from evalkit.samples.store import SampleSet
from evalkit.scoring.pair_details import pooled
from evalkit.utils.files import sha256_json

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from evalkit.metric import Metric
    from evalkit.scoring.scoring import Scored

NEAREST = 32  # suspicious samples that are kept


def pool_cells(cells: Sequence[Cell]) -> list[tuple[Cell, list[Cell]]]:
    """Each setting as one cell, with the cells of its seeds; a setting of one seed stays as it is."""
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(sha256_json({**cell.identity, "seed": None}) if cell.identity else cell.key, []).append(cell)
    pooled: list[tuple[Cell, list[Cell]]] = []
    taken: set[str] = set()
    for group in groups.values():
        first = group[0]
        if len(group) > 1:
            key = sha256_json([cell.key for cell in group])
            name = re.sub(rf"-seed{first.seed}(?=$|-[0-9a-f]{{4}}$)", "", first.name)
            name = f"{name}-{key[:4]}" if name in taken else name
            count = sum(cell.num_samples for cell in group)
            first = replace(first, name=name, key=key, num_samples=count)
        taken.add(first.name)
        pooled.append((first, group))
    return pooled


@dataclass(frozen=True)
class Seeds:
    """The samples of one setting under several seeds, one seed after the other, as a `Source`."""

    name: str
    parts: Sequence[Source]

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    @property
    def digest(self) -> str:
        return content_digest([part.digest for part in self.parts])

    @property
    def chunks(self) -> Sequence[range]:
        shifted: list[range] = []
        start = 0
        for part in self.parts:
            shifted += [range(start + chunk.start, start + chunk.stop) for chunk in part.chunks]
            start += len(part)
        return shifted

    def chunk_digest(self, chunk: range) -> str:
        part, start = self._at(chunk.start)
        return part.chunk_digest(range(start, start + len(chunk)))

    @property
    def made_here(self) -> bool:
        return all(isinstance(part, SampleSet) for part in self.parts)

    def _at(self, index: int) -> tuple[Source, int]:
        for part in self.parts:
            if index < len(part):
                return part, index
            index -= len(part)
        raise IndexError(index)

    def read(self, indices: range) -> list[NDArray[np.uint8]]:
        images = []
        for i in indices:
            part, place = self._at(i)
            images += part.read(range(place, place + 1))
        return images

    def location(self, index: int) -> str:
        part, place = self._at(index)
        return part.location(place)

    @property
    def prompts(self) -> Sequence[str | None]:
        return [prompt for part in self.parts for prompt in part.prompts]

    @property
    def categories(self) -> Sequence[str | None]:
        return [category for part in self.parts for category in part.categories]

    @property
    def warnings(self) -> Mapping[str, int]:
        kinds = dict.fromkeys(kind for part in self.parts for kind in part.warnings)
        return {kind: sum(part.warnings.get(kind, 0) for part in self.parts) for kind in kinds}

    def headers(self) -> Headers:
        return Headers()  # each seed's own samples were looked at

    def unlike_metadata(self) -> list[int]:
        return []

    def stats(self) -> GenerationStats | None:
        """The mean over seeds of what making the samples cost."""
        known = [stats for part in self.parts if (stats := part.stats()) is not None]
        if len(known) < len(self.parts):
            return None
        means: dict[str, Any] = {}
        for name in ("latency_p50", "latency_p95", "images_per_second", "nfe", "peak_memory_mb"):
            values = [value for stats in known if (value := getattr(stats, name)) is not None]
            means[name] = fmean(values) if len(values) == len(known) else None
        loads = [stats.under_load for stats in known if stats.under_load is not None]
        if len(loads) == len(known):
            means |= {"under_load": _pool_loads(loads), "stderrs": {}}
        devices = " + ".join(sorted({stats.device for stats in known}))
        means |= {"blanked": sum(stats.blanked for stats in known), "beside": max(stats.beside for stats in known)}
        return replace(known[0], **means, device=devices)


def _pool_loads(loads: Sequence[UnderLoad]) -> UnderLoad:
    """The means over seeds; each was measured by itself, so that no interval is one of all requests."""
    waits = [load.queueing for load in loads if load.queueing is not None]
    requests = sum(load.requests for load in loads)
    return replace(
        loads[0],
        latency_p90=fmean(load.latency_p90 for load in loads),
        latency_p99=fmean(load.latency_p99 for load in loads),
        queueing=fmean(waits) if len(waits) == len(loads) else None,
        tells=all(load.tells for load in loads),
        request_errors=sum(load.request_errors * load.requests for load in loads) / requests,
        kinds=dict(sum((Counter(load.kinds) for load in loads), Counter[str]()).most_common()),
        requests=requests,
        parts=max(load.parts for load in loads),
        intervals={},
    )


def pool_seeds(outcome: Outcome) -> Outcome:
    """What a run made and scored with one cell per setting: its samples, and the means of its scores."""
    pooled = pool_cells(outcome.cells)
    if all(len(group) == 1 for _, group in pooled):
        return outcome
    sources, clusters, seeds = dict[str, Source](), dict[str, Sequence[int]](), dict[str, int]()
    attributes: dict[str, Mapping[str, tuple[bool | None, ...]]] = {}
    scored: dict[tuple[str, str], Scored] = {}
    for cell, group in pooled:
        distinct = {outcome.sources[one.name].digest: one for one in group}  # images made elsewhere have no seed
        group = list(distinct.values())
        flags = [outcome.attributes.get(one.name, {}) for one in group]
        if all(flags):
            attributes[cell.name] = {name: tuple(flag for of in flags for flag in of[name]) for name in flags[0]}
        if len(group) == 1:
            name = group[0].name
            sources[cell.name], clusters[cell.name] = outcome.sources[name], outcome.clusters_of(name)
            scored |= {(cell.name, metric): outcome.scored[name, metric] for metric in outcome.metrics}
            continue
        sources[cell.name] = Seeds(cell.name, [outcome.sources[one.name] for one in group])
        ids = [outcome.clusters_of(one.name) for one in group]
        clusters[cell.name] = _joined(ids)
        seeds[cell.name] = len(group)
        for name, metric in outcome.metrics.items():
            parts = [outcome.scored[one.name, name] for one in group]
            scored[cell.name, name] = _pool_scores(metric, parts, ids, clusters[cell.name])
    cells = [replace(cell, num_samples=len(sources[cell.name])) for cell, _ in pooled]
    noise = {cell.name: outcome.noise[group[0].name] for cell, group in pooled if group[0].name in outcome.noise}
    made: dict[str, Any] = {"sources": sources, "scored": scored, "clusters": clusters, "seeds": seeds, "noise": noise}
    made["attributes"] = attributes
    return replace(outcome, cells=cells, **made)


def _joined(ids: Sequence[Sequence[int]]) -> list[int]:
    """Clusters of several seeds' samples: a prompt is one under all seeds, a sample without a prompt its own."""
    joined: list[int] = []
    for own in ids:
        offset = len(joined)
        joined += [i if i >= 0 else i - offset for i in own]
    return joined


def _pool_scores(
    metric: Metric, parts: Sequence[Scored], ids: Sequence[Sequence[int]], joined: Sequence[int]
) -> Scored:
    scores = [part.score for part in parts]
    hashes = dict.fromkeys(part.protocol_hash for part in parts)
    first = parts[0]
    if len(hashes) > 1:  # such as each seed's own baseline: all must agree
        protocol = {**first.protocol, "seeds": list(hashes)}
        first = replace(first, protocol=protocol, protocol_hash=sha256_json(protocol)[: len(first.protocol_hash)])
    kind = "by prompt" if len(set(joined)) < len(joined) else "by sample"
    score = pool_scores(scores, ids, joined, raw=metric.per_sample)
    if isinstance(metric, PairMetric) and score.value is not None:
        score = pooled(score, scores)
    return replace(first, score=score, error=kind)


def pool_scores(
    scores: Sequence[Score], ids: Sequence[Sequence[int]], joined: Sequence[int], *, raw: bool = False
) -> Score:
    """The mean of a setting's scores over seeds, its spread over them, and a standard error by cluster.

    A prompt is one cluster under all seeds: more seeds do not make its choice any surer. What a score's own error holds
    beyond its influences (a U-statistic's second order, the draws of subsets) is independent from seed to seed. Scores
    without influences: the mean of their errors where prompts are shared (as if they erred together, at most), else
    the error of a mean of independent scores.

    Args:
        scores: of each seed.
        ids: of each seed its samples' clusters.
        joined: those of all samples, seed after seed.
        raw: whether influences are the samples' own values, to be kept as they are.
    """
    n, count = sum(score.n for score in scores), len(scores)
    missing = next((score for score in scores if score.value is None), None)
    if missing is not None:
        return replace(missing, n=n, stderr=None, influence=None, nearest=())
    values = [score.value for score in scores if score.value is not None]
    notes = "; ".join(dict.fromkeys(note for score in scores if (note := score.note)))
    details = {
        name: fmean(score.details[name] for score in scores)
        for name in scores[0].details
        if all(name in score.details for score in scores)
    }
    details |= {"seeds": float(count), "seed_sd": stdev(values)}
    errors = [score.stderr for score in scores if score.stderr is not None]
    influence: list[float] | None = []
    for score, own in zip(scores, ids, strict=True):
        if influence is None or score.influence is None or len(score.influence) != len(own):
            influence = None
            break
        mean = 0.0 if raw else fmean(score.influence)
        influence += [value - mean for value in score.influence]
    stderr: float | None = None
    if len(errors) == count:
        shared = len(set(joined)) < sum(len(set(own)) for own in ids)
        stderr = fmean(errors) if shared else sum(error**2 for error in errors) ** 0.5 / count
        if influence is not None and (together := standard_error(influence, joined)) is not None:
            alone = (standard_error(s.influence or (), own) for s, own in zip(scores, ids, strict=True))
            beyond = sum(max(0.0, e**2 - (of or 0.0) ** 2) for e, of in zip(errors, alone, strict=True))
            stderr = (together**2 + beyond / count**2) ** 0.5
    offsets = [sum(len(own) for own in ids[:i]) for i in range(count)]
    nearest = [(i + at, j, d) for score, at in zip(scores, offsets, strict=True) for i, j, d in score.nearest]
    headings = {
        name: tuple(
            v for score, own in zip(scores, ids, strict=True) for v in score.headings.get(name, [None] * len(own))
        )
        for name in dict.fromkeys(name for score in scores for name in score.headings)
    }
    return Score(
        fmean(values),
        n,
        stderr,
        None if influence is None else tuple(influence),
        details,
        tuple(sorted(nearest, key=lambda pair: pair[2])[:NEAREST]),
        notes or None,
        clusters=len(set(joined)),
        headings=headings,
    )
