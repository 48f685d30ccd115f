"""Which samples of a run's cells can be held against each other: those of one prompt and seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

from evalkit.errors import ConfigError, nearest
from evalkit.history.registry import PastRun
from evalkit.utils.files import sha256_bytes
from evalkit.view.samples import Sample
from evalkit.votes.schedule import Pair

Samples = Mapping[str, Mapping[int, Sample]]  # by cell and index


def chosen_cells(asked: Sequence[str], cells: Sequence[str]) -> list[str]:
    """The cells that were asked for, in the run's order; all where none were. Raises ConfigError of an unknown one."""
    for name in asked:
        if name not in cells:
            raise ConfigError(f"--cells {name}: no such cell. {nearest(name, cells)}")
    return [cell for cell in cells if not asked or cell in asked]


def comparable(run: PastRun, samples: Samples, cells: Sequence[str], most: int) -> dict[Pair, list[int]]:
    """By pair of cells the indices at which prompt and seed are the same, of so many prompts drawn at random.

    A prompt comes with all of its samples; a sample without one counts as one. Cells that share the run's pairing have
    both in common; of others (services without seeds) the seed asked for and the prompt must be the same. Pairs that
    have the same indices share one list, since a run of 30 cells has 435 pairs.

    Raises:
        ConfigError: no two cells have such samples.
    """
    pairing = {cell: run.pairing.get(cell) for cell in cells}
    seeds = {row.cell: row.seed for row in run.table.rows}
    groups: dict[str, list[int]] = {}
    for digest in {digest for digest in pairing.values() if digest is not None}:
        same = [samples[cell] for cell in cells if pairing[cell] == digest]
        groups[digest] = [index for index in same[0] if all(index in other for other in same[1:])]
    pairs: dict[Pair, list[int]] = {}
    for a, b in combinations(cells, 2):
        shared = pairing[a]
        if shared is not None and shared == pairing[b]:
            common = groups[shared]
        elif seeds.get(a) == seeds.get(b):
            prompts = {index: sample.prompt for index, sample in samples[b].items()}
            common = [i for i, sample in samples[a].items() if sample.prompt and sample.prompt == prompts.get(i)]
        else:
            continue
        if common:
            pairs[a, b] = common
    if not pairs:
        raise ConfigError(
            f"{run.name}: no two of the cells {', '.join(cells)} have samples of the same prompt and seed: "
            "nothing can be compared; give others with --cells"
        )
    return _drawn(pairs, samples, most)


def _drawn(pairs: Mapping[Pair, list[int]], samples: Samples, most: int) -> dict[Pair, list[int]]:
    lists = {id(indices): (pair[0], indices) for pair, indices in pairs.items()}
    groups = {samples[cell][index].prompt or index for cell, indices in lists.values() for index in indices}
    drawn = set(sorted(groups, key=lambda group: sha256_bytes(f"votes {group}".encode("utf-8", "replace")))[:most])
    some = {
        key: [index for index in indices if (samples[cell][index].prompt or index) in drawn]
        for key, (cell, indices) in lists.items()
    }
    return {pair: some[id(indices)] for pair, indices in pairs.items() if some[id(indices)]}
