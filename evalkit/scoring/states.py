"""The states of metrics over one source of images: one pass over its features for all of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from evalkit.errors import UnsuitedError
from evalkit.features.feature_pass import FeaturePass, ImageSource
from evalkit.metric import KeepsFeatures, Metric, Rows, StateMetric, Sums
from evalkit.scoring.checks import Failures, guarded
from evalkit.utils import devices

if TYPE_CHECKING:
    from torch import Tensor

Columns = dict[str, "Tensor"]  # by name, [all samples, ...]


def observe(
    features: FeaturePass, source: ImageSource, metrics: Mapping[str, StateMetric[Any]], failed: Failures
) -> dict[str, Sums | Rows]:
    """The states by metric, of all metrics but those that cannot take these images, which go into `failed`.

    Raises:
        DataError: an image cannot be read.
    """
    left = dict(metrics)
    while left:
        try:
            return _one_pass(features, source, left, failed)
        except UnsuitedError as error:
            hit = {name for name, metric in left.items() if _needs(metric, error.extractor)}
            if not hit:
                raise
            failed |= dict.fromkeys(hit, str(error))
            left = {name: metric for name, metric in left.items() if name not in failed}
    return {}


def _needs(metric: Metric, extractor: str | None) -> bool:
    """Whether a metric needs an extractor's features; none: whether it needs bare pixels."""
    return not metric.needs if extractor is None else extractor in {a.partition("/")[0] for a in metric.needs}


def _one_pass(
    features: FeaturePass, source: ImageSource, metrics: Mapping[str, StateMetric[Any]], failed: Failures
) -> dict[str, Sums | Rows]:
    """The states by metric. Metrics that keep the features of one address share one tensor of them per device."""
    import torch

    addresses = [address for metric in metrics.values() for address in metric.needs]
    features.compute(source, addresses)
    keeping = {name: metric for name, metric in metrics.items() if isinstance(metric, KeepsFeatures)}
    addresses_kept = {address for metric in keeping.values() for address in metric.needs}
    shared, columns, sums = Columns(), dict[str, Columns](), dict[str, Sums]()
    pixels = any(not metric.needs for metric in metrics.values())
    device = devices.for_scores(features.device)
    for batch in features.batches(source, addresses, images=pixels):
        _write(shared, len(source), batch.index, {address: batch.features[address] for address in addresses_kept})
        moved = batch.to(device) if any(m.on_device for n, m in metrics.items() if n not in keeping) else batch
        for name, metric in metrics.items():
            if name in keeping or name in failed:
                continue
            with guarded(name, failed):
                state = metric.observe(moved if metric.on_device else batch)
                if isinstance(state, Rows):
                    if not torch.equal(state.index, batch.index):
                        fix = "give one row per sample, in the batch's order"
                        raise ValueError(f"{len(state)} rows for a batch of {len(batch.index)}: {fix}")
                    _write(columns.setdefault(name, {}), len(source), state.index, state.values)
                else:
                    sums[name] = sums[name] + state if name in sums else state
    there = {a: shared[a].to(device) for m in keeping.values() if m.on_device for a in m.needs}
    columns |= {
        name: {address: (there if metric.on_device else shared)[address] for address in metric.needs}
        for name, metric in keeping.items()
    }
    states = sums | {name: Rows(torch.arange(len(source)), values) for name, values in columns.items()}
    return {name: state for name, state in states.items() if name not in failed}


def _write(columns: Columns, total: int, index: Tensor, values: Mapping[str, Tensor]) -> None:
    """Writes a batch's rows, i64 [B], where they stay: to join batches with `+` would hold all rows twice."""
    for name, value in values.items():
        if name not in columns:
            columns[name] = value.new_empty(total, *value.shape[1:])
        columns[name][index] = value
