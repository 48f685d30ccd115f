"""The leaderboard in headless Chromium: metric, filter, sort, state in the URL, a phone's width, axe, no request."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from chromium import CHROMIUM
from many_runs import write_runs

from evalkit.history.board import make_boards
from evalkit.history.board_page import write_board
from evalkit.history.registry import Registry

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on the PATH")


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = write_runs(tmp_path_factory.mktemp("many") / "runs")
    (store / "week08" / "report.html").write_text("<title>the report of week 8</title>")
    registry = Registry.read(store)
    return write_board(registry, make_boards(registry), store.parent / "board.html", "Ours")[0]


def opened(browser: Any, path: Path, said: list[str], **options: Any) -> Any:
    page = browser.new_page(**options)
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: said.append(request.url) if request.url[:5] not in ("file:", "data:") else None)
    page.goto(path.as_uri())
    return page


def test_by_keyboard_alone(browser: Any, path: Path) -> None:
    said: list[str] = []
    page = opened(browser, path, said)
    shown = "document.querySelectorAll('.metric:not([hidden])').length"
    assert page.evaluate(shown) == 1
    assert page.inner_text("#status") == "11 entries"
    page.focus("#metric")
    page.keyboard.press("ArrowDown")
    assert page.inner_text("#status") == "10 entries"
    page.keyboard.press("Tab")
    page.keyboard.type("gan week08")
    assert page.inner_text("#status") == "1 entry"
    page.keyboard.press("Control+A")
    page.keyboard.press("Delete")
    for _ in range(3):  # the table, the buttons of rank and cell
        page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")  # the score, ascending
    visible = ".metric:not([hidden]) tbody td:nth-child(3)"
    values = [float(text.split()[0]) for text in page.locator(visible).all_inner_texts()]
    assert values == sorted(values)
    page.keyboard.press("Enter")
    assert [float(text.split()[0]) for text in page.locator(visible).all_inner_texts()] == values[::-1]
    address = page.url
    page.goto("about:blank")
    page.goto(address)  # the state is in the URL
    assert page.inner_text("#status") == "10 entries"
    assert page.get_attribute(".metric:not([hidden]) th:nth-child(3)", "aria-sort") == "descending"
    page.select_option("#metric", "")
    assert page.evaluate(shown) == 3
    page.fill("#filter", "no such thing")
    assert page.locator(".none:visible").count() == 4
    assert said == []


def test_a_phone_and_the_link_to_a_report(browser: Any, path: Path) -> None:
    said: list[str] = []
    page = opened(browser, path, said, viewport={"width": 390, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.click("text=week08")
    assert page.title() == "the report of week 8"
    assert said == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe(browser: Any, path: Path, scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    page = opened(browser, path, [], color_scheme=scheme)
    assert [violation["id"] for violation in axe.Axe().run(page).response["violations"]] == []
