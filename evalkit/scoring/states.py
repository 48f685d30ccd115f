"""The metrics' states of a whole source: its features are read once, in index order, for all metrics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from evalkit.features.feature_pass import FeaturePass, ImageSource
from evalkit.metric import KeepsFeatures, Rows, StateMetric, Sums
from evalkit.scoring.checks import metric_errors

if TYPE_CHECKING:
    from torch import Tensor


def observe(
    features: FeaturePass, source: ImageSource, metrics: Mapping[str, StateMetric[Any]]
) -> dict[str, Sums | Rows]:
    """The states by metric. Metrics that keep the features of one address share one tensor of them.

    Raises:
        DataError: an image cannot be read, or does not suit a metric (which one).
    """
    addresses = [address for metric in metrics.values() for address in metric.needs]
    features.compute(source, addresses)
    keeping = {name: metric for name, metric in metrics.items() if isinstance(metric, KeepsFeatures)}
    shared = dict.fromkeys(address for metric in keeping.values() for address in metric.needs)
    kept, tables, sums = RowTable(len(source)), dict[str, RowTable](), dict[str, Sums]()
    pixels = any(not metric.needs for metric in metrics.values())
    for batch in features.batches(source, addresses, images=pixels):
        kept.add(batch.index, {address: batch.features[address] for address in shared})
        for name, metric in metrics.items():
            if name in keeping:
                continue
            with metric_errors(name):
                state = metric.observe(batch)
                if isinstance(state, Rows):
                    _check_rows(state, batch.index)
                    tables.setdefault(name, RowTable(len(source))).add(state.index, state.values)
                else:
                    sums[name] = sums[name] + state if name in sums else state
    rows = {name: table.rows(table.columns) for name, table in tables.items()}
    return sums | rows | {name: kept.rows(metric.needs) for name, metric in keeping.items()}


class RowTable:
    """Rows of a whole set, each written where it stays: to join batches with `+` would hold all rows twice."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.columns: dict[str, Tensor] = {}  # by name, [total, ...]

    def add(self, index: Tensor, values: Mapping[str, Tensor]) -> None:
        """Writes rows of a batch, each [B, ...], to their places, i64 [B]."""
        for name, value in values.items():
            if name not in self.columns:
                self.columns[name] = value.new_empty(self.total, *value.shape[1:])
            self.columns[name][index] = value

    def rows(self, names: Mapping[str, Tensor] | tuple[str, ...]) -> Rows:
        """The whole of some columns; no copy is made."""
        import torch

        return Rows(torch.arange(self.total), {name: self.columns[name] for name in names})


def _check_rows(state: Rows, index: Tensor) -> None:
    """Raises ValueError for rows that are not the batch's samples, i64 [B]."""
    import torch

    if not torch.equal(state.index, index):
        raise ValueError(
            f"{len(state)} rows for a batch of {len(index)}: give one row per sample, in the batch's order"
        )
