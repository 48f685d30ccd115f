"""What a gate says: one result per rule and cell, and the worst of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from evalkit.errors import EXIT_DONE, EXIT_GATE_FAILED, EXIT_GATE_INCONCLUSIVE

Status = Literal["pass", "fail", "inconclusive"]
WORST_FIRST: tuple[Status, ...] = ("fail", "inconclusive", "pass")


@dataclass(frozen=True)
class Result:
    """One rule on one cell.

    Attributes:
        gate, rule: the gate's name; the rule in words ("fid max 12").
        cell, metric, label: what was judged; the metric as a reader sees it ("FID [digits]").
        kind: "max", "min", "no_worse_than" or "within".
        limit: what the score is held against; of `no_worse_than` the baseline's value and the margin together, of
            `within` the edge that decides.
        value: the score, or the statistic that the rule is about; none where it has none that is finite.
        stderr: of the score; of `no_worse_than` and `within` of the difference; none where there is none.
        bound: the one-sided 95 % bound that was held against `limit`, in the score's units; none where there is none.
        status: of this rule alone; a waived one keeps it.
        reason: one line: the figures, and why they mean this.
        needed_n: of an inconclusive result: samples per cell that would decide it four times in five, were the true
            value the present one; none where no number would, or it is not known.
        baseline, baseline_value, difference, paired: of `no_worse_than` and `within`: what it was compared with and
            how.
        counted: whether it is a fact of the set at hand (its smallest value, its black images), not an estimate.
        waived: {"reason", "until"} where a waiver covers it.
    """

    gate: str
    rule: str
    cell: str
    metric: str
    label: str
    kind: str
    limit: float | None
    value: float | None
    stderr: float | None
    bound: float | None
    status: Status
    reason: str
    needed_n: int | None = None
    baseline: str | None = None
    baseline_value: float | None = None
    difference: float | None = None
    paired: bool | None = None
    waived: Mapping[str, str] | None = None
    counted: bool = False

    @property
    def shown(self) -> str:
        """The status as people see it: "waived" where a waiver covers it."""
        return "waived" if self.waived else self.status


@dataclass(frozen=True)
class Verdict:
    """The worst of all results that no waiver covers.

    Attributes:
        status: fail, else inconclusive, else pass.
        results: in the order of gates, rules and cells.
        notes: what else a reader must know: expired waivers, waivers that nothing needed.
        at: when it was judged, UTC, "2025-01-31T12:00:00".
    """

    status: Status
    results: Sequence[Result] = ()
    notes: Sequence[str] = ()
    at: str = "1970-01-01T00:00:00"

    @property
    def exit_code(self) -> int:
        return {"pass": EXIT_DONE, "fail": EXIT_GATE_FAILED, "inconclusive": EXIT_GATE_INCONCLUSIVE}[self.status]

    @property
    def gates(self) -> list[str]:
        return list(dict.fromkeys(result.gate for result in self.results))

    @property
    def counts(self) -> dict[str, int]:
        """Results by what they show as: "fail", "inconclusive", "waived", "pass"; those that there are."""
        shown = [result.shown for result in self.results]
        return {status: shown.count(status) for status in ("fail", "inconclusive", "waived", "pass") if status in shown}

    def to_json(self) -> dict[str, Any]:
        return {
            "status": self.status,
            "exit_code": self.exit_code,
            "gates": self.gates,
            "counts": self.counts,
            "results": [asdict(result) for result in self.results],
            "notes": list(self.notes),
            "at": self.at,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Verdict:
        """The verdict of `to_json`; what follows from the results (counts, exit code) is not read."""
        results = tuple(Result(**result) for result in data["results"])
        return cls(data["status"], results, tuple(data["notes"]), data["at"])
