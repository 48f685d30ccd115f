"""A finished run whose images are there: three cells of the same prompts and seed, and one of another seed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from finished_run import row
from PIL import Image, PngImagePlugin

from evalkit.results.csv_files import SAMPLE_HEADS, write_csv
from evalkit.results.table import ResultTable
from evalkit.utils.files import write_json

CELLS = ("secret_ldm-steps_4", "secret_ldm-steps_8", "secret_gan")
OTHER = "secret_gan-seed_1"
N, EQUAL = 24, 5  # samples per cell; the one whose image is the same in the first two cells
SIZE = 16


def prompt(index: int) -> str:
    """Twelve prompts, two samples of each; one needs escaping wherever it is shown."""
    return 'a <b>7</b> & "9",' if index % 12 == 7 else f"prompt {index % 12}"


def write_votes_run(store: Path) -> Path:
    """Writes the run `voted` into a store; its images name their model in a text chunk. Returns its folder."""
    lines: list[list[object]] = [list(SAMPLE_HEADS)]
    for number, cell in enumerate((*CELLS, OTHER)):
        folder = store / "samples" / cell
        folder.mkdir(parents=True)
        for index in range(N):
            shade = 200 if index == EQUAL and number < 2 else 10 + 60 * number
            pixels = np.full((SIZE, SIZE, 3), (shade, 10 * index, 90), np.uint8)
            about = PngImagePlugin.PngInfo()
            about.add_text("parameters", f"Model: {cell}")
            Image.fromarray(pixels).save(folder / f"{index:06d}.png", pnginfo=about)
            lines.append([cell, index, str(folder / f"{index:06d}.png"), prompt(index), ""])
    out = store / "voted"
    rows = tuple(row(cell, "fid", 1.0, 0.1, n=N, seed=int(cell == OTHER)) for cell in (*CELLS, OTHER))
    pairing = {**dict.fromkeys(CELLS, "0123456789"), OTHER: "9876543210"}
    table = ResultTable({"name": "voted", "cells": {}, "pairing": pairing, "store": str(store), "config": {}}, rows)
    write_json(out / "results.json", table.to_json())
    write_csv(out / "samples.csv", lines)
    return out
