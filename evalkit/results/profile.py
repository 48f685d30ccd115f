"""`profile=true`: profile.json, profile.csv and Chrome traces in the run's folder; and what is printed of it.

The numbers are this machine's, now: a finished run that is given again with `profile=true` is measured again.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.errors import EvalkitError, printable
from evalkit.results.csv_files import write_csv
from evalkit.samples import costs
from evalkit.samples.profiling import BatchProfile, CellProfile, PartCost, Profile, Ratio, profile_cell
from evalkit.utils import devices
from evalkit.utils.files import write_text
from evalkit.utils.json_files import read_json
from evalkit.utils.progress import stage
from evalkit.utils.spans import chrome_trace

if TYPE_CHECKING:
    import rich.table

    from evalkit.cell import Cell
    from evalkit.models.base import Model
    from evalkit.samples.model_pool import ModelPool

log = logging.getLogger(__name__)

NAME, CSV, TRACES = "profile.json", "profile.csv", "profile"
_HEADS = (
    *("cell", "batch_size", "part", "call", "calls", "seconds_per_image", "share"),
    *("flops_per_image", "flop_per_s", "of_matrix_rate"),
)
_MOST_CELLS = 12  # lines of what is printed


def why_not(model: Model, images_exist: bool) -> str | None:
    """Why a cell has no profile; none where it has."""
    if images_exist:
        return "its images exist: there is nothing to profile"
    return "its images are made elsewhere: there is nothing here to profile" if model.remote else None


def write_profile(
    asked: Profile, cells: Sequence[tuple[Cell, str | None]], pool: ModelPool, device: str, folder: Path
) -> None:
    """Measures cells one after another, and writes what was found into `folder`.

    Args:
        asked: batch sizes and repeats.
        cells: each with why it has no profile, or none.
        pool: holds their models.
        device: auto, cpu, cuda or mps.
        folder: the run's.
    """
    device = devices.pick_device(device)
    profiles = []
    left_out: list[dict[str, str]] = []
    for cell, why in cells:
        if why is None:
            try:
                with stage(f"profiling {cell.name}"):
                    profiles.append(profile_cell(cell, pool, device, asked))
            except EvalkitError as error:  # the samples and their scores are there, and are not lost for it
                why = f"cannot be profiled: {error}"
        if why is not None:
            log.info("profile: %s: %s", cell.name, why)
            left_out.append({"cell": cell.name, "why": why})
            continue
        for batch in profiles[-1].batches:
            if batch.spans:
                name = f"{cell.name}-batch{batch.batch_size}.trace.json"
                title = f"{cell.name}, batch size {batch.batch_size}"
                _write_json(folder / TRACES / name, chrome_trace(batch.spans, title))
    _write_json(folder / NAME, _to_json(profiles, asked, device) | {"left_out": left_out})
    write_csv(folder / CSV, _lines(profiles))


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def _to_json(profiles: Sequence[CellProfile], asked: Profile, device: str) -> dict[str, Any]:
    """What profile.json holds."""
    import torch

    from evalkit.numerics.matrix_rate import measured

    return {
        "schema": 1,
        "device": devices.label(device),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "repeats": asked.repeats,
        "matrix_rates": {dtype: {"flop_per_s": rate, "side": side} for dtype, (rate, side) in measured(device).items()},
        "cells": [_cell_json(profile) for profile in profiles],
    }


def _cell_json(profile: CellProfile) -> dict[str, Any]:
    about: dict[str, Any] = {"memory": profile.memory, "energy": profile.energy, "flops_missing": profile.flops_missing}
    about |= {"load": profile.load.get("load"), "others": profile.load.get("others")}
    return {"cell": profile.cell, **about, "batches": [_batch_json(batch) for batch in profile.batches]}


def _batch_json(batch: BatchProfile) -> dict[str, Any]:
    if batch.failed is not None:
        return {"batch_size": batch.batch_size, "failed": batch.failed}
    return {
        "batch_size": batch.batch_size,
        "images_per_second": batch.images_per_second,
        "seconds_per_image": batch.seconds,
        "seconds_of_batches": list(batch.each),
        "seconds_per_image_timed": batch.whole,
        "pairs": len(batch.each),
        **_ratio_json("parts_by_whole", batch.adds_up),
        **_ratio_json("parts_by_whole_cpu", batch.adds_up_cpu),
        "peak_memory_mb": batch.peak_mb,
        "memory_before_mb": batch.rest_mb,
        "joules_per_image": batch.joules,
        "parts": [_part_json(part, batch.whole or 0.0) for part in batch.parts],
    }


def _ratio_json(name: str, ratio: Ratio | None) -> dict[str, Any]:
    if ratio is None:
        return {name: None, f"{name}_interval": None}
    return {name: ratio.value, f"{name}_interval": [ratio.low, ratio.high]}


def _part_json(part: PartCost, whole: float) -> dict[str, Any]:
    return {
        "part": part.part,
        "calls": part.calls,
        "seconds_per_image": part.seconds,
        "share": part.seconds / whole if whole else None,
        "flops_per_image": part.flops,
        "flop_per_s": part.rate,
        "of_matrix_rate": part.of_matrix_rate,
        "seconds_of_calls": list(part.each),
    }


def _lines(profiles: Sequence[CellProfile]) -> Iterator[Sequence[Any]]:
    """Of profile.csv: a line per part, and for a part of several calls (a denoiser's steps) one per call as well."""
    yield _HEADS
    for profile in profiles:
        for batch in profile.batches:
            for part in batch.parts:
                key = (profile.cell, batch.batch_size, part.part)
                share = part.seconds / batch.whole if batch.whole else None
                figures = (part.seconds, share, part.flops, part.rate, part.of_matrix_rate)
                yield [*key, "", part.calls, *("" if figure is None else f"{figure:.6g}" for figure in figures)]
                for number, seconds in enumerate(part.each if part.calls > 1 else (), 1):
                    yield [*key, number, 1, f"{seconds / batch.batch_size:.6g}", "", "", "", ""]


# ---- what is printed: from the file, as the report's


def print_profile(out: Path) -> None:
    """Prints what profile.json in a run's folder says: its first cell part by part, all cells by batch size."""
    from evalkit.results.terminal import make_console

    console, data = make_console(), read_json(out / NAME)
    cells = [cell for cell in data["cells"] if any("parts" in batch for batch in cell["batches"])]
    if cells:
        batch = next(batch for batch in cells[0]["batches"] if "parts" in batch)
        console.print(_part_table(cells[0]["cell"], batch))
        console.print(whole_line(batch), markup=False, highlight=False)
    if len(cells) > 1 or (cells and len(cells[0]["batches"]) > 1):
        console.print(_batch_table(cells))
    for line in about_lines(data):
        console.print(line, style="dim", markup=False, highlight=False)
    traces = f", {TRACES}/*.trace.json (chrome://tracing or ui.perfetto.dev)" if cells else ""
    console.print(f"profile: {out / NAME}, {CSV}{traces}", markup=False, highlight=False)


def about_lines(data: Mapping[str, Any]) -> Iterator[str]:
    """How it was measured, and what has no profile."""
    for left in data.get("left_out", ()):
        yield printable(f"{left['cell']}: {left['why']}")
    if not data["cells"]:
        return
    rates = ", ".join(
        f"{scaled(rate['flop_per_s'])}FLOP/s in {dtype} (a product of {rate['side']} x {rate['side']})"
        for dtype, rate in data["matrix_rates"].items()
    )
    where = f"{data['device']}, {data['threads']} of {data['cores']} cores, torch {data['torch']}"
    pairs = sorted({batch["pairs"] for cell in data["cells"] for batch in cell["batches"] if "pairs" in batch})
    count = "" if not pairs else f"; {' to '.join(map(str, dict.fromkeys((pairs[0], pairs[-1]))))} pairs of batches"
    yield f"measured on {where}{count}" + (f"; matrix rate {rates}" if rates else "")
    first = data["cells"][0]
    yield f"memory: {first['memory']}; energy: {first['energy']}"
    for cell in data["cells"]:
        if (cell.get("load") or 0) > 1 and (cell.get("others") or 0) > costs.OTHERS:
            others = f"{cell['load']:.1f} tasks per core, other processes took {cell['others']:.0%} of the machine"
            yield printable(f"{cell['cell']}: timed under load: {others}")
        if cell.get("flops_missing"):
            yield printable(f"{cell['cell']}: {cell['flops_missing']}")
        for batch in cell["batches"]:
            if "failed" in batch:
                yield printable(f"{cell['cell']} at batch size {batch['batch_size']}: {batch['failed']}")


def part_lines(batch: Mapping[str, Any]) -> list[list[str]]:
    """A batch's parts as text, under `PART_HEADS`."""
    lines = []
    for part in batch["parts"]:
        each = part["seconds_of_calls"]
        span = f"{_ms(min(each))} to {_ms(max(each))}" if len(each) > 1 else ""
        flops, rate, of = part["flops_per_image"], part["flop_per_s"], part["of_matrix_rate"]
        lines.append(
            [
                *(part["part"], str(part["calls"]), _ms(part["seconds_per_image"]), f"{part['share']:.1%}"),
                *(span, "" if flops is None else scaled(flops), "" if rate is None else scaled(rate)),
                "" if of is None else f"{of:.0%}",
            ]
        )
    return lines


PART_HEADS = ("part", "calls", "ms", "share", "ms of a call", "FLOP", "FLOP/s", "of matrix rate")
BATCH_HEADS = ("cell", "batch size", "images/s", "ms per image", "peak MB", "J per image", "parts / whole", "by CPU s")


def _ms(seconds: float) -> str:
    """Milliseconds to three digits; of a second and more whole ones."""
    value = seconds * 1e3
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def scaled(value: float) -> str:
    """Three digits and a prefix: "4.81 G"."""
    power, prefix = next(((10**p, name) for p, name in ((12, "T"), (9, "G"), (6, "M")) if value >= 10**p), (1000, "k"))
    return f"{value / power:.3g} {prefix}"


def sum_line(batch: Mapping[str, Any]) -> list[str]:
    """The parts' sum, under `PART_HEADS`."""
    total = sum(part["seconds_per_image"] for part in batch["parts"])
    flops = [part["flops_per_image"] for part in batch["parts"] if part["flops_per_image"] is not None]
    return ["sum of the parts", "", _ms(total), "100.0%", "", scaled(sum(flops)) if flops else "", "", ""]


def whole_line(batch: Mapping[str, Any]) -> str:
    """What the parts' sum is to be held against."""
    said = (
        f"a batch that nobody timed: {_ms(batch['seconds_per_image'])} ms per image; in pairs with it the parts add up "
    )
    said += f"to {_percent(batch, 'parts_by_whole')} of it"
    if batch.get("parts_by_whole_cpu") is None:
        return said
    return f"{said}, and to {_percent(batch, 'parts_by_whole_cpu')} by CPU seconds, of which other programs take none"


def _percent(batch: Mapping[str, Any], name: str) -> str:
    interval = batch.get(f"{name}_interval")  # none in the file of an earlier version
    return f"{batch[name]:.1%}" + (f" ({interval[0]:.1%} to {interval[1]:.1%})" if interval else "")


def batch_lines(cells: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """A line per cell and batch size, under `BATCH_HEADS`; a cell's name in its first."""
    return [
        _batch_line(cell["cell"] if number == 0 else "", batch)
        for cell in cells
        for number, batch in enumerate(cell["batches"])
    ]


def _batch_line(cell: str, batch: Mapping[str, Any]) -> list[str]:
    if "failed" in batch:
        return [cell, str(batch["batch_size"]), batch["failed"].partition(":")[0], "", "", "", "", ""]
    joules = batch["joules_per_image"]
    return [
        *(cell, str(batch["batch_size"]), f"{batch['images_per_second']:.4g}"),
        *(_ms(batch["seconds_per_image"]), f"{batch['peak_memory_mb']:,.0f}"),
        *("" if joules is None else f"{joules:.3g}", f"{batch['parts_by_whole']:.3f}"),
        f"{by_cpu:.3f}" if (by_cpu := batch.get("parts_by_whole_cpu")) is not None else "",
    ]


def _part_table(cell: str, batch: Mapping[str, Any]) -> rich.table.Table:
    title = f"where one image's time goes: {cell}, batch size {batch['batch_size']}"
    return _table(title, PART_HEADS, [*part_lines(batch), sum_line(batch)], rule=True)


def _batch_table(cells: Sequence[Mapping[str, Any]]) -> rich.table.Table:
    lines = batch_lines(cells)
    shown = lines if len(lines) <= _MOST_CELLS else lines[: _MOST_CELLS - 1]
    title = "by batch size" + (f" ({len(lines) - len(shown)} more in {CSV})" if len(shown) < len(lines) else "")
    if len(cells) == 1:
        return _table(title, BATCH_HEADS[1:], [line[1:] for line in shown])
    return _table(title, BATCH_HEADS, shown)


def _table(title: str, heads: Sequence[str], lines: Sequence[Sequence[str]], *, rule: bool = False) -> rich.table.Table:
    from rich.table import Table
    from rich.text import Text

    view = Table(title=Text(printable(title)), title_justify="left", header_style="bold")
    for number, head in enumerate(heads):
        view.add_column(head, justify="left" if number == 0 else "right", overflow="fold")
    for number, line in enumerate(lines):
        if rule and number == len(lines) - 1:
            view.add_section()
        view.add_row(*(Text(printable(text)) for text in line))
    return view
