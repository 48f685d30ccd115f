"""The voting page in headless Chromium: forty votes by keyboard, undo, a killed server, a second voter, an export."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from chromium import CHROMIUM
from command import ROOT, environment, run_evalkit
from votes_run import CELLS, write_votes_run

from evalkit.votes.records import read_lines, read_votes

pytest.importorskip("starlette")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on the PATH")

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

KEYS = ("ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown", "t", "b")


@contextmanager
def server(run: Path, *words: str) -> Iterator[tuple[str, Any]]:
    """`evalkit vote RUN` in a process: its address, and the process."""
    command = [sys.executable, str(ROOT / "run_eval.py"), "vote", str(run), *words]
    with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, text=True) as it:
        try:
            assert it.stdout is not None
            yield it.stdout.readline().split()[0], it
        finally:
            it.kill()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_votes_run(tmp_path_factory.mktemp("page") / "runs")


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Any]:
    """Opens pages in a context of their own; when the test is done, none must have said anything on its console."""
    contexts, said = [], []

    def open_one(address: str, *, width: int = 1280, height: int = 800, **more: Any) -> Page:
        contexts.append(browser.new_context(viewport={"width": width, "height": height}, **more))
        page = contexts[-1].new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(address)
        return page

    yield open_one
    for context in contexts:
        context.close()
    assert [text for text in said if "ERR_CONNECTION_REFUSED" not in text] == []


def begin(page: Page, voter: str) -> None:
    page.get_by_label("Your name").fill(voter)
    page.keyboard.press("Enter")


def wait(page: Page, votes: int) -> None:
    page.locator(f"body[data-ready='{votes}']").wait_for()


def cast(page: Page, first: int, last: int) -> None:
    """Votes number `first` to `last`, each when its images are there."""
    for number in range(first, last + 1):
        wait(page, number - 1)
        page.wait_for_timeout(160)  # a key that comes sooner was meant for the images before
        page.keyboard.press(KEYS[number % len(KEYS)])
    wait(page, last)


def test_forty_votes_by_keyboard(open_page: Any, run: Path) -> None:
    votes = run / "votes.csv"
    with server(run) as (address, process):
        page = open_page(address)
        begin(page, "Ann")
        cast(page, 1, 20)
        assert [v.voter for v in read_votes(votes)] == ["Ann"] * 20
        shown = page.content()
        assert "secret" not in shown
        prompt = page.locator("#prompt").inner_text()
        page.keyboard.press("Backspace")
        wait(page, 19)
        page.keyboard.press("u")
        wait(page, 18)
        assert len(read_votes(votes)) == 18
        page.reload()
        wait(page, 18)
        assert page.locator("#progress-label").inner_text() == "18 of 80"
        cast(page, 19, 20)
        assert page.locator("#prompt").inner_text() == prompt
        process.send_signal(signal.SIGKILL)  # whatever was answered is on the disk
        process.wait()
        page.wait_for_timeout(160)
        page.keyboard.press("ArrowLeft")
        page.get_by_text("The server cannot be reached").wait_for()
    with server(run, "--port", address.rsplit(":", 1)[1].strip("/")) as (again, process):
        assert again == address
        page.keyboard.press("ArrowLeft")  # on what was shown before
        wait(page, 21)
        assert page.get_by_role("alert").is_hidden()
        cast(page, 22, 40)
        page.get_by_role("button", name="Not you?").click()
        begin(page, "  Bob ")
        cast(page, 1, 2)
        page.wait_for_timeout(160)
        page.get_by_role("button", name="Both bad").click()
        wait(page, 3)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
        assert "23 new votes, 43 in all" in process.stdout.read()
    lines = read_lines(votes)
    assert [line.outcome == "undo" for line in lines].count(True) == 2
    cast_by = {name: [v for v in read_votes(votes) if v.voter == name] for name in ("Ann", "Bob")}
    assert [len(cast_by["Ann"]), len(cast_by["Bob"])] == [40, 3]
    assert cast_by["Bob"][2].outcome == "both_bad"
    assert sum(v.check for v in cast_by["Ann"]) == 4
    assert all(0.1 < v.seconds < 60 for v in read_votes(votes))
    told = run_evalkit("vote", str(run), "--agreement", cwd=run.parent).stdout
    assert re.search(r"Ann +36 .* of 4", told)


def test_keys_that_are_no_votes(open_page: Any, run: Path, tmp_path: Path) -> None:
    file = tmp_path / "votes.csv"
    with server(run, "--file", str(file), "--cells", ",".join(CELLS[:2]), "--prompts", "1", "--repeats", "0") as (
        address,
        _,
    ):
        page = open_page(address)
        begin(page, "Left, right & <b>")  # letters that are keys
        wait(page, 0)
        for key in ("?", "ArrowLeft", "t"):
            page.keyboard.press(key)  # the help is open
        assert page.get_by_role("dialog").is_visible()
        page.keyboard.press("?")
        page.keyboard.press("Control+b")
        page.keyboard.press("x")
        page.wait_for_timeout(200)
        assert not file.exists()
        page.keyboard.down("ArrowRight")
        for _ in range(5):
            page.keyboard.down("ArrowRight")  # held down: one vote
        wait(page, 1)
        page.wait_for_timeout(200)
        assert len(read_votes(file)) == 1
        page.keyboard.up("ArrowRight")
        page.keyboard.press("ArrowRight")
        page.get_by_role("heading", name="Thank you: 2 votes.").wait_for()
        page.keyboard.press("u")
        wait(page, 1)


@pytest.mark.parametrize(("scheme", "width", "height"), [("light", 1280, 800), ("dark", 360, 640)])
def test_axe_and_the_size_of_the_screen(
    open_page: Any, run: Path, tmp_path: Path, scheme: str, width: int, height: int
) -> None:
    """No violation on any of its screens, and all of a vote fits on one, on a phone too."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="a development dependency").Axe()
    folder = tmp_path / "page"
    assert run_evalkit("vote", str(run), "--export", str(folder), "--votes", "1", cwd=tmp_path).returncode == 0
    page = open_page((folder / "index.html").as_uri(), width=width, height=height, color_scheme=scheme, bypass_csp=True)

    def check() -> None:
        found = axe.run(page, options={"resultTypes": ["violations"]}).response["violations"]
        assert [(each["id"], [node["target"] for node in each["nodes"]]) for each in found] == []
        sizes = "[document.documentElement.scrollWidth, document.documentElement.scrollHeight]"
        assert page.evaluate(sizes) == [width, height]

    check()
    begin(page, "Ann with a very long name, so long that it fits on no line")
    wait(page, 0)
    check()
    page.keyboard.press("?")
    check()
    page.keyboard.press("Escape")
    page.wait_for_timeout(200)
    page.keyboard.press("t")
    wait(page, 1)
    check()


