"""Pages of the report in the tests' one Chromium (tests/helpers/chromium.py)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page


@dataclass
class Opened:
    """A page and what it did: messages of its console, errors, requests other than for the file itself."""

    page: Page
    said: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def check(self, *, fetch: bool = True) -> None:
        assert self.said == []
        assert self.asked == []


@pytest.fixture
def opened(browser: Browser) -> Iterator[Any]:
    """Opens pages; when the test is done, each must have been silent and asked for nothing."""
    pages: list[Opened] = []

    def open_page(path: Path, *, width: int = 1400, **more: Any) -> Page:
        context = browser.new_context(viewport={"width": width, "height": 900}, **more)
        one = Opened(context.new_page())
        pages.append(one)
        one.page.on("console", lambda message: one.said.append(message.text))
        one.page.on("pageerror", lambda error: one.said.append(str(error)))
        address = path.resolve().as_uri()
        one.page.on("request", lambda r: None if r.url.startswith(("data:", address)) else one.asked.append(r.url))
        one.page.goto(address)
        return one.page

    yield open_page
    for one in pages:
        one.check()
        one.page.context.close()
