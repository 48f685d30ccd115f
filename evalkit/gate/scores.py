"""The scores of one run as its gate's rules find them, those that are counted of the images among them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from evalkit.gate.bounds import CONFIDENCE
from evalkit.gate.rules import IMAGE_SHARES, JUDGED, LINTED
from evalkit.gate.verdict import Status
from evalkit.results.compare import Clusters, Influences, estimate
from evalkit.results.judges import RUN as JUDGES
from evalkit.results.stats import Estimate
from evalkit.results.table import ResultTable, Row


@dataclass(frozen=True)
class Scores:
    """The scores of one run, of this one or of an earlier one."""

    table: ResultTable
    influences: Influences
    pairing: Mapping[str, str]
    clusters: Clusters
    confidence: float = CONFIDENCE

    def row(self, cell: str, metric: str) -> Row | None:
        if metric in IMAGE_SHARES:
            return self._share(cell, metric)
        if metric == JUDGED:
            return self._agreement(cell)
        return next((row for row in self.table.rows if row.cell == cell and row.metric == metric), None)

    def estimate(self, row: Row) -> Estimate:
        return estimate(row, self.influences, self.clusters)

    def key(self, cell: str) -> Any:
        return self.table.run.get("cells", {}).get(cell)

    def _share(self, cell: str, metric: str) -> Row | None:
        """A row for images that are counted; it stands in no table."""
        known = self.table.run.get("images", {}).get(cell)
        first = next((row for row in self.table.rows if row.cell == cell), None)
        if known is None or first is None:
            return None
        n, count = known["count"], known["warnings"].get(metric, 0)
        if metric in LINTED:
            findings = [f for f in self.table.lint if f["where"] == cell and f["kind"] == metric]
            n = findings[0]["of"] if findings else n  # of a large set the lint decodes a part
            count = sum(f["count"] for f in findings)
        share = {"metric": metric, "label": IMAGE_SHARES[metric], "value": count / n, "stderr": None, "n": n}
        return replace(first, **share, better="lower", note=None)

    def _agreement(self, judge: str) -> Row | None:
        """A row for a judge's agreement with known answers; it stands in no table."""
        known, first = self.table.run.get(JUDGES, {}).get(judge), next(iter(self.table.rows), None)
        if known is None or first is None:
            return None
        share, label = known["agreement"], f"agreement of {known['judge']}"
        about = {"cell": judge, "metric": JUDGED, "label": label, "value": share["value"], "n": known["items"]}
        return replace(first, **about, stderr=None, better="higher", note=None, details={"worth": share["worth"]})


def unusable(row: Row | None, what: str) -> tuple[Status, str] | None:
    """What to say of a score that is not there (it cannot be judged), or is not a number (something broke)."""
    if row is None:
        return "inconclusive", f"{what} is missing: there is none in the results"
    if row.value is None:
        return "fail" if row.broken else "inconclusive", f"{what} is missing: {row.note or 'no reason is recorded'}"
    if not math.isfinite(row.value):
        return "fail", f"{what} is {row.value}: not a finite number"
    return None
