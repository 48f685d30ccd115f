"""The local page: all runs and samples, images from where they may be read, other hosts and other paths refused."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from command import ROOT, environment, run_evalkit
from many_runs import CELLS, N, write_runs
from PIL import Image

pytest.importorskip("starlette")
from starlette.testclient import TestClient

from evalkit.errors import EXIT_CONFIG
from evalkit.view.app import Viewer, key_of, make_app

NET = CELLS[0]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten runs; the images of week 8 are there: some PNGs, a TIFF, one in a zip, one outside, one behind a link."""
    store = write_runs(tmp_path_factory.mktemp("many") / "runs")
    outside, shard = store.parent / "outside.png", store / "samples" / NET
    shard.mkdir()
    Image.new("RGB", (6, 4), (200, 10, 10)).save(outside)
    for index in range(3):
        Image.new("RGB", (6, 4), (20 * index, 90, 200)).save(shard / f"{index:06d}.png")
    Image.new("RGB", (6, 4)).save(shard / "tiff.tif")
    with zipfile.ZipFile(shard / "00000.zip", "w") as archive:
        archive.write(shard / "000001.png", "000001.png")
    (shard / "link.png").symlink_to(outside)
    (shard / "text.png").write_text("no image")
    files = [shard / "000000.png", shard / "000001.png", Path("/elsewhere/samples") / NET / "000002.png"]
    files += [shard / "tiff.tif", shard / "00000.zip" / "000001.png", outside, shard / "link.png", shard / "text.png"]
    files += [Path("/etc/passwd"), Path("folder[3]")]
    lines = (store / "week08" / "samples.csv").read_text().splitlines()
    for number, file in enumerate(files):
        lines[1 + number] = lines[1 + number].replace(f"samples/{NET}/{number:06d}.png", str(file))
    (store / "week08" / "samples.csv").write_text("\n".join(lines) + "\n")
    (store / "week08" / "report.html").write_text("<title>the report</title>")
    (store / "week08" / "secret.txt").write_text("secret")
    return store


@pytest.fixture(scope="module")
def viewer(store: Path) -> Viewer:
    return Viewer(store)


@pytest.fixture(scope="module")
def client(viewer: Viewer) -> Iterator[Any]:
    with TestClient(make_app(viewer), base_url="http://127.0.0.1:8000") as client:
        yield client


@pytest.fixture(scope="module")
def run(viewer: Viewer) -> str:
    return f"/run/{key_of(viewer.registry().runs[0])}"


def test_runs_a_run_and_its_samples(client: Any, run: str) -> None:
    page = client.get("/").text
    assert page.count('<th scope="row"><a href="/run/') == 9
    assert "schema 99 is not known here" in page
    assert client.get("/?q=week03").text.count('<th scope="row">') == 1
    page = client.get(run).text
    assert f'href="{run}/cell/0"' in page
    assert f'href="{run}/folder/report.html"' in page
    assert f"{8:040x}" in page
    page = client.get(f"{run}/cell/0").text
    assert page.count("<img ") == 60 == N
    assert f"60 of {N} samples, page 1 of 1" in page
    page = client.get(f"{run}/sample/5").text
    assert page.count("<img ") == 2
    assert "prompt 5" in page


def test_filter_and_order(client: Any, run: str) -> None:
    page = client.get(f"{run}/cell/0", params={"q": "prompt 5"}).text
    assert "15 of 60 samples" in page  # words: 5, 15 ... 45, and 50 to 59
    scores = [
        [float(text) for text in re.findall(r"CLIP score (\d+\.\d+)", client.get(f"{run}/cell/0?sort={sort}").text)]
        for sort in ("clip_score", "-clip_score")
    ]
    assert scores[0] == sorted(scores[0])
    assert scores[1] == scores[0][::-1]
    assert client.get(f"{run}/cell/0?page=99").status_code == 200
    assert client.get(f"{run}/cell/0?page=x").status_code == 404


