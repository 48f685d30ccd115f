"""The report in headless Chromium: it sorts, filters, pages, copies; no console error, no request, no overflow."""

from __future__ import annotations

import csv
import io
import re
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from chromium import CHROMIUM
from report_runs import HOSTILE, HOSTILE_MARK, N, RunOptions, hostile, set_apart, write_run

from evalkit.report import write_report
from evalkit.results import render
from evalkit.results.table import ResultTable

if TYPE_CHECKING:
    from playwright.sync_api import Page


pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on the PATH")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of four cells, the last of which has a FID under another protocol."""
    options = RunOptions(cells=4, gate={"status": "fail", "results": []})
    out = write_run(tmp_path_factory.mktemp("plain") / "run", options)
    set_apart(out, "fid_x", 3, value=0.5)
    return write_report(out)


@pytest.fixture(scope="module")
def nasty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    finding = {
        "severity": "error",
        "kind": "k",
        "where": "w",
        "count": 1,
        "files": list(HOSTILE),
        "message": HOSTILE[1],
    }
    results = [{"status": "fail", "cell": HOSTILE[0], "metric": HOSTILE[1], "reason": HOSTILE[6], "rule": HOSTILE[6]}]
    gate = {"status": "fail", "results": results, "notes": list(HOSTILE)}
    options = RunOptions(text=hostile(), notes=HOSTILE, lint=(finding,), gate=gate)
    return write_report(write_run(tmp_path_factory.mktemp("nasty") / "run", options))


def keys(page: Page) -> str:
    """The letters of the table's visible lines, in order."""
    return "".join(
        page.locator("#scores tbody tr:visible .key").evaluate_all("keys => keys.map(k => k.firstChild.data)")
    )


def sort_button(page: Page, name: str) -> Any:
    return page.locator("#scores thead button", has_text=name).first


def test_the_page_opens_silently_from_a_file(opened: Any, plain: Path) -> None:
    page = opened(plain)
    assert page.title() == "a run: evalkit report"
    assert page.locator("h1").inner_text() == "a run"
    assert page.locator(".verdict").bounding_box()["y"] < 900  # on the first screen
    assert page.locator("figure svg").count() > 10
    loaded = page.locator("#cards img").evaluate_all("images => images.every(i => i.complete && i.naturalWidth > 0)")
    assert loaded


def test_sorting_by_mouse_and_keyboard(opened: Any, plain: Path) -> None:
    page = opened(plain)
    assert keys(page) == "ABCD"
    precision = sort_button(page, "precision")
    precision.click()  # higher is better: the best first
    assert keys(page) == "DCBA"
    head = page.locator("#scores th[aria-sort=descending]")
    assert head.inner_text().startswith("precision")
    precision.press("Enter")
    assert keys(page) == "ABCD"
    assert page.locator("#scores th[aria-sort=ascending]").count() == 1
    precision.press("Space")
    assert page.locator("#scores th[aria-sort=none]").count() == page.locator("#scores th[aria-sort]").count()
    sort_button(page, "FID").click()
    assert keys(page) == "ABCD"  # D's 0.5 rests on another protocol: it stays last
    sort_button(page, "FID").click()
    assert keys(page) == "CBAD"
    sort_button(page, "num_inference_steps").click()
    assert keys(page)[0] == "A"  # 4 before 8: by size


def test_filtering(opened: Any, plain: Path) -> None:
    page = opened(plain)
    page.locator("#filters").get_by_label("guidance_scale").select_option("4")
    assert keys(page) == "AB"
    assert page.locator("#count").inner_text() == "2 of 4 cells"
    page.locator("#find").fill("num_inference_steps_8")
    assert keys(page) == "B"
    page.get_by_role("button", name="Show all").click()
    page.locator("#count", has_text=re.compile(r"^$")).wait_for(state="attached")  # it filters once the form is reset
    assert keys(page) == "ABCD"


def cards(page: Page) -> list[int]:
    return [int(text) for text in page.locator("#cards > li:visible .prompt > .num").all_inner_texts()]


def number(text: str) -> float:
    return float(text.replace("−", "-"))


