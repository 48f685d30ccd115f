"""Samples that lie on several ranks: each chunk's features are computed on one of them, and come to the first.

Chunks of 256 are what features are computed by, here as of files: that is why the bits do not depend on the number of
ranks. The images of a chunk that no rank holds whole are brought together on one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from evalkit.data.moments import Moments
from evalkit.loop.collected import Collected
from evalkit.loop.ranks import Ranks

if TYPE_CHECKING:
    from evalkit.data.source import Source
    from evalkit.features.feature_pass import FeaturePass


@dataclass(frozen=True)
class Part:
    """What a rank has.

    Attributes:
        sha256s, prompts: by index, of the samples that it was given.
        held: those whose pixels it holds.
        done: the chunks, by their first index, whose features it has.
        about: what must be the same on all ranks.
    """

    sha256s: Mapping[int, str]
    prompts: Mapping[int, str | None]
    held: frozenset[int]
    done: frozenset[int]
    about: Mapping[str, object]


def owners(chunks: Sequence[range], parts: Sequence[Part]) -> list[int]:
    """The rank that computes each chunk's features: one that has them or holds it whole, else the one of fewest."""
    load = [0] * len(parts)
    chosen = []
    for chunk in chunks:
        have = [len(chunk) if chunk.start in part.done else sum(i in part.held for i in chunk) for part in parts]
        owner = min(range(len(parts)), key=lambda rank: (have[rank] < len(chunk), load[rank], -have[rank]))
        load[owner] += 1
        chosen.append(owner)
    return chosen


def bring_together(
    ranks: Ranks, samples: Collected, parts: Sequence[Part], features: FeaturePass, addresses: Sequence[str]
) -> None:
    """Computes what features of the samples are missing, and brings them to the first rank.

    Args:
        ranks: all of them.
        samples: all samples, as every rank knows them; it holds this rank's pixels.
        parts: what each rank has.
        features: of this rank.
        addresses: of the features; none: metrics of pixels alone, which are brought to the first rank.
    """
    chosen = owners(samples.chunks, parts)
    for chunk, owner in zip(samples.chunks, chosen, strict=True):
        if addresses and chunk.start not in parts[owner].done:
            _bring_pixels(ranks, samples, parts, chunk, owner)
    if addresses:
        owned = [
            [chunk for chunk, owner in zip(samples.chunks, chosen, strict=True) if owner == rank]
            for rank in range(ranks.size)
        ]
        compute(ranks, features, samples, addresses, owned)


def bring_all_pixels(ranks: Ranks, samples: Collected, parts: Sequence[Part]) -> None:
    """Brings all pixels to the first rank, for metrics that look at them."""
    for chunk in samples.chunks:
        _bring_pixels(ranks, samples, parts, chunk, 0)


def _bring_pixels(ranks: Ranks, samples: Collected, parts: Sequence[Part], chunk: range, to: int) -> None:
    """Brings the pixels of a chunk that a rank lacks to it; nothing is sent where it lacks none."""
    lacking = [i for i in chunk if i not in parts[to].held]
    if not lacking:
        return
    first = {i: next((rank for rank, part in enumerate(parts) if i in part.held), None) for i in lacking}
    mine = {i: samples.read(range(i, i + 1))[0] for i in lacking if first[i] == ranks.rank}
    for theirs in ranks.gather(to, mine):
        samples.hold(theirs)


def compute(
    ranks: Ranks, features: FeaturePass, source: Source, addresses: Sequence[str], owned: Sequence[Sequence[range]]
) -> None:
    """Computes features of a source, each rank those of its own chunks, and brings them to the first rank."""
    ranks.together(lambda: features.compute(source, addresses, owned[ranks.rank]))
    for turn in range(max(map(len, owned[1:]), default=0)):
        mine = [chunk for chunk in owned[ranks.rank][turn : turn + 1] if ranks.rank]
        for stored in ranks.gather(0, [each for chunk in mine for each in features.stored(source, addresses, chunk)]):
            features.take(stored)


def compute_side(ranks: Ranks, features: FeaturePass, side: Source | Moments | None, addresses: Sequence[str]) -> None:
    """The reference's features, or the training set's, as far as the first rank lacks them, spread over all ranks."""
    if side is None or isinstance(side, Moments) or ranks.size == 1 or not addresses:
        return
    missing = ranks.from_first(lambda: features.missing_chunks(side, addresses))
    compute(ranks, features, side, addresses, [missing[rank :: ranks.size] for rank in range(ranks.size)])
