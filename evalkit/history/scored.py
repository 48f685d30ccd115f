"""A score of a past run with what it rests on, and one such score less another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from evalkit.history.registry import PastRun
from evalkit.results.compare import Clusters, Influences
from evalkit.results.stats import Difference, Estimate, align, difference
from evalkit.results.table import Row


@dataclass(frozen=True)
class Scored:
    """A score that is there, and what it rests on.

    Attributes:
        run, row: the score.
        influence, clusters: of its samples; none where the run's samples.csv does not tell.
        pairing: digest of the cell's prompts and seed; scores that share it are compared sample by sample.
        key: of the cell: digest of all that can change a pixel.
    """

    run: PastRun
    row: Row
    influence: Sequence[float] | None = None
    clusters: Sequence[int] | None = None

    @classmethod
    def of(cls, run: PastRun, row: Row, samples: tuple[Influences, Clusters]) -> Scored:
        """`samples` as `PastRun.samples` gives it."""
        return cls(run, row, samples[0].get((row.cell, row.metric)), samples[1].get(row.cell))

    @property
    def pairing(self) -> str | None:
        return self.run.pairing.get(self.row.cell)

    @property
    def key(self) -> str | None:
        return self.run.keys.get(self.row.cell)

    @property
    def estimate(self) -> Estimate:
        assert self.row.value is not None
        row = self.row
        return Estimate(
            self.row.value, row.stderr, row.n, self.influence, self.clusters, row.clusters, together=row.together
        )

    def shares_samples_with(self, other: Scored) -> bool:
        """Whether sample i of both is of one prompt and seed, or what was scored together was scored of the same."""
        if self.row.together and self.row.protocol_hash == other.row.protocol_hash:
            return True
        return self.pairing is not None and self.pairing == other.pairing

    def less(self, other: Scored) -> Difference:
        """This score less another of the same protocol: paired where samples or prompts are shared."""
        a, b = self.estimate, other.estimate
        pairs = align(a, b, same=self.shares_samples_with(other))
        counts = (a.groups, b.groups)
        most = min(counts) if self.row.together else None
        return difference((a.value, a.stderr), (b.value, b.stderr), pairs, counts, most=most)
