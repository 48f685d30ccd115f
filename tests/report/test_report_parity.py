"""The same or not: what the section says, and its pictures by mouse and keyboard alone."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from big_runs import SIXTY, write_big_run
from chromium import CHROMIUM
from parity_runs import write_pairs
from report_runs import HOSTILE, HOSTILE_MARK, RunOptions, gate, hostile, write_run
from test_report_browser import all_open, violations
from test_report_large import nodes

from evalkit.report import write_report
from evalkit.report.parity import make_parity
from evalkit.report.run_folder import Run
from evalkit.results.table import COSTS

in_a_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on the PATH")


@pytest.fixture(scope="module")
def page_of_pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(write_pairs(write_run(tmp_path_factory.mktemp("pairs") / "run")))


def test_each_cell_has_its_statistics_floor_and_verdict(tmp_path: Path) -> None:
    view = make_parity(Run.open(write_pairs(write_run(tmp_path / "run"))))
    assert view is not None
    assert [(one.status, one.tone) for one in view.cells] == [
        ("beyond the noise floor", "inconclusive"),
        ("within the noise floor", "pass"),
    ]
    first = view.cells[0].lines[0]
    assert first.title == "PSNR ↑"
    assert list(first.statistics) == ["40.00", "41.00", "20.50", "21.00", "98.00", "99.00"]
    assert (first.identical, first.floor, first.verdict) == ("2 of 30", "45.00", "beyond the noise floor")
    assert view.cells[0].lines[1].statistics[0] == "0.9998"
    assert [name for name, _ in view.remakes] == ["again", "batch_size 1"]
    assert view.counts == [("within the noise floor", 1), ("beyond the noise floor", 1)]


def test_without_a_floor_it_says_how_to_have_one_and_what_the_gate_says(tmp_path: Path) -> None:
    out = write_run(tmp_path / "run")
    cell = Run.open(out).table.cells[0]
    judged = gate(status="pass")
    judged["results"] = [{**judged["results"][0], "cell": cell, "metric": "psnr", "status": "pass"}]
    out = write_pairs(write_run(tmp_path / "other", RunOptions(gate=judged)), floor=None)
    view = make_parity(Run.open(out))
    assert view is not None
    assert [(one.status, one.gate, one.tone) for one in view.cells] == [
        ("differs", "passes the gate", "pass"),
        ("differs", "", "inconclusive"),
    ]
    page = write_report(out).read_text(encoding="utf-8")
    assert "<code>noise_floor=true</code> makes it again" in page


def test_without_pairs_there_is_no_section_and_a_missing_file_is_told(tmp_path: Path) -> None:
    out = write_run(tmp_path / "run")
    assert 'href="#parity"' not in write_report(out).read_text(encoding="utf-8")
    write_pairs(out)
    (out / "parity.json").unlink()
    page = write_report(out).read_text(encoding="utf-8")
    assert 'href="#parity"' in page
    assert "parity.json is not next to results.json" in page


@in_a_browser
def test_a_pair_opens_as_flip_slider_and_difference(opened: Any, page_of_pairs: Path) -> None:
    page = opened(page_of_pairs)
    assert page.locator("#parity .worst > li").count() == 10
    item = page.locator("#parity .worst > li").nth(1)
    base, mine, between = (item.locator("img").nth(place).get_attribute("src") for place in range(3))
    item.locator("img").first.focus()
    page.keyboard.press("Enter")
    under = page.locator("#box-under")
    assert under.get_attribute("src") == mine
    page.keyboard.press(" ")
    assert under.get_attribute("src") == base
    assert "PSNR 21.5" in page.locator("#box-caption").inner_text()
    assert page.locator("#box-prompt").inner_text() == "a red cat 1"
    page.keyboard.press("4")
    assert under.get_attribute("src") == between  # of the pixels themselves, brightened
    assert "× 51" in page.locator("#box-caption").inner_text()
    page.keyboard.press("3")
    assert page.locator("#box-over").get_attribute("src") == base
    page.keyboard.press("ArrowDown")
    assert "sample 6" in page.locator("#box-caption").inner_text()
    page.keyboard.press("ArrowRight")  # the other cell's pairs, and its panel behind
    assert page.locator("#box-title").inner_text().startswith("C ")
    assert page.locator("#parity-cell").input_value() == "C"
    address = page.url
    page.keyboard.press("Escape")
    page.goto("about:blank")
    page.goto(address)
    page.locator("#lightbox[open]").wait_for()  # a link shows the same pair
    assert re.search(r"view=C\.p\d+\.slider\.B", address)


@in_a_browser
def test_side_by_side_still_opens_its_own_cards(opened: Any, page_of_pairs: Path) -> None:
    page = opened(page_of_pairs)
    page.locator("#parity .worst img").first.click()
    page.keyboard.press("Escape")
    page.locator("#cards img").first.click()
    assert page.locator("#box-other option").count() == 3
    page.keyboard.press("ArrowDown")
    assert page.locator("#box-caption").inner_text().startswith("sample 1 ")


@in_a_browser
def test_another_cell_is_chosen_and_stands_in_the_address(opened: Any, page_of_pairs: Path) -> None:
    page = opened(page_of_pairs)
    page.locator("#parity-cell").select_option("C")
    assert page.locator("#parity-panel .panel").get_attribute("data-cell") == "C"
    assert "pairs=C" in page.url
    assert page.locator("#parity .status.pass").count() > 0


@in_a_browser
@pytest.mark.parametrize(("scheme", "width"), [("light", 1400), ("dark", 390)])
def test_axe_finds_no_violation_and_nothing_overflows(
    opened: Any, page_of_pairs: Path, scheme: str, width: int
) -> None:
    page, axe = all_open(opened, page_of_pairs, scheme, width)
    assert violations(axe, page) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.locator("#parity .worst img").first.click()
    assert violations(axe, page) == []


@pytest.mark.slow
@in_a_browser
def test_sixty_cells_with_pairs_hold_few_elements(opened: Any, tmp_path: Path) -> None:
    out = write_big_run(tmp_path / "run", SIXTY, samples=10)
    left_out = list(dict.fromkeys(row.metric for row in Run.open(out).table.rows if row.metric not in COSTS))[-2:]
    page = opened(write_report(write_pairs(out, instead_of=left_out)))
    assert nodes(page) <= 10_000
    assert page.locator("#parity-cell option").count() == 59
    page.locator("#parity-cell").select_option(index=58)
    assert page.locator("#parity-panel .worst > li").count() == 10
    page.locator("#parity-all > summary").click()
    page.locator("#parity-all tbody tr").first.wait_for()
    assert page.locator("#parity-all tbody tr").count() == 59 + 2


@in_a_browser
def test_hostile_prompts_and_names_are_texts(opened: Any, tmp_path: Path) -> None:
    out = write_pairs(write_run(tmp_path / "run", RunOptions(text=hostile())), prompt=HOSTILE[0] + HOSTILE[1])
    page = opened(write_report(out))
    for key in ("A", "C"):
        page.locator("#parity-cell").select_option(key)
    page.locator("#parity .worst img").first.click()
    assert page.evaluate("window.hit") is None
    assert page.locator(HOSTILE_MARK).count() == 0


@in_a_browser
def test_without_scripts_the_first_cell_is_there(opened: Any, page_of_pairs: Path) -> None:
    page = opened(page_of_pairs, java_script_enabled=False)
    assert page.locator("#parity .worst > li").count() == 10
    assert page.locator("#parity-form").is_hidden()
