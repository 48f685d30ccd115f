"""Scores of benchmarks on cases worked by hand: combinations, means over images, questions and categories, headings."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from evalkit.errors import ConfigError
from evalkit.judges.graph import COMBINE
from evalkit.judges.questions import Question, with_parents
from evalkit.judges.score import BenchmarkScore, linear
from evalkit.metric import Batch, Score, standard_error
from evalkit.results.seeds import pool_scores
from evalkit.scoring.cache import ScoreCache

ROWS = """prompt,n,skill,kind
a,1,count,one
a,2,object,one
b,1,object,two
"""


@pytest.fixture
def benchmark(tmp_path: Path) -> dict[str, Any]:
    """Two prompts: "a" with two questions in category one, "b" with one in category two."""
    (tmp_path / "b.csv").write_text(ROWS)
    questions = {"text": "{n}?", "id": "n", "tags": {"skill": "skill"}}
    return {"path": str(tmp_path / "b.csv"), "questions": questions, "id": "prompt", "category": "kind", "title": "B"}


def scored(benchmark: dict[str, Any], answers: list[list[float]], prompts: list[str], **options: Any) -> Score:
    metric = BenchmarkScore(benchmark, "judge/answers", **options)
    features = torch.tensor([[*row, math.nan][:2] for row in answers], dtype=torch.float32)
    batch = Batch(None, torch.arange(len(prompts)), len(prompts), prompts, {"judge/answers": features})
    halves = [slice(0, 2), slice(2, None)]  # states merge
    parts = [
        Batch(None, batch.index[h], len(prompts), prompts[h], {"judge/answers": features[h]})
        for h in halves
        if prompts[h]
    ]
    state = metric.observe(parts[0])
    for part in parts[1:]:
        state = state + metric.observe(part)
    return metric.score(generated=state)


def test_combinations_of_one_image_by_hand() -> None:
    answers, equal = [0.9, 0.4], [1.0, 1.0]
    assert {name: round(rule(answers, equal), 12) for name, rule in COMBINE.items()} == {
        "mean": 0.65,  # Soft-TIFA AM
        "geometric": 0.6,  # Soft-TIFA GM: sqrt(0.9 * 0.4)
        "product": 0.36,
        "min": 0.4,
        "all": 0.0,
    }
    assert COMBINE["geometric"]([4.0, 9.0], equal) == pytest.approx(6.0)  # sqrt(SC * PQ)
    assert COMBINE["geometric"]([0.0, 1.0], equal) == 0.0
    assert COMBINE["all"]([1.0, 1.0], equal) == 1.0
    assert COMBINE["mean"]([2.0, 1.0, 0.0], [0.7, 0.2, 0.1]) / 2 == pytest.approx(0.8)  # WiScore of 2025


def test_dpgs_graph_by_hand() -> None:
    """Entity, its colour, a relation of the coloured one, and a global: a no to the first leaves the last alone."""
    chain = [("1", ()), ("2", ("1",)), ("3", ("2",)), ("4", ())]
    questions = [Question(name, "?", parents=parents) for name, parents in chain]
    score = COMBINE["mean"](with_parents(questions, [0.0, 1.0, 1.0, 1.0]), [1.0] * 4)
    assert score == 0.25  # not 0.75: 2 falls with 1, and 3 with 2, whatever was answered
    assert COMBINE["mean"](with_parents(questions, [1.0, 0.0, 1.0, 1.0]), [1.0] * 4) == 0.5


def test_a_score_is_the_mean_over_images_with_an_error_by_prompt(benchmark: dict[str, Any]) -> None:
    prompts = ["a", "b", "a", "b"]
    score = scored(benchmark, [[1, 0], [1], [1, 1], [0]], prompts, factor=100)
    assert score.value == pytest.approx((50 + 100 + 100 + 0) / 4)
    assert score.clusters == 2
    assert score.stderr == pytest.approx(standard_error([50.0, 100.0, 100.0, 0.0], [1, 2, 1, 2]))
    assert score.influence == (50.0, 100.0, 100.0, 0.0)
    assert score.headings["one"] == (50.0, None, 100.0, None)
    assert score.headings["skill: count"] == (100.0, None, 100.0, None)
    means = {name: np.mean([v for v in each if v is not None]) for name, each in score.headings.items()}
    assert means == {"one": 75.0, "two": 50.0, "skill: count": 100.0, "skill: object": 50.0}  # (0 + 1 + 1 + 0) / 4


def test_a_mean_over_questions_and_over_categories_by_hand(benchmark: dict[str, Any]) -> None:
    answers, prompts = [[1.0, 0.0], [1.0], [1.0, 1.0]], ["a", "b", "a"]
    by_question = scored(benchmark, answers, prompts, count="questions")
    assert by_question.value == pytest.approx(4 / 5)  # four of five answers
    assert scored(benchmark, answers, prompts).value == pytest.approx((0.5 + 1 + 1) / 3)
    by_category = scored(benchmark, answers, prompts, overall="categories")
    assert by_category.value == pytest.approx((0.75 + 1) / 2)
    assert np.mean(by_category.influence) == pytest.approx(by_category.value)


def test_the_error_of_a_mean_over_questions_is_that_of_a_ratio() -> None:
    """Against the spread of 4,000 draws of 200 images with one to four answers each."""
    draws = np.random.default_rng(0)
    counts = draws.integers(1, 5, (4000, 200))
    right = draws.binomial(counts, np.where(counts > 2, 0.3, 0.7))
    ratios = right.sum(1) / counts.sum(1)
    parts = linear(dict(enumerate((right[0] / counts[0]).tolist())), dict(enumerate(counts[0].tolist())))
    assert np.mean(list(parts.values())) == pytest.approx(ratios[0])
    assert standard_error(list(parts.values())) == pytest.approx(ratios.std(), rel=0.15)


def test_only_some_questions_count(benchmark: dict[str, Any]) -> None:
    score = scored(benchmark, [[0.25, 1.0], [0.5]], ["a", "b"], only=["1"], combine="geometric")
    assert score.value == pytest.approx((0.25 + 0.5) / 2)
    assert "skill: count" not in score.headings  # tags of questions are means of answers
    with pytest.raises(ConfigError, match="no question '3'"):
        BenchmarkScore(benchmark, "judge/answers", only=["3"])
    with pytest.raises(ConfigError, match="combine=gm"):
        BenchmarkScore(benchmark, "judge/answers", combine="gm")


def test_other_prompts_have_no_score_and_the_protocol_knows_the_questions(
    benchmark: dict[str, Any], tmp_path: Path
) -> None:
    score = scored(benchmark, [[1.0, 1.0], [1.0]], ["a", "something else"])
    assert (score.value, score.note) == (None, "the prompts of 1 of 2 samples are none of the benchmark's")
    before = BenchmarkScore(benchmark, "judge/answers").constants()
    (tmp_path / "b.csv").write_text(ROWS.replace("count", "number"))
    after = BenchmarkScore(benchmark, "judge/answers").constants()
    assert before["benchmark_sha256"] != after["benchmark_sha256"]


def test_headings_are_cached_and_seeds_are_pooled_sample_by_sample(benchmark: dict[str, Any], tmp_path: Path) -> None:
    prompts = ["a", "b", "a"]
    scores = [scored(benchmark, answers, prompts) for answers in ([[1, 0], [1], [1, 1]], [[0, 0], [1], [1, 0]])]
    cache = ScoreCache(tmp_path)
    cache.keep({"of": 1}, scores[0])
    assert cache.find({"of": 1}) == scores[0]

    ids = [[1, 2, 1]] * 2
    together = pool_scores(scores, ids, [1, 2, 1] * 2, raw=True)
    assert together.headings["one"] == (0.5, None, 1.0, 0.0, None, 0.5)
    assert together.headings["skill: count"] == (1.0, None, 1.0, 0.0, None, 1.0)
    assert together.value == pytest.approx(np.mean([0.5, 1, 1, 0, 1, 0.5]))
