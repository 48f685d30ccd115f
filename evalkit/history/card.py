"""A cell's scores as the `model-index` of a model card on the Hugging Face hub, with standard errors and protocols."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.errors import ConfigError, DataError, nearest
from evalkit.history.registry import PastRun
from evalkit.results.headline import headline, winners
from evalkit.results.table import COSTS, Row, finite
from evalkit.utils.text import one_line

if TYPE_CHECKING:
    from huggingface_hub import EvalResult


def choose_cell(run: PastRun, asked: str | None) -> str:
    """The cell that a card is about: the one asked for, or the only one.

    Raises:
        ConfigError: there is no such cell, or there are several and none is named.
    """
    cells = run.table.cells
    if asked is not None:
        if asked not in cells:
            raise ConfigError(f"--cell {asked}: {run.name} has no such cell. {nearest(asked, cells)}")
        return asked
    if len(cells) == 1:
        return cells[0]
    best = headline(run.table, winners(run.table)).cells
    hint = f" (best by most metrics: {', '.join(best[:2])})" if best else ""
    raise ConfigError(f"{run.name} has {len(cells)} cells{hint}: name one with --cell")


def eval_results(run: PastRun, cell: str, metrics: Sequence[str] = ()) -> list[EvalResult]:
    """A cell's scores as the hub's `EvalResult`s: value, standard error, interval, N and protocol of each.

    Args:
        run, cell: whose.
        metrics: which; none: all but what samples cost.

    Raises:
        ConfigError: the cell has no such score, or none at all.
    """
    rows = {row.metric: row for row in run.table.rows_by_cell[cell] if finite(row)}
    for metric in metrics:
        if metric not in rows:
            raise ConfigError(f"{run.name} has no {metric} of {cell}. {nearest(metric, rows)}")
    chosen = [row for row in rows.values() if (row.metric in metrics if metrics else row.metric not in COSTS)]
    if not chosen:
        raise ConfigError(f"{run.name} has no score of {cell}: there is nothing to put into a card")
    return [_result(run, row) for row in chosen]


def _result(run: PastRun, row: Row) -> EvalResult:
    from huggingface_hub import EvalResult

    against = "reference" in row.protocol
    reference = run.table.run.get("reference")
    data = str(reference) if against and reference else str(row.prompts or "none")
    figures = {"stderr": row.stderr, "low": row.low, "high": row.high, "n": row.n, "note": row.note}
    setting = {"sampler": row.sampler, "settings": dict(row.settings) or None, "seed": row.seed, "prompts": row.prompts}
    about = {**figures, **setting, "protocol": dict(row.protocol), "evaluated": run.to_json()["date"]}
    version = (run.table.run.get("versions") or {}).get("evalkit")
    return EvalResult(
        task_type="text-to-image" if row.prompts else "unconditional-image-generation",
        dataset_type=re.sub(r"[^A-Za-z0-9._/-]+", "-", data).strip("-") or "none",
        dataset_name=one_line(data, 120),
        metric_type=row.metric,
        metric_value=row.value,
        metric_name=row.label,
        metric_config=f"evalkit {version}, protocol {row.protocol_hash}"
        if version
        else f"protocol {row.protocol_hash}",
        metric_args={key: value for key, value in about.items() if value is not None},
        verified=False,
    )


def card_yaml(run: PastRun, cell: str, name: str | None = None, metrics: Sequence[str] = ()) -> str:
    """The header of a model card: `model_name` and `model-index`, as huggingface_hub writes them."""
    from huggingface_hub import ModelCardData

    return ModelCardData(
        model_name=name or _model_of(run, cell), eval_results=eval_results(run, cell, metrics)
    ).to_yaml()


def put_into(path: Path, run: PastRun, cell: str, name: str | None = None, metrics: Sequence[str] = ()) -> int:
    """Writes the scores into a model card's header; scores of other metrics, data or protocols in it stay.

    Returns:
        The number of scores that the card then has.

    Raises:
        DataError: the file cannot be read as a model card.
    """
    from huggingface_hub import ModelCard

    new = eval_results(run, cell, metrics)
    try:
        card = ModelCard.load(path)
        there = list(card.data.eval_results or [])
        card.data.model_name = card.data.model_name or name or _model_of(run, cell)
        card.data.eval_results = [old for old in there if _place(old) not in {_place(each) for each in new}] + new
        card.save(path)
    except Exception as error:  # yaml's, huggingface_hub's and the disk's own
        raise DataError(f"{path}: not a model card that can be written: {one_line(error)}") from error
    return len(card.data.eval_results)


def _place(result: EvalResult) -> tuple[Any, ...]:
    """What a score is of: a newer one takes the place of an older one."""
    return result.task_type, result.dataset_type, result.metric_type, str(result.metric_config).rpartition(" ")[2]


def _model_of(run: PastRun, cell: str) -> str:
    return run.table.rows_by_cell[cell][0].model
