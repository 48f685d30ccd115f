"""A result in a notebook: the table, plots, pivots, differences and images, of a run's folder and of memory."""

from __future__ import annotations

import html
import importlib
import json
import re
import socket
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.figure import Figure
from notebook import execute
from report_runs import HOSTILE_MARK, RunOptions, hostile, set_apart, write_run

import evalkit
from evalkit.errors import ConfigError, DataError
from evalkit.results import sheets
from evalkit.results.differences import Differences
from evalkit.results.table import COSTS

STEPS = "num_inference_steps"
KNOWN = {"div", "table", "thead", "tbody", "tr", "th", "td", "b", "img", "details", "summary"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def table(run: Path) -> evalkit.ResultTable:
    return evalkit.load(run)


class Cells(HTMLParser):
    """The texts of a table's cells, line by line, those in bold with a star."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.lines: list[list[str]] = []
        self.tags: list[tuple[str, list[tuple[str, str | None]]]] = []
        self._inside = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, attrs))
        if tag == "tr":
            self.lines.append([])
        if tag in ("td", "th"):
            self.lines[-1].append("")
            self._inside = True
        if tag == "b":
            self.lines[-1][-1] += "*"

    def handle_endtag(self, tag: str) -> None:
        self._inside = self._inside and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.lines[-1][-1] += data


def test_the_table_as_a_notebook_shows_it(table: evalkit.ResultTable, run: Path, tmp_path: Path) -> None:
    text = table._repr_html_()
    heads, *lines = Cells(text).lines
    assert heads[:4] == ["model", "sampler", "guidance_scale", STEPS]
    assert lines[0][heads.index("FID ↓")] == "*10.00 ± 1.00"
    assert "subsets from 5 samples on" in text
    assert "Bold: the best" in text
    other = write_run(tmp_path / "apart")
    set_apart(other, "fid_x", 2, 3.0)
    apart = Cells(evalkit.load(other)._repr_html_()).lines
    assert apart[3][heads.index("FID ↓")] == "3.00 ± 1.00 †"  # not bold, though it is the smallest
    assert "‡" in replace(table, rows=[replace(row, unsure=True) for row in table.rows])._repr_html_()
    assert repr(table) == "results of a run: 3 cells x 7 metrics"
    assert str(table).startswith("| model | sampler |")


def test_nothing_in_a_notebook_is_run_or_loads_anything(tmp_path: Path) -> None:
    found = evalkit.load(write_run(tmp_path / "run", RunOptions(text=hostile(), notes=("<script>x</script>",))))
    parts = [found._repr_html_(), found.compare(found.cells[0])._repr_html_(), found.images(found.cells[1])]
    parts.append(found.pivot(("sampler", "guidance_scale"), STEPS, "fid_x")._repr_html_())
    for part in parts:
        text = part if isinstance(part, str) else part._repr_html_()
        tags = Cells(text).tags
        assert {tag for tag, _ in tags} <= KNOWN
        assert not [name for _, attributes in tags for name, _ in attributes if name.startswith("on")]
        assert all(dict(attributes)["src"].startswith("data:image/") for tag, attributes in tags if tag == "img")
    assert HOSTILE_MARK in html.unescape(str(parts[0]))
    ElementTree.fromstring(found.plot(STEPS, "fid_x")._repr_svg_())


def test_a_large_table_is_cut_and_says_so(tmp_path: Path) -> None:
    text = evalkit.load(write_run(tmp_path, RunOptions(cells=70)))._repr_html_()
    assert len(Cells(text).lines) == 61
    assert "10 more of 70 cells" in text


def test_plots(table: evalkit.ResultTable) -> None:
    figure = table.plot(STEPS, "fid_x")
    assert isinstance(figure, Figure)
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["guidance_scale 4", "guidance_scale 1"]
    (bars, *_), lines = axes.containers[0], [line for line in axes.lines if len(line.get_xdata()) == 2]
    assert bars.get_xdata().tolist() == [4, 8]
    assert bars.get_ydata().tolist() == [10, 15]
    assert lines
    up = axes.containers[0][2][0].get_segments()[0]
    assert np.allclose(up[:, 1], [10 - 1.959964, 10 + 1.959964])  # 95 % of a standard error of 1
    assert figure._repr_svg_() == table.plot(STEPS, "fid_x")._repr_svg_()
    across = table.plot("nfe", "FID")  # a metric against another, by its label
    assert across.axes[0].get_xlabel().startswith("NFE ↓")
    assert len(across.axes[0].containers[0][0].get_xdata()) == 3
    words = table.plot("sampler", "clip_score_x").axes[0]
    assert [text.get_text() for text in words.get_xticklabels()] == ["ddim"]
    with pytest.raises(ConfigError, match=r"x is an axis .*num_inference_steps.* or a metric.*'stepz'"):
        table.plot("stepz", "fid_x")
    with pytest.raises(ConfigError, match=r"no metric 'fidx'. Did you mean 'fid_x'"):
        table.plot(STEPS, "fidx")
    with pytest.raises(ConfigError, match=r"several begin so: fid_x, fid_infinity_x"):
        table.plot(STEPS, "fid")


def test_a_score_under_another_protocol_is_left_out_of_plots_and_named(tmp_path: Path) -> None:
    set_apart(write_run(tmp_path), "fid_x", 2, 3.0)
    (axes,) = evalkit.load(tmp_path).plot(STEPS, "fid_x").axes
    assert len(axes.containers) == 1
    assert "left out: net-ddim-guidance_scale_1" in axes.get_title(loc="left")


def test_pivots(table: evalkit.ResultTable) -> None:
    pivot = table.pivot("guidance_scale", STEPS, "fid_x")
    assert pivot == {1: {4: None, 8: 20.0}, 4: {4: 10.0, 8: 15.0}}
    assert Cells(pivot._repr_html_()).lines == [
        ["guidance_scale", "4", "8"],
        ["1", "–", "20.00 ± 1.00"],
        ["4", "*10.00 ± 1.00", "15.00 ± 1.00"],
    ]
    assert pivot.to_frame().loc[4, 8] == 15.0
    both = table.pivot(["model", "guidance_scale"], STEPS, "recall_x")
    assert list(both) == [("net", 1), ("net", 4)]
    with pytest.raises(ConfigError, match=r"several cells have .*guidance_scale tells them apart"):
        table.pivot("model", STEPS, "fid_x")
    with pytest.raises(ConfigError, match="no axis 'guidance'"):
        table.pivot("guidance", STEPS, "fid_x")
    with pytest.raises(ConfigError, match="both in the rows and in the columns"):
        table.pivot(STEPS, STEPS, "fid_x")


def test_differences_are_those_of_a_run_with_that_baseline(tmp_path: Path) -> None:
    """samples.csv has six digits: as close as they allow to what the run itself compared."""
    found = evalkit.load(write_run(tmp_path, RunOptions(baseline=True)))
    differences = found.compare(found.cells[1])
    by_run = {(c.metric, c.cell): c for c in found.comparisons}
    clip = [c for c in differences if c.metric == "clip_score_x"]
    assert len(clip) == 2
    for c in clip:
        expected = by_run[c.metric, c.cell]
        assert c.paired
        assert c.verdict == expected.verdict
        assert (c.stderr, c.low, c.high) == pytest.approx((expected.stderr, expected.low, expected.high), rel=1e-4)
    assert not any(c.paired for c in differences if c.metric == "precision_x")
    assert "Not paired: precision, recall" in notes(differences)
    assert "there is no value per sample" in notes(differences)
    heads, *lines = Cells(differences._repr_html_()).lines
    assert heads == ["metric", "guidance_scale", STEPS, "difference", "95 % interval", "p (Holm)", "verdict"]
    assert not [line for line in lines if line[0].startswith("NFE")]
    assert [c for c in differences if c.metric in COSTS]
    assert len(differences.to_frame()) == len(differences)
    with pytest.raises(ConfigError, match="no cell 'net-x'"):
        found.compare("net-x")


def notes(differences: Differences) -> str:
    return " ".join(differences.notes)


def test_where_nothing_can_be_paired_the_note_says_why(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a")
    (run / "samples.csv").unlink()
    unpaired = evalkit.load(run).compare(evalkit.load(run).cells[0])
    assert not any(c.paired for c in unpaired)
    assert re.search(r"No comparison is paired: .*samples\.csv is not there", notes(unpaired))
    run = write_run(tmp_path / "b")
    lines = (run / "samples.csv").read_text().splitlines()
    (run / "samples.csv").write_text("\n".join([*lines[:3], lines[5]]))
    damaged = evalkit.load(run)
    assert "cannot be read (line 4: the samples of" in notes(damaged.compare(damaged.cells[0]))
    alone = evalkit.ResultTable(damaged.run, damaged.rows)
    assert "this table has no run's folder" in notes(alone.compare(alone.cells[0]))
    with pytest.raises(ConfigError, match="has no run's folder"):
        alone.images(alone.cells[0])
    apart = write_run(tmp_path / "c")
    table = evalkit.load(apart)
    strangers = replace(table, run={**table.run, "pairing": {cell: cell for cell in table.cells}})
    said = strangers.compare(table.cells[0]).notes
    assert any(line.startswith("Not paired: ") and "CLIP score" in line and "nor seeds" in line for line in said)


def test_images_are_the_sheet_else_the_thumbnails(run: Path, tmp_path: Path) -> None:
    table = evalkit.load(write_run(tmp_path))
    cell = table.cells[1]
    shown = table.images(cell)
    assert repr(shown) == f"30 images of {cell}"
    assert shown.files[2] == "/store/samples/cell1/000002.png"
    assert shown.sheet is None
    assert shown._repr_html_().count("<img") == 30
    (tmp_path / "sheets").mkdir()
    path = tmp_path / "sheets" / f"{cell}.png"
    sheets.write_lines({"": [np.full((8, 8, 3), 9, np.uint8)]}, path, title="t", mark="m")
    assert table.images(cell)._repr_html_().count("<img") == 1
    path.write_bytes(b"no picture")
    assert "cannot be read" in table.images(cell)._repr_html_()
    path.unlink()
    (tmp_path / "thumbnails.json").unlink()
    with pytest.raises(DataError, match=r"neither sheets/.* nor thumbnails\.json shows"):
        table.images(cell)


def test_load_takes_a_folder_or_a_file_and_says_what_else_is_wrong(run: Path, tmp_path: Path) -> None:
    assert evalkit.load(run).folder == evalkit.load(str(run / "results.json")).folder == run
    assert evalkit.load(run) == evalkit.load(run / "results.json")
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "results.json").write_text("{}")
    (tmp_path / "other.txt").write_text("no JSON")
    for path, message in (
        (tmp_path / "none", "no such file"),
        (tmp_path, "no results.json in this folder; there are runs in it: x: give a run's folder"),
        (tmp_path / "x", "not a results.json of evalkit"),
        (tmp_path / "other.txt", "not JSON"),
    ):
        with pytest.raises(DataError, match=message) as caught:
            evalkit.load(path)
        assert "\n" not in str(caught.value)


def test_completion_shows_the_api_and_nothing_else() -> None:
    importlib.import_module("evalkit.results.sheets")
    assert dir(evalkit) == sorted(evalkit.__all__)
    assert not [name for name in dir(evalkit) if not hasattr(evalkit, name)]
    assert {"evaluate", "Evaluation", "load", "ResultTable", "peer_check"} <= set(dir(evalkit))
    assert all(getattr(getattr(evalkit, name), "__doc__", None) for name in evalkit.__all__)


NOTEBOOK = Path(__file__).parents[2] / "docs" / "notebook.ipynb"


def code_cells(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def test_the_notebook_of_the_docs_runs_on_few_samples(tmp_path: Path) -> None:
    text = NOTEBOOK.read_text(encoding="utf-8")
    assert "num_samples=140" in text
    stored = code_cells(json.loads(text))
    short = text.replace("num_samples=140", "num_samples=16 report=false lint=false")
    made = execute(json.loads(short), tmp_path)
    for cell, outputs in zip(stored, made, strict=True):
        assert [[*output["data"]] for output in outputs] == [[*output["data"]] for output in cell["outputs"]]


@pytest.mark.slow
def test_the_notebook_of_the_docs_shows_what_it_gives(tmp_path: Path) -> None:
    """Words equal, numbers near: those of other CPUs differ in their last digits. Costs are this machine's."""
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    made = execute(notebook, tmp_path)
    assert len(made) == 9
    for cell, outputs in zip(code_cells(notebook), made, strict=True):
        for now, before in zip(outputs, cell["outputs"], strict=True):
            for kind in ("text/plain", "text/html", "image/svg+xml"):
                same(*("".join(output["data"].get(kind, "")) for output in (now, before)), kind)


def same(now: str, before: str, kind: str) -> None:
    """Asserts that two outputs say the same."""
    if kind == "text/html":
        tables = [Cells(text).lines for text in (now, before)]
        ends = [next((i for i, head in enumerate(t[0]) if "latency" in head), None) if t else None for t in tables]
        now, before = ("\n".join(" ".join(line[:end]) for line in t) for t, end in zip(tables, ends, strict=True))
    if kind == "image/svg+xml":
        now, before = (" ".join(re.findall(r"<text[^>]*>([^<]*)<", text)) for text in (now, before))
    number = r"\d+(?:\.\d+)?"
    assert re.sub(number, "#", now) == re.sub(number, "#", before)
    assert [float(x) for x in re.findall(number, now)] == pytest.approx(
        [float(x) for x in re.findall(number, before)], rel=0.02, abs=0.01
    )


def test_the_notebook_was_executed_and_names_no_machine() -> None:
    text = NOTEBOOK.read_text(encoding="utf-8")
    assert len(text) < 400_000
    cells = code_cells(json.loads(text))
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert all(cell["outputs"] for cell in cells if not "".join(cell["source"]).startswith("!"))
    data = re.sub(r"data:image/webp;base64,[A-Za-z0-9+/=]+", "", text)
    assert not re.findall(r"(?<![\w.<])/(?:home|tmp|root|Users|mnt|var|work|opt)/", data)
    assert socket.gethostname() not in data


def test_a_table_of_images_in_memory_compares_in_pairs(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (40, 32, 32, 3), dtype=np.uint8)
    evaluation = evalkit.Evaluation(metrics=["clip_score_digits"], device="cpu")
    prompts = [f"a red {i % 10} on white" for i in range(40)]
    for shift in (0, 40):
        evaluation.update(np.clip(images.astype(int) + shift, 0, 255).astype(np.uint8), prompts=prompts)
        evaluation.compute(step=shift)
    history = evaluation.history
    (difference,) = [c for c in history.compare("samples-step0") if c.metric == "clip_score_digits"]
    assert difference.paired
    assert history.plot("step", "clip_score").axes[0].get_xlabel() == "step"
    with pytest.raises(ConfigError, match="has no run's folder"):
        history.images("samples-step0")
