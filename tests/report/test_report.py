"""The report without a browser: what the page says, what it says is missing, and that hostile text stays text."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from command import ROOT, environment
from report_runs import HOSTILE_MARK, N, Page, RunOptions, change, colour, finding, gate, hostile, write_run

from evalkit.errors import DataError
from evalkit.report import write_report
from evalkit.report.__main__ import main
from evalkit.report.gallery import make_gallery
from evalkit.report.run_folder import Run, short
from evalkit.results.table import ResultTable
from evalkit.utils.text import letters


@pytest.fixture
def plots() -> None:
    """Asked for by tests that look at plots; the others' pages have none, which saves two seconds each."""


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Page:
    """A whole run's page, plots and all."""
    return Page(write_report(write_run(tmp_path_factory.mktemp("full") / "a")))


@pytest.fixture(autouse=True)
def _without_plots(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "plots" not in request.fixturenames:
        monkeypatch.setattr("evalkit.report.plots.make_plots", lambda run: [])


def page(out: Path) -> Page:
    return Page(write_report(out))


# -- the page as a whole


def test_a_full_folder_gives_one_page_with_everything(full: Page) -> None:
    shown = full
    assert "A net-ddim-guidance_scale_4-num_inference_steps_4 is the best, " in shown.text
    assert "or not distinguishable from the best, by 4 of 5 metrics" in shown.text
    for heading in ("Best by each metric", "All cells and scores", "Plots", "Side by side", "By category", "Checks"):
        assert heading in shown.text, heading
    images = shown.named("img")
    assert sum((image["alt"] or "").startswith("C, sample 17") for image in images) == 1
    assert all((image["src"] or "").startswith("data:image/webp;base64,") for image in images)
    assert "python run_eval.py name=a" in shown.text
    assert len(shown.source) < 500_000


def test_nothing_in_the_page_points_outside_and_its_script_is_pinned(full: Page) -> None:
    links = [str(v) for _, attrs in full.tags for k, v in attrs.items() if k in ("src", "href", "action", "srcset")]
    assert links
    assert all(link.startswith(("#", "data:")) for link in links)
    assert not re.findall(r"url\((?!#)|@import|http-equiv=.refresh", full.source)
    policy = next(m["content"] or "" for m in full.named("meta") if m.get("http-equiv") == "Content-Security-Policy")
    script = re.search(r"<script>(.*?)</script>", full.source, re.DOTALL)
    assert script is not None
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'")


def test_ids_are_unique_and_every_link_has_its_target(full: Page) -> None:
    ids = [str(attrs["id"]) for _, attrs in full.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    targets = {str(attrs["href"])[1:] for _, attrs in full.tags if str(attrs.get("href", "")).startswith("#")}
    assert targets <= set(ids)


def test_no_torch_is_imported(tmp_path: Path) -> None:
    out = write_run(tmp_path / "a")
    code = (
        "import sys; from evalkit.report.__main__ import main\n"
        "heavy = {'torch', 'matplotlib', 'jinja2', 'PIL', 'numpy'} & set(sys.modules)\n"
        f"assert not heavy, heavy\nassert main([{str(out)!r}]) == 0\n"
        "assert 'torch' not in sys.modules and 'diffusers' not in sys.modules"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment(), check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(out / "report.html"))


def test_a_page_is_made_again_only_where_its_results_changed(tmp_path: Path) -> None:
    out = write_run(tmp_path / "a")
    path = write_report(out)

    def made_again() -> bool:
        os.utime(path, (0, 0))
        return write_report(out).stat().st_mtime > 0

    results = json.loads((out / "results.json").read_text())
    change(out, run={**results["run"], "seconds": {"generate": 0.0}})  # a run that found all done
    assert not made_again()
    (out / "categories.csv").write_text((out / "categories.csv").read_text() + "\n")
    assert made_again()
    change(out, notes=["Warning: something new."])
    assert made_again()
    assert "something new" in path.read_text()


# -- what is missing


def test_results_json_alone_opens_and_says_what_is_missing(tmp_path: Path, plots: None) -> None:
    full = write_run(tmp_path / "a")
    alone = tmp_path / "alone"
    alone.mkdir()
    (alone / "results.json").write_bytes((full / "results.json").read_bytes())
    shown = page(alone)
    assert "samples.csv is not next to results.json" in shown.text
    assert "categories.csv is not next to results.json" in shown.text
    assert "is the best" in shown.text
    assert shown.named("svg")


def test_a_results_file_of_another_name_takes_no_other_runs_files(tmp_path: Path) -> None:
    out = write_run(tmp_path / "a")
    (out / "prev.json").write_bytes((out / "results.json").read_bytes())
    assert main([str(out / "prev.json"), "--out", str(tmp_path / "p.html")]) == 0
    shown = Page(tmp_path / "p.html")
    assert "made from prev.json alone" in shown.text
    assert not shown.named("img")


def test_the_page_needs_nothing_outside_the_runs_folder(tmp_path: Path) -> None:
    """No sample of samples.csv exists (the store is gone), and the folder was moved."""
    out = write_run(tmp_path / "a")
    before = page(out).source
    (tmp_path / "a").rename(tmp_path / "b")
    (tmp_path / "b" / "report.html").unlink()
    assert page(tmp_path / "b").source == before
    images = {str(image["alt"]): image for image in Page(tmp_path / "b" / "report.html").named("img")}
    assert len(images) > 3 * N
    assert _first_pixel(str(images["C, sample 17"]["src"])) == colour(2, 17)


def _first_pixel(uri: str) -> Any:
    from PIL import Image

    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).convert("RGB").getpixel((0, 0))


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (None, "thumbnails.json is not next to results.json. The run's command, given again, writes it."),
        ("{}", "thumbnails.json cannot be read"),
        ("[1", "thumbnails.json cannot be read"),
        ('{"images": {"net": {"x": 3}}}', "thumbnails.json cannot be read"),
    ],
)
def test_a_folder_of_an_earlier_version_says_so_and_keeps_prompts_and_scores(
    tmp_path: Path, content: str | None, text: str
) -> None:
    out = write_run(tmp_path / "a")
    thumbnails = (out / "thumbnails.json").read_text()
    if content is None:
        (out / "thumbnails.json").unlink()
    else:
        (out / "thumbnails.json").write_text(content)
    shown = page(out)
    assert text in shown.text
    assert "prompt 17" in shown.text
    assert "C 5" in shown.text
    assert not any("sample" in str(image["alt"]) and "," in str(image["alt"]) for image in shown.named("img"))
    (out / "thumbnails.json").write_text(thumbnails)
    assert len(page(out).named("img")) > N  # the page is made again


