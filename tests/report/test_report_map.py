"""The map's section: missing modes in words, points and bars when it is seen, pictures by click and by keyboard."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chromium import CHROMIUM
from report_runs import HOSTILE, HOSTILE_MARK, N, write_run

from evalkit.report import write_report
from evalkit.results.feature_map import NAME, FeatureMap, Modes, Points
from evalkit.results.table import ResultTable
from evalkit.results.thumbnails import Thumbnailer
from evalkit.utils.json_files import write_checked

in_a_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on the PATH")


def write_map(out: Path, names: tuple[str, ...] = ("animals", "people")) -> Path:
    """A map next to a run of `write_run`: its second cell has no people."""
    generator = np.random.default_rng(0)

    def points(n: int, counts: tuple[int, int], missing: tuple[int, ...] = ()) -> Points:
        x, y = generator.normal(size=(2, n)).round(3).tolist()
        return Points(list(range(n)), x, y, counts, missing)

    images = [[Thumbnailer(2, 9999).make(np.full((8, 8, 3), shade, np.uint8))] for shade in (50, 200)]
    cells = ResultTable.load(out / "results.json").cells
    made = FeatureMap(
        *("mark", "pca", "clip/image", [0.4, 0.25], points(40, (60, 40)), Modes(True, names, (60, 40), images)),
        cells={cell: points(N, (30, 0), (1,)) if i == 1 else points(N, (18, 12)) for i, cell in enumerate(cells)},
    )
    write_checked(out / NAME, asdict(made))
    return write_report(out)


@pytest.fixture(scope="module")
def page_of_a_map(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_map(write_run(tmp_path_factory.mktemp("map") / "run"))


def test_missing_modes_stand_in_words(page_of_a_map: Path) -> None:
    page = page_of_a_map.read_text(encoding="utf-8")
    assert page.count("people 0.0% of 30 (the reference 40.0%)") == 2  # under the headline, and in the section
    assert "two principal components in clip/image: 40.0% and 25.0% of its variance" in page


def test_without_a_map_there_is_no_section_and_a_broken_one_is_told(tmp_path: Path) -> None:
    out = write_run(tmp_path / "run")
    assert 'href="#map"' not in write_report(out).read_text(encoding="utf-8")
    write_map(out)
    assert 'href="#map"' in (out / "report.html").read_text(encoding="utf-8")  # the page was made anew
    (out / NAME).write_text((out / NAME).read_text().replace("clip/image", "clip/imago"))
    assert "map.json cannot be read" in write_report(out).read_text(encoding="utf-8")


@in_a_browser
def test_a_point_opens_its_picture_by_click_and_by_keyboard(opened: Any, page_of_a_map: Path) -> None:
    page = opened(page_of_a_map)
    assert page.locator("#map-plot svg").count() == 0  # drawn when it is seen
    page.locator("#map-view").scroll_into_view_if_needed()
    page.locator("#map-plot svg").wait_for()
    assert page.locator("#map-cell").input_value() == "B"  # the one that lacks something
    assert page.locator("#map-modes .missing").inner_text().split()[-3:] == ["0.0%", "missing", "40.0%"]
    assert page.locator(".ring").count() == N
    page.locator(".ring").first.focus()
    page.keyboard.press("ArrowRight")
    label = page.evaluate("document.activeElement.getAttribute('aria-label')")
    page.keyboard.press("Enter")
    assert page.locator("#box-caption").inner_text().startswith(label.removeprefix("B, "))
    assert page.locator("#box-title").inner_text().startswith("B ")
    page.keyboard.press("Escape")
    page.locator("#map-cell").select_option("A")
    assert page.evaluate("location.hash").startswith("#map=A")
    assert page.locator("#map-modes .missing").count() == 0
    page.locator(".ring").nth(4).dispatch_event("click")
    assert page.locator("#box-title").inner_text().startswith("A ")


@in_a_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_violation_in_the_map(opened: Any, page_of_a_map: Path, scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="a development dependency")
    page = opened(page_of_a_map, width=390, color_scheme=scheme)
    page.locator("#map-view").scroll_into_view_if_needed()
    page.locator("#map-plot svg").wait_for()
    found = axe.Axe().run(page, context="#map", options={"resultTypes": ["violations"]}).response["violations"]
    assert [each["id"] for each in found] == []
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


@in_a_browser
def test_hostile_names_of_classes_are_texts(opened: Any, tmp_path: Path) -> None:
    page = opened(write_map(write_run(tmp_path / "run"), names=(HOSTILE[1], HOSTILE[0])))
    page.locator("#map-view").scroll_into_view_if_needed()
    page.locator("#map-plot svg").wait_for()
    assert page.locator(HOSTILE_MARK).count() == 0
    assert page.evaluate("window.hit") is None


@in_a_browser
def test_without_scripts_the_missing_modes_are_a_list(opened: Any, page_of_a_map: Path) -> None:
    page = opened(page_of_a_map, java_script_enabled=False)
    assert "people 0.0% of 30" in page.locator("#map .lint li").inner_text()
    assert not page.locator("#map-view").is_visible()
