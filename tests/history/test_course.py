"""A metric over runs: protocols apart, each step against the run before, a plot that shows what the numbers say."""

from __future__ import annotations

import json
from xml.etree import ElementTree

import pytest
from many_runs import CELLS, clip_scores, write_runs

from evalkit.errors import ConfigError
from evalkit.history.course import follow
from evalkit.history.plot import text_plot, to_svg
from evalkit.history.registry import Registry
from evalkit.history.text import print_course

NET, GAN = CELLS


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    return Registry.read(write_runs(tmp_path_factory.mktemp("many") / "runs"))


def test_steps_and_the_one_that_is_real(registry: Registry) -> None:
    course = follow(registry, "clip_score", match="net")
    (series,) = course.series
    assert series.name == NET
    assert [point.run.name for point in series.points] == [f"week{week:02d}" for week in range(9)]
    verdicts = [point.verdict for point in series.points]
    assert verdicts == ["", *["not distinguishable"] * 5, "worse", *["not distinguishable"] * 2]
    step = series.points[6].step
    assert step is not None
    assert step.paired
    assert step.value == pytest.approx((sum(clip_scores(6, NET)) - sum(clip_scores(5, NET))) / 60, abs=1e-4)
    assert series.points[6].arrow == "↓"
    assert series.points[6].p_holm == pytest.approx((step.p or 0) * 8)


def test_protocols_stand_apart_the_newest_first(registry: Registry) -> None:
    course = follow(registry, "fid")
    groups = list(course.by_protocol.values())
    assert [[each.name for each in group] for group in groups] == [[GAN, NET], [GAN, NET]]
    assert [[point.run.name for point in group[0].points] for group in groups] == [
        [f"week{week:02d}" for week in range(5, 9)],
        [f"week{week:02d}" for week in range(5)],
    ]
    assert groups[0][0].points[0].step is None  # nothing of its protocol came before


def test_by_model_takes_the_best_cell_and_last_cuts(registry: Registry) -> None:
    course = follow(registry, "fid", by="model", last=2)
    assert [each.name for each in course.series] == ["gan", "net", "gan", "net"]
    assert all(len(each.points) == 2 for each in course.series)
    assert course.series[0].points[0].step is not None  # the run before is not shown, and still known
    with pytest.raises(ConfigError, match="give cell or model"):
        follow(registry, "fid", by="sampler")
    with pytest.raises(ConfigError, match=r"no metric|has a metric 'fidd'\. Did you mean 'fid'"):
        follow(registry, "fidd")
    with pytest.raises(ConfigError, match="has 'nett' in its name"):
        follow(registry, "fid", match="nett")


def test_the_plot_of_text(registry: Registry) -> None:
    (series,) = follow(registry, "clip_score", match="net").series
    lines = text_plot([series], 100)
    assert all(len(line) <= 100 for line in lines)
    columns = [next(i for i, line in enumerate(lines) if len(line) > x and line[x] == "●") for x in range(14, 68, 6)]
    assert max(columns[:6]) < min(columns[6:])  # higher before week 6 than from then on
    assert lines[-1].split() == ["2025-11-24", "2026-03-01"]
    both = text_plot(follow(registry, "clip_score").series, 30)  # narrow: the newest runs alone
    assert max(map(len, both)) <= 30
    assert sum(line.count("B") for line in both) == 9
    assert len(text_plot([series], 12)) == len(lines)


def test_the_svg_stands_by_itself(registry: Registry) -> None:
    course = follow(registry, "fid")
    text = to_svg(course)
    root = ElementTree.fromstring(text)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert text.count("protocol ") >= 2
    assert "week08" in text
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")


def test_what_is_printed_and_the_json(registry: Registry, capsys: pytest.CaptureFixture[str]) -> None:
    print_course(follow(registry, "fid"), 1)
    printed = capsys.readouterr().out
    assert "(the first 1 of 2 series; --match chooses)" in printed
    assert "reference.n is 500, not 1000" in printed
    data = json.loads(json.dumps(follow(registry, "clip_score", match="net").to_json()))
    (series,) = data["series"]
    assert series["points"][0]["step"] is None
    assert series["points"][6]["step"]["verdict"] == "worse"