def test_side_by_side_pages_and_sorts(opened: Any, plain: Path) -> None:
    page = opened(plain)
    assert cards(page) == list(range(8))
    page.get_by_role("button", name="Next page").click()
    assert cards(page) == list(range(8, 16))
    assert page.locator("#page").inner_text() == f"page 2 of {-(-N // 8)}"
    page.locator("#by").select_option("drop 0")
    assert cards(page)[0] == 17  # C's sample 17 is the planted regression
    figure = page.locator("#cards > li:visible").first.locator("figure[data-cell=C]")
    assert number(figure.locator(".drop").inner_text()) < -70
    assert "worse" in figure.locator(".drop").get_attribute("class")
    page.locator("#in").select_option("B")
    drops = page.locator("figure[data-cell=B]:visible .drop").all_inner_texts()
    assert drops == sorted(drops, key=number)  # B's own worst first
    page.locator("#by").select_option("low 0")
    page.locator("#in").select_option("C")
    assert cards(page)[0] == 17
    page.locator("#cells input[value=C]").uncheck()
    assert page.locator("figure[data-cell=C]:visible").count() == 0
    page.locator("#by").select_option("index")
    assert cards(page) == list(range(8))
    assert page.get_by_role("button", name="Previous page").is_disabled()


def test_csv_is_downloaded_and_text_is_copied(opened: Any, plain: Path) -> None:
    table = ResultTable.load(plain.parent / "results.json")
    page = opened(plain, permissions=["clipboard-read", "clipboard-write"], accept_downloads=True)
    with page.expect_download() as download:
        page.get_by_role("link", name="Download CSV").click()
    text = Path(download.value.path()).read_text()
    assert text == render.to_csv(table)
    assert len(list(csv.reader(io.StringIO(text)))) == 5
    for name, wanted in (("Markdown", render.to_markdown(table)), ("LaTeX", render.to_latex(table))):
        page.get_by_role("button", name=f"Copy as {name}").click()
        page.get_by_role("button", name="Copied").wait_for()
        assert page.evaluate("navigator.clipboard.readText()").rstrip() == wanted.rstrip()
        page.get_by_role("button", name="Copied").wait_for(state="detached")


def test_without_a_clipboard_the_text_is_shown_and_selected(opened: Any, plain: Path) -> None:
    page = opened(plain)
    page.evaluate("Object.defineProperty(navigator, 'clipboard', {value: undefined})")
    page.get_by_role("button", name="Copy as LaTeX").click()
    area = page.locator("#as-latex")
    area.wait_for(state="visible")
    assert area.evaluate("a => a.value.slice(a.selectionStart, a.selectionEnd)").startswith("% \\usepackage{booktabs}")


def colours(page: Page) -> tuple[Any, Any]:
    """Background and ink as (r, g, b)."""
    script = (
        "e => [getComputedStyle(e).backgroundColor, getComputedStyle(e).color].map(c => c.match(/\\d+/g).map(Number))"
    )
    background, ink = page.locator("body").evaluate(script)
    return background, ink


def test_light_dark_and_the_switch(opened: Any, plain: Path) -> None:
    dark = opened(plain, color_scheme="dark")
    background, ink = colours(dark)
    assert max(background) < 60
    assert min(ink) > 180
    text = dark.locator("figure svg text").first.evaluate("t => getComputedStyle(t).fill")
    assert min(int(part) for part in text.strip("rgb()").split(",")) > 140  # plots turn with the page
    button = dark.get_by_role("button", name="Theme")
    button.click()
    assert min(colours(dark)[0]) > 240
    dark.reload()
    assert button.inner_text() == "Light"  # remembered
    light = opened(plain, color_scheme="light")
    assert min(colours(light)[0]) > 240


@pytest.mark.parametrize("width", [360, 820])
@pytest.mark.parametrize("which", ["plain", "nasty"])
def test_nothing_overflows_the_page(opened: Any, request: pytest.FixtureRequest, which: str, width: int) -> None:
    page = opened(request.getfixturevalue(which), width=width)
    page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    if width == 360:  # the table scrolls in its own box
        assert page.locator("div.scroll:has(#scores)").evaluate("e => e.scrollWidth > e.clientWidth")


