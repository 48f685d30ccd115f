"""The recipe `experiment=serving`: a sweep of loads against a server that sheds some, to the table, gate and report."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
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
            *("metric=[clip_score_digits]", "~reference", f"model.openai_images.base_url={server.url}/v1"),
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
    for key in (("concurrency", 1), ("rate", 60)):  # the load changes no image
        loads = {row.value for row in table.rows if row.metric == "clip_score_digits" and key[0] in row.settings}
        assert len(loads) == 1
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
