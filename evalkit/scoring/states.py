"""The metrics' states of a whole source: its features are read once, in index order, for all metrics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from evalkit.features.feature_pass import FeaturePass, ImageSource
from evalkit.metric import KeepsFeatures, Rows, StateMetric, Sums
from evalkit.scoring.checks import metric_errors

if TYPE_CHECKING:
    from torch import Tensor


Columns = dict[str, "Tensor"]  # by name, [all samples, ...]


def observe(
    features: FeaturePass, source: ImageSource, metrics: Mapping[str, StateMetric[Any]]
) -> dict[str, Sums | Rows]:
    """The states by metric. Metrics that keep the features of one address share one tensor of them.

    Raises:
        DataError: an image cannot be read, or does not suit a metric (which one).
    """
    import torch

    addresses = [address for metric in metrics.values() for address in metric.needs]
    features.compute(source, addresses)
    keeping = {name: metric for name, metric in metrics.items() if isinstance(metric, KeepsFeatures)}
    addresses_kept = {address for metric in keeping.values() for address in metric.needs}
    shared, columns, sums = Columns(), dict[str, Columns](), dict[str, Sums]()
    pixels = any(not metric.needs for metric in metrics.values())
    for batch in features.batches(source, addresses, images=pixels):
        _write(shared, len(source), batch.index, {address: batch.features[address] for address in addresses_kept})
        for name, metric in metrics.items():
            if name in keeping:
                continue
            with metric_errors(name):
                state = metric.observe(batch)
                if isinstance(state, Rows):
                    if not torch.equal(state.index, batch.index):
                        fix = "give one row per sample, in the batch's order"
                        raise ValueError(f"{len(state)} rows for a batch of {len(batch.index)}: {fix}")
                    _write(columns.setdefault(name, {}), len(source), state.index, state.values)
                else:
                    sums[name] = sums[name] + state if name in sums else state
    columns |= {name: {address: shared[address] for address in metric.needs} for name, metric in keeping.items()}
    return sums | {name: Rows(torch.arange(len(source)), values) for name, values in columns.items()}


def _write(columns: Columns, total: int, index: Tensor, values: Mapping[str, Tensor]) -> None:
    """Writes a batch's rows, i64 [B], where they stay: to join batches with `+` would hold all rows twice."""
    for name, value in values.items():
        if name not in columns:
            columns[name] = value.new_empty(total, *value.shape[1:])
        columns[name][index] = value