def test_hostile_text_makes_no_element_and_runs_nothing(opened: Any, nasty: Path) -> None:
    page = opened(nasty)
    page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    page.mouse.move(200, 200)
    assert page.evaluate("window.hit") is None
    assert page.locator(HOSTILE_MARK).count() == 0
    assert page.locator("script").count() == 2
    assert page.locator("img[onerror], [onload], [onfocus], [autofocus]").count() == 0
    assert page.locator("main img:not([src^='data:image/webp'])").count() == 0
    assert page.locator("h1").inner_text().startswith("a run")
    widest = page.locator("#scores tbody td").evaluate_all("cells => Math.max(...cells.map(c => c.offsetWidth))")
    tallest = page.locator("#scores tbody tr").evaluate_all("rows => Math.max(...rows.map(r => r.offsetHeight))")
    assert widest < 700
    assert tallest < 80
    sort_button(page, "precision").click()
    page.locator("#by").select_option("drop 0")
    assert cards(page)[0] == 17


def test_right_to_left_text_does_not_turn_its_neighbours(opened: Any, nasty: Path) -> None:
    page = opened(nasty)
    for card in page.locator("#cards > li:visible .prompt").all():
        index = card.locator(".num").bounding_box()
        assert index["x"] < 120  # the index stays at the left
    assert page.locator("main").evaluate("e => getComputedStyle(e).direction") == "ltr"


def test_without_javascript_everything_is_there(opened: Any, plain: Path) -> None:
    page = opened(plain, java_script_enabled=False)
    assert page.locator("#cards > li:visible").count() == N
    assert page.locator("#scores tbody tr:visible").count() == 4
    assert page.locator("figure svg:visible").count() > 10
    assert page.locator("#filters").is_hidden()
    assert page.locator("button:visible").count() == 0


def test_keyboard_reaches_what_it_needs(opened: Any, plain: Path) -> None:
    page = opened(plain)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the results"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    boxes = page.locator(".scroll")
    assert boxes.evaluate_all("all => all.every(e => e.tabIndex === 0 && e.getAttribute('aria-label'))")
    levels = page.locator("h1, h2, h3").evaluate_all("all => all.map(h => Number(h.tagName[1]))")
    assert levels[0] == 1
    assert all(b - a <= 1 for a, b in pairwise(levels))


def test_a_link_to_a_protocol_opens_it(opened: Any, plain: Path) -> None:
    page = opened(plain)
    page.locator("tr.hashes a").first.click()
    assert page.locator("details[id^=protocol-]").first.get_attribute("open") is not None


def test_it_prints_on_pages(opened: Any, plain: Path, tmp_path: Path) -> None:
    page = opened(plain)
    page.pdf(path=tmp_path / "report.pdf", prefer_css_page_size=True)
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF")
    page.emulate_media(media="print")
    assert page.locator("header").is_hidden()
    assert page.locator(".scroll").first.evaluate("e => getComputedStyle(e).overflowX") == "visible"


@pytest.mark.parametrize(("scheme", "width"), [("light", 1400), ("dark", 390)])  # contrast is of the scheme alone
def test_axe_finds_no_violation(opened: Any, plain: Path, scheme: str, width: int) -> None:
    """axe-core with all of its rules, on the whole page, every section open."""
    page, axe = all_open(opened, plain, scheme, width)
    assert violations(axe, page) == []
    if scheme == "light":
        page.evaluate("document.querySelector('.reference img').removeAttribute('alt')")
        assert [kind for kind, _ in violations(axe, page)] == ["image-alt"]  # it does look


@pytest.mark.slow
@pytest.mark.parametrize("width", [1400, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("which", ["plain", "nasty"])
def test_axe_finds_no_violation_anywhere(
    opened: Any, request: pytest.FixtureRequest, which: str, scheme: str, width: int
) -> None:
    page, axe = all_open(opened, request.getfixturevalue(which), scheme, width)
    assert violations(axe, page) == []


def all_open(opened: Any, path: Path, scheme: str, width: int) -> tuple[Page, Any]:
    """The page with every section open, and axe-core."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="a development dependency")
    page = opened(path, width=width, color_scheme=scheme)
    page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    return page, axe


def violations(axe: Any, page: Page) -> list[tuple[str, Any]]:
    """By rule, where axe-core finds it broken."""
    found = axe.Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
    return [(each["id"], [node["target"] for node in each["nodes"]]) for each in found]