def test_images_that_are_damaged_or_missing_are_named(tmp_path: Path) -> None:
    out = write_run(tmp_path / "a")
    stored = json.loads((out / "thumbnails.json").read_text())
    first, second, _ = stored["images"]
    stored["images"][first]["17"] = None
    del stored["images"][second]["17"]
    (out / "thumbnails.json").write_text(json.dumps(stored))
    items = make_gallery(Run.open(out)).cards[17].items
    assert [(item.thumb is not None, item.why) for item in items] == [
        (False, "damaged"),
        (False, "no picture"),
        (True, ""),
    ]


@pytest.mark.parametrize("name", ["samples.csv", "categories.csv"])
@pytest.mark.parametrize("content", ["", "nonsense\n1\n", "cell,index,file,prompt,category,m\nx,y,z\n", "\x00\xff"])
def test_broken_csvs_are_said_and_not_fatal(tmp_path: Path, name: str, content: str) -> None:
    out = write_run(tmp_path / "a")
    (out / name).write_text(content, encoding="latin-1")
    assert "is the best" in page(out).text
    assert f"{name} cannot be read" in page(out).text


@pytest.mark.parametrize("keep", [0.5, 0.999, 0.01])
def test_a_page_that_is_cut_off_is_made_again(tmp_path: Path, keep: float) -> None:
    out = write_run(tmp_path / "a")
    path = write_report(out)
    whole = path.read_bytes()
    before = path.stat().st_mtime_ns
    write_report(out)
    assert path.stat().st_mtime_ns == before  # the page that is there is of these results
    path.write_bytes(whole[: int(len(whole) * keep)])
    write_report(out)
    assert path.read_bytes() == whole
    path.write_bytes(whole.replace(b"precision", b"pracision", 1))
    write_report(out)
    assert path.read_bytes() == whole


