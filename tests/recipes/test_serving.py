"""The recipe `experiment=serving`: a sweep of loads against a server that sheds some, to the table, gate and report."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command import ROOT
from queue_server import queueing, real_digits
from service_calls import reach_the_loopback

from evalkit import pipeline
from evalkit.config.compose import compose, resolve
from evalkit.plan.plan import make_plan
from evalkit.results.table import ResultTable


def test_the_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reach_the_loopback(monkeypatch)
    with queueing(seconds=0.03, places=3, draw=real_digits()) as server:
        overrides = [
            *("experiment=serving", f"store={tmp_path / 'runs'}", "device=cpu", "num_samples=24", "contact_sheet=4"),
            *(
                "metric=[psnr]",
                "baseline={concurrency: 1}",
                "~reference",
                f"model.openai_images.base_url={server.url}/v1",
            ),
            "model.openai_images.load.sweep=[{concurrency: 1}, {concurrency: 2}, {rate: 60}, {rate: 20}]",
            "model.openai_images.client={backoff: 0.02, max_backoff: 0.1, retries: 40}",
            "+gate.serving.rules=[{metric: latency_p99, max: 30000, where: {rate: 60}},"
            "{metric: latency_p99, max: 1, where: {rate: 60}},"
            "{metric: request_errors, max: 0, where: {concurrency: [1, 2]}}]",
        ]
        table = pipeline.run(make_plan(resolve(compose(overrides))))
        assert len(server.came) == 4 * 24 + server.turned_away
    rows = {(row.metric, row.settings.get("concurrency"), row.settings.get("rate")): row for row in table.rows}
    assert rows["images_per_second", 1, None].value <= 1 / 0.03  # type: ignore[operator]
    assert rows["latency_p50", 1, None].value >= 30  # type: ignore[operator]
    assert rows["request_errors", 1, None].value == rows["request_errors", 2, None].value == 0
    assert rows["request_errors", None, 60].value > 0  # type: ignore[operator]
    pairs = [row for row in table.rows if row.metric == "psnr" and row.settings.get("concurrency") != 1]
    assert [row.value for row in pairs] == [100] * 3, pairs  # its cap: the load changes no image
    assert [finding for finding in table.lint if finding["kind"] == "same_images"] == []
    assert any("requests failed under load (503: " in note for note in table.notes)
    assert table.gate is not None
    assert [result["status"] for result in table.gate["results"]] == ["pass", "fail", "pass", "pass"]
    _look_at_the_report(tmp_path, table)


def _look_at_the_report(folder: Path, table: ResultTable) -> None:
    page = next(folder.rglob("report.html")).read_text("utf-8")
    assert "Latency against throughput" in page
    figure = page[page.index("Latency against throughput") :]
    figure = figure[: figure.index("</figure>")]
    assert len(re.findall("<title>", figure)) == 4 * 3  # a mark per load and percentile
    for text in ("p50", "p90", "p99"):
        assert f"by rate: latency {text} [ms]" in page


@pytest.mark.slow
def test_a_run_that_is_killed_under_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """kill -9 in the middle: the same command asks for what is missing alone, and says that there were two parts."""
    reach_the_loopback(monkeypatch)
    with queueing(seconds=0.2, workers=2, draw=real_digits()) as server:
        command = [
            *(sys.executable, str(ROOT / "run_eval.py"), "experiment=serving", "num_samples=60", "device=cpu"),
            *("metric=[clip_score_digits]", "~reference", "report=false", "name=killed"),
            *(f"model.openai_images.base_url={server.url}/v1", "model.openai_images.load.sweep=[{concurrency: 2}]"),
        ]
        with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as running:
            while len(server.came) < 30:
                assert running.poll() is None
                time.sleep(0.05)
            running.kill()
        time.sleep(1)
        first = len(server.came)
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    assert 60 <= len(server.came) <= 64  # what was under way, and what was not written yet, is asked for again
    table = ResultTable.load(tmp_path / "runs" / "killed" / "results.json")
    assert any(
        note.endswith("measured in 2 parts: an earlier run was broken off, or the set grew.") for note in table.notes
    )
    requests = {row.metric: row.n for row in table.rows}["latency_p99"]
    assert requests == 60 - 2 * 4  # of each part the warm-up is left out
    assert first < 60
