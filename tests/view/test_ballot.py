"""The voting page's application: blind, resumable, idempotent, for its own page alone; votes are never lost."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from command import run_evalkit
from PIL import Image
from votes_run import CELLS, EQUAL, OTHER, N, write_votes_run

pytest.importorskip("starlette")
from starlette.testclient import TestClient

from evalkit.errors import EXIT_CONFIG, ConfigError, DataError
from evalkit.history.registry import find_run
from evalkit.view import ballot as ballots
from evalkit.view.ballot import Ballot, Choice
from evalkit.view.voting import MAX_BODY, make_voting_app
from evalkit.votes.records import read_lines, read_votes

HERE = "http://127.0.0.1:8000"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_votes_run(tmp_path_factory.mktemp("votes") / "runs").parent


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "votes.csv"


def open_ballot(store: Path, file: Path, **choice: Any) -> Ballot:
    return Ballot(find_run(str(store / "voted")), Choice(**choice), file=file)


@pytest.fixture
def client(store: Path, file: Path) -> Iterator[Any]:
    with TestClient(make_voting_app(open_ballot(store, file)), base_url=HERE) as client:
        yield client


def state(client: Any, voter: str = "Ann") -> dict[str, Any]:
    return client.get("/state", params={"voter": voter}).json()  # type: ignore[no-any-return]


def vote(client: Any, outcome: str = "left", voter: str = "Ann", item: str | None = None, **more: Any) -> Any:
    item = item or state(client, voter)["item"]["id"]
    return client.post("/vote", json={"voter": voter, "item": item, "outcome": outcome, "seconds": 1.5, **more})


def test_nothing_tells_which_cell_is_which(client: Any) -> None:
    """Not the page, nor a voter's state, an image's address or what its file holds; a check is not told either."""
    for number in range(12):
        now = client.get("/state", params={"voter": "Ann"})
        for text in (client.get("/").text, now.text, str(now.headers)):
            assert "secret" not in text
        assert set(now.json()["item"]) == {"id", "prompt", "left", "right"}
        for side in ("left", "right"):
            data = client.get(now.json()["item"][side]).content
            assert b"secret" not in data
            assert Image.open(io.BytesIO(data)).info == {}
        vote(client, item=now.json()["item"]["id"], outcome=("left", "tie")[number % 2])
    addresses = [state(client, voter)["item"][side] for voter in ("Ann", "Bob") for side in ("left", "right")]
    assert len(set(addresses)) == 4


def test_votes_say_what_was_seen(client: Any, file: Path, store: Path) -> None:
    """The image at the side that was chosen is the one of the cell in the record."""
    for outcome in ("left", "right", "tie", "both_bad") * 5:
        item = state(client)["item"]
        shown = {side: Image.open(io.BytesIO(client.get(item[side]).content)).tobytes() for side in ("left", "right")}
        assert vote(client, outcome, item=item["id"]).json()["done"] > 0
        record = read_votes(file)[-1]
        cells = {"a": record.cell_a, "b": record.cell_b}
        left = cells.pop(record.left)
        for side, cell in (("left", left), ("right", *cells.values())):
            with Image.open(store / "samples" / cell / f"{record.index:06d}.png") as image:
                assert image.tobytes() == shown[side]
        assert record.outcome == {"left": record.left, "right": {"a": "b", "b": "a"}[record.left]}.get(outcome, outcome)
        assert (record.voter, record.seconds, record.prompt) == ("Ann", 1.5, item["prompt"])


def test_it_goes_on_after_a_restart_and_twice_sent_is_once(client: Any, file: Path, store: Path) -> None:
    first = state(client)["item"]["id"]
    assert vote(client).json()["done"] == 1
    assert vote(client, item=first).json()["done"] == 1  # a key pressed twice, or an answer that was lost
    now = state(client)["item"]
    again = TestClient(make_voting_app(open_ballot(store, file)), base_url=HERE)
    assert state(again)["item"]["id"] == now["id"]  # a page that was open votes on
    assert state(again)["item"]["left"] != now["left"]
    assert state(again, "Bob")["done"] == 0
    assert state(again, "Bob")["item"]["id"] != now["id"]
    assert again.get(now["left"]).status_code == 404


def test_undo(client: Any, file: Path) -> None:
    assert not state(client)["undo"]
    items = []
    for _ in range(3):
        items.append(state(client)["item"]["id"])
        vote(client)
    vote(client, voter="Bob")
    for done in (3, 3, 2):  # the second was sent twice
        answer = client.post("/undo", json={"voter": "Ann", "done": done}).json()
    assert answer["item"]["id"] == items[1]
    assert [(line.voter, line.outcome == "undo") for line in read_lines(file)] == [
        *[("Ann", False)] * 3,
        ("Bob", False),
        *[("Ann", True)] * 2,
    ]
    assert vote(client, "right").json()["done"] == 2
    assert [v.voter for v in read_votes(file)] == ["Ann", "Bob", "Ann"]


def test_to_the_end(store: Path, file: Path) -> None:
    """All items of two cells, each once; equal images never; those that came again are counted."""
    client = TestClient(make_voting_app(open_ballot(store, file, cells=CELLS[:2], repeats=0.2)), base_url=HERE)
    now = state(client)
    while now["item"]:
        now = vote(client, item=now["item"]["id"]).json()
    votes = read_votes(file)
    assert sorted(v.index for v in votes if not v.check) == [i for i in range(N) if i != EQUAL]
    checks = sum(v.check for v in votes)
    assert checks == 5
    assert now["repeated"] == {
        "same": 0,
        "of": checks,
    }  # always the left one: the other cell, once the sides are swapped
    assert now["done"] == now["of"] == len(votes)
    assert vote(client, item="x").json()["done"] == len(votes)


def test_choice(store: Path, file: Path, tmp_path: Path) -> None:
    ballot = open_ballot(store, file, prompts=3, votes=7)
    assert len(set(ballot.prompts.values())) == 3
    assert len(ballot.prompts) == 6  # with all of their samples
    assert len(ballot.pairs) == 3  # OTHER has another seed
    assert ballot.state("Ann")["of"] == 7
    with pytest.raises(ConfigError, match=r"--cells secret_gann: no such cell. Did you mean 'secret_gan'\?"):
        open_ballot(store, file, cells=("secret_gann",))
    with pytest.raises(ConfigError, match="same prompt and seed"):
        open_ballot(store, file, cells=(CELLS[0], OTHER))
    moved = tmp_path / "elsewhere" / "voted"
    moved.mkdir(parents=True)
    for name in ("results.json", "samples.csv"):
        (moved / name).write_bytes((store / "voted" / name).read_bytes())
    with pytest.raises(ConfigError, match=r"nothing to vote on: .*--also FOLDER"):
        Ballot(find_run(str(moved)))
    assert Ballot(find_run(str(moved)), also=[store]).state("Ann")["item"]
    for words in (["gone"], ["voted", "--export", "x", "--agreement"], ["voted", "--also", "gone"], ["s3://b/voted"]):
        assert run_evalkit("vote", *words, "--store", str(store), cwd=tmp_path).returncode == EXIT_CONFIG


def test_a_full_disk_is_told_and_the_item_stays(client: Any, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    really = os.write

    def full(handle: int, data: Any) -> int:
        really(handle, bytes(data)[:30])
        raise OSError(28, os.strerror(28))

    vote(client)
    before = state(client)["item"]["id"]
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        answer = vote(client)
    assert answer.status_code == 507
    assert "No space left" in answer.json()["error"]
    assert state(client)["item"]["id"] == before
    assert vote(client, "tie").json()["done"] == 2
    assert len(file.read_bytes().splitlines()) == 4  # what was half-written is still there
    assert [v.outcome == "tie" for v in read_votes(file)] == [False, True]


def test_votes_come_from_its_own_page_alone(client: Any, file: Path) -> None:
    body = {"voter": "Ann", "item": state(client)["item"]["id"], "outcome": "left", "seconds": 1}
    text = json.dumps(body)
    refused = [
        {"Content-Type": "text/plain"},  # what a form may send
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "application/json", "Origin": "http://evil.example"},
        {"Content-Type": "application/json", "Origin": "null"},
        {"Content-Type": "application/json", "Origin": "http://127.0.0.1:9999"},
        {"Content-Type": "application/json", "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "cors"},
        {"Content-Type": "application/json", "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"},
    ]
    for headers in refused:
        assert client.post("/vote", content=text, headers=headers).status_code == 403
    assert client.post("/vote", json=body, headers={"Host": "evil.example"}).status_code == 400
    for method, path in (("GET", "/vote"), ("PUT", "/vote"), ("POST", "/"), ("DELETE", "/undo")):
        assert client.request(method, path).status_code == 405
    assert not file.exists()
    policy = client.get("/").headers["content-security-policy"]
    assert "default-src 'none'; script-src 'sha256-" in policy
    assert client.post("/vote", json=body, headers={"Origin": HERE}).json()["done"] == 1


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"[]", b"{", b'{"voter": NaN}', b"[" * 5000, b"x" * (MAX_BODY + 1)),
        *({"voter": ""}, {"voter": 3}, {"voter": "\u202e\n"}, {"voter": "x" * 61}),
        *({"outcome": "a"}, {"outcome": "undo"}, {"outcome": None}),
        *({"seconds": "1"}, {"seconds": True}, {"seconds": None}, {"item": 5}),
    ],
)
def test_wrong_bodies_are_refused(body: bytes | dict[str, Any], client: Any, file: Path) -> None:
    if isinstance(body, dict):
        body = json.dumps({"voter": "Ann", "item": "x", "outcome": "left", "seconds": 1, **body}).encode()
    answer = client.post("/vote", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400
    assert answer.json()["error"]
    assert not file.exists()


def test_names_and_times_are_tidied(client: Any, file: Path) -> None:
    assert vote(client, voter="  Ann \t Lee ", seconds=-3).json()["voter"] == "Ann Lee"
    vote(client, voter="Ann Lee", seconds=10**400)  # more than a float holds
    assert [(v.voter, v.seconds) for v in read_votes(file)] == [("Ann Lee", 0.0), ("Ann Lee", 86400.0)]


def test_a_run_without_samples(store: Path, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ballots, "samples_of", lambda run: "There is no samples.csv.")
    with pytest.raises(DataError, match=r"no samples\.csv"):
        open_ballot(store, file)