def test_samples_of_another_run_are_not_shown(tmp_path: Path) -> None:
    out = write_run(tmp_path / "a")
    text = (out / "samples.csv").read_text()
    (out / "samples.csv").write_text(text.replace("net-ddim", "other"))
    assert "samples.csv has no line for any of these cells" in page(out).text


def test_cells_of_earlier_runs_without_config_or_samples(tmp_path: Path) -> None:
    out = write_run(tmp_path / "a")
    table = ResultTable.load(out / "results.json")
    earlier = [
        replace(row, cell="old (earlier)", protocol_hash=f"other {row.metric}", settings={})
        for row in table.rows
        if "guidance_scale_1-" in row.cell
    ]
    run = {"name": "bare"}  # nothing else is known of it
    (out / "results.json").write_text(json.dumps(replace(table, run=run, rows=(*table.rows, *earlier)).to_json()))
    shown = page(out)
    assert "samples.csv has no samples of D (cells of earlier runs, say)" in shown.text
    assert "D stand apart (†)" in shown.text
    assert "results.json holds no configuration" in shown.text
    assert "results.json holds no command" in shown.text


# -- hostile text


def test_hostile_text_stays_text(tmp_path: Path, plots: None) -> None:
    options = RunOptions(
        text=hostile(), notes=(hostile()("Warning: a note"),), lint=(finding(hostile()),), gate=gate(hostile())
    )
    shown = page(write_run(tmp_path / "a", options))
    assert [tag for tag, _ in shown.tags].count("script") == 2
    assert not [tag for tag, _ in shown.tags if tag == HOSTILE_MARK]
    assert not [k for _, attrs in shown.tags for k in attrs if k.startswith("on") or k == "autofocus"]
    assert "49" not in shown.text.replace("7*7", "")[:2000]  # no template was evaluated
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', shown.source, re.DOTALL)
    assert data is not None
    assert "<" not in data[1]
    json.loads(data[1])
    assert not re.search("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]", shown.source)
    assert "<script>window.hit=1</script>" in shown.text


def test_hostile_text_makes_the_same_elements_as_plain_text(tmp_path: Path) -> None:
    """Texts of one line: longer ones are folded away on purpose."""
    evil = '"><x-evil onload=x></td></script>&amp;<!--'
    plain = page(write_run(tmp_path / "a", RunOptions(text=lambda text: f"{text} xxxxxxxxxx")))
    nasty = page(write_run(tmp_path / "b", RunOptions(text=lambda text: f"{text} {evil}")))
    made = [[(tag, sorted(attrs)) for tag, attrs in one.tags if tag != "wbr"] for one in (nasty, plain)]
    assert made[0] == made[1]  # where a long name may wrap is another matter


def test_names_are_cut_in_their_middle_and_cleaned() -> None:
    assert short("abc\n def\x00") == "abc def�"
    assert short("a" * 50 + "b" * 50, 30) == "a" * 20 + "…" + "b" * 9
    assert [letters(n) for n in (0, 25, 26, 27, 702)] == ["A", "Z", "AA", "AB", "AAA"]


# -- the command


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere: no such file"),
        (["."], "no results.json in this folder"),
        (["broken.json"], "not a results.json of evalkit"),
        (["good", "--out", "file/below.html"], "file"),
    ],
)
def test_errors_are_one_line(
    tmp_path: Path, arguments: list[str], message: str, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "good")
    (tmp_path / "broken.json").write_text("{}")
    (tmp_path / "file").write_text("")
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("evalkit: ")
    assert error.count("\n") == 1


def test_a_folder_without_results_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no results\.json"):
        write_report(tmp_path)