@pytest.mark.parametrize(("index", "kind"), [(0, "png"), (1, "png"), (2, "png"), (3, "png"), (4, "png")])
def test_images_in_full_size(index: int, kind: str, client: Any, run: str, tmp_path: Path) -> None:
    """A file, one whose store was moved, a kind that browsers do not show, one in a zip."""
    answer = client.get(f"{run}/image/0/{index}")
    assert (answer.status_code, answer.headers["content-type"]) == (200, f"image/{kind}")
    (tmp_path / "image").write_bytes(answer.content)
    assert Image.open(tmp_path / "image").size == (6, 4)
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    ("index", "why"),
    [(5, "outside of the folders"), (6, "outside of the folders"), (7, "image"), (8, "outside"), (9, "no such file")],
)
def test_what_is_not_shown(index: int, why: str, client: Any, run: str) -> None:
    """An image elsewhere, also behind a link; a text; /etc/passwd; an image without a file of its own."""
    answer = client.get(f"{run}/image/0/{index}")
    assert answer.status_code == 404
    assert why in answer.text
    assert "root:" not in answer.text


def test_also_shows_another_folder(store: Path, run: str) -> None:
    client = TestClient(make_app(Viewer(store, [store.parent])), base_url="http://localhost:1")
    assert client.get(f"{run}/image/0/5").status_code == 200
    assert client.get(f"{run}/image/0/8").status_code == 404


@pytest.mark.parametrize(
    "path",
    [
        *(
            "../../../etc/passwd",
            "..%2f..%2fweek07%2freport.html",
            "%2fetc%2fpasswd",
            "....//report.html",
            "secret.txt",
        ),
        *("results.json", "%00", "../week08/secret.txt", "."),
    ],
)
def test_no_path_leads_out(path: str, client: Any, run: str) -> None:
    assert client.get(f"{run}/folder/{path}").status_code == 404


def test_the_report_is_served_under_its_own_policy(client: Any, run: str) -> None:
    answer = client.get(f"{run}/folder/report.html")
    assert answer.text == "<title>the report</title>"
    assert "default-src 'none'" in answer.headers["content-security-policy"]


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "169.254.169.254", ""])
def test_other_hosts_are_refused(host: str, client: Any) -> None:
    assert client.get("/", headers={"Host": host}).status_code == 400
    assert client.get("/", headers={"Host": "localhost:8000"}).status_code == 200


def test_read_only_and_for_itself_alone(client: Any, run: str) -> None:
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        assert client.request(method, "/").status_code == 405
    cross = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}
    assert client.get(f"{run}/image/0/0", headers=cross).status_code == 403
    assert client.get("/", headers={"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}).status_code == 200
    policy = client.get("/").headers["content-security-policy"]
    assert "script-src" not in policy
    assert policy.startswith("default-src 'none'")
    assert "<script" not in client.get(run).text


@pytest.mark.parametrize("path", ["/run/000000000000", "/run/x/cell/0", "/nothing", "{run}/cell/9", "{run}/sample/99"])
def test_what_is_not_there(path: str, client: Any, run: str) -> None:
    assert client.get(path.format(run=run)).status_code == 404


def test_a_run_without_samples(client: Any, viewer: Viewer, store: Path) -> None:
    (store / "week00" / "samples.csv").unlink()
    address = f"/run/{key_of(viewer.registry().runs[-1])}"
    assert "There is no samples.csv" in client.get(address).text
    assert client.get(f"{address}/cell/0").status_code == 404


def test_the_command_serves_on_this_machine_and_ends_at_a_signal(store: Path) -> None:
    command = [sys.executable, str(ROOT / "run_eval.py"), "view", str(store)]
    before = sorted(store.rglob("*"))
    with subprocess.Popen(
        command, env=environment(), stdout=subprocess.PIPE, text=True, stderr=subprocess.DEVNULL
    ) as it:
        try:
            assert it.stdout is not None
            address = it.stdout.readline().split()[0]
            assert address.startswith("http://127.0.0.1:")
            assert httpx.get(address, trust_env=False).status_code == 200
            assert httpx.get(address, headers={"Host": "evil.example"}, trust_env=False).status_code == 400
            assert sorted(store.rglob("*")) == before  # it writes nothing
        finally:
            it.send_signal(signal.SIGINT)
        assert it.wait(20) == 0


def test_wrong_words(tmp_path: Path) -> None:
    assert run_evalkit("view", "gone", cwd=tmp_path).returncode == EXIT_CONFIG
    assert run_evalkit("view", ".", "--also", "gone", cwd=tmp_path).returncode == EXIT_CONFIG