def test_an_export_needs_no_server_and_its_votes_are_read_back(open_page: Any, run: Path, tmp_path: Path) -> None:
    folder, votes = tmp_path / "page", tmp_path / "votes.csv"
    told = run_evalkit("vote", str(run), "--export", str(folder), "--votes", "12", cwd=tmp_path).stdout
    assert "up to 12 votes per voter" in told
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert all(b"secret" not in path.read_bytes() for path in files)
    assert all(re.fullmatch(r"index\.html|[0-9a-f]{16}\.png", path.name) for path in files)
    page = open_page((folder / "index.html").as_uri(), accept_downloads=True)

    def download() -> Path:
        with page.expect_download() as download:
            page.get_by_role("button", name="Download votes").click()
        path = tmp_path / f"{len(list(tmp_path.glob('*.json')))}-{download.value.suggested_filename}"
        download.value.save_as(path)
        return path

    begin(page, "Eve")
    cast(page, 1, 6)
    page.keyboard.press("Backspace")
    wait(page, 5)
    page.reload()
    early = download()  # with an undone vote, which comes first
    assert early.name == f"0-votes-{json.loads(early.read_text())['export']}-Eve.json"
    cast(page, 6, 12)
    page.get_by_role("heading", name="Thank you: 12 votes.").wait_for()
    assert "One pair came twice, and you gave the same answer to" in page.locator("#same").inner_text()
    late = download()
    told = [
        run_evalkit("vote", str(run), "--import", str(file), "--file", str(votes), cwd=tmp_path).stdout
        for file in (early, early, late)
    ]
    assert [re.findall(r": (\d+) new lines|, (\d+) were there", line) for line in told] == [
        [("7", "")],
        [("0", ""), ("", "7")],
        [("7", ""), ("", "7")],
    ]
    cast_by = read_votes(votes)
    assert len(cast_by) == 12
    assert sum(v.check for v in cast_by) == 1
    images = json.loads(next((run / "votes_keys").glob(f"{json.loads(late.read_text())['export']}.json")).read_text())[
        "images"
    ]
    standing = [v for v in json.loads(late.read_text())["votes"] if v["outcome"] != "undo"]
    standing.pop(5)  # the one that was undone
    for vote, record in zip(standing, cast_by, strict=True):
        left, right = images[vote["left"]], images[vote["right"]]
        assert record.index == left[1] == right[1]
        assert {record.cell_a, record.cell_b} == {left[0], right[0]}
        chosen = {"left": left[0], "right": right[0]}.get(vote["outcome"])
        assert {"a": record.cell_a, "b": record.cell_b}.get(record.outcome) == chosen
        assert (record.cell_a if record.left == "a" else record.cell_b) == left[0]
