"""The mean of a judge's scores: by hand, with repeats, through the pass, the table's note and the dry run."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from fakes import MemorySource
from golden import SHIPPED, Golden
from options import option

from evalkit.config.build import build
from evalkit.digits.data import reference_images
from evalkit.digits.judge import judge
from evalkit.extractors.base import Extractor
from evalkit.extractors.judge import Judge
from evalkit.judges.asker import Answer, FunctionAsker
from evalkit.metric import Batch, Score
from evalkit.metrics.judge_mean import JudgeMean
from evalkit.samples.store import Store
from evalkit.scoring import Against, score_sources
from evalkit.scoring.scoring import Scored


def batch(scores: list[list[float]], calls: list[list[float]], texts: list[str]) -> Batch:
    repeats = torch.tensor(scores, dtype=torch.float32)
    features = {
        "judge/score": repeats.mean(1, keepdim=True),
        "judge/repeats": repeats,
        "judge/calls": torch.tensor(calls),
    }
    return Batch(None, torch.arange(len(scores)), len(scores), texts, features)


def test_by_hand() -> None:
    """Two prompts of two samples, two repeats. Means 1, 3, 2, 6 -> 3; the samples' own variances 2, 0, 2, 0 of two
    repeats: 1 / 2 / 4 of the mean's. By prompt the sums of deviations are -2 and 2: a standard error of 1."""
    metric = JudgeMean()
    state = metric.observe(
        batch([[0, 2], [3, 3], [1, 3], [6, 6]], [[2, 0, 20, 2], [3, 1, 30, 3]] * 2, ["a", "a", "b", "b"])
    )
    score = metric.score(generated=state)
    assert score.value == 3
    assert score.stderr == pytest.approx(1)
    assert score.influence == (1, 3, 2, 6)
    assert score.details == {
        **{"calls": 10, "unread": 2, "sent": 100, "received": 10},
        "judge_variance_share": pytest.approx(0.125),
        "judge_repeats_enough": 3,  # 1/4/k of 7/8 + 1/4/k is at most a tenth from k = 18/7 on
    }
    assert score.note == "2 answers could not be read, and count the lowest value"


def scored(folder: Path, extractor: Extractor, name: str, prompts: list[str], images: list[np.ndarray]) -> Scored:
    """A metric's score as a run computes it."""
    values = option("metric", name)
    metric = build(values)
    extractor.keep_in(Store(folder).answers)
    extractor.check()
    source = MemorySource(np.stack(images), prompts)
    given = {"metrics": {name: (values, metric)}, "extractors": {extractor.name: extractor}}
    return next(iter(score_sources({"a": source}, **given, against=Against(), store=Store(folder)).values()))


def test_golden(golden: Golden, tmp_path: Path) -> None:
    """VQAScore by the digits' truth is the classifier's probability where the colours are right, else 0; VIEScore of
    rated images by hand; all through the pass and the store."""
    pixels, captions = reference_images()
    images, texts = [image.transpose(1, 2, 0) for image in pixels[:20]], [caption.text for caption in captions[:20]]
    texts[0], texts[1] = texts[1], texts[0]
    truth: Extractor = build(option("extractor", "judge_digits"))
    seen = judge(np.ascontiguousarray(pixels[:20]))
    right = [c.digit == d for c, d in zip(captions, seen.digit, strict=False)]
    expected = [float(p) if ok else 0.0 for p, ok in zip(seen.confidence, right, strict=True)]
    expected[:2] = 0.0, 0.0  # another's caption
    assert sum(value > 0.5 for value in expected) >= 16
    result = scored(tmp_path, truth, "vqa_judge_digits", texts, images)
    source = "evalkit.digits.judge: the classifier's probability x the colour rule, 20 digits"
    golden("vqa_judge_digits", result.score.value, math.fsum(expected) / 20, source=source, abs=2e-3, weights=SHIPPED)
    assert result.label == "VQAScore [judge_digits:truth]"
    assert result.protocol["features"]["judge_digits/score"]["template"]

    answers = iter([9.0, 4, 1, 1] * 10)
    says = FunctionAsker(lambda shown, text, repeat: rated(text, next(answers)), "rates")
    for name, layer, value in (("viescore", "score", 3.5), ("viescore_sc", "sc", 5.0), ("viescore_pq", "pq", 2.5)):
        rates = Judge(says, "viescore", "{prompt}", name="judge_viescore")
        result = scored(tmp_path, rates, name, texts, images)
        golden(name, result.score.value, value, source=f"by hand: half (9, 4), half (1, 1); {layer}", abs=1e-6)
    for name in ("vqa_judge", "judge"):
        half = FunctionAsker(lambda shown, text, repeat: Answer("x", {"Yes": math.log(0.25)}), "half")
        result = scored(tmp_path, Judge(half, "yes_probability", "Is it {prompt}?"), name, texts, images)
        golden(name, result.score.value, 0.25, source="by hand: the first token is Yes with 0.25", abs=1e-6)


def rated(text: str, value: float) -> str:
    return f'{{"score": [{value}]}}' if "Text:" in text else f'{{"score": [10, {value}]}}'


def test_only_the_score_has_the_judges_share() -> None:
    metric = JudgeMean(layer="sc")
    features = {"judge/sc": torch.ones(2, 1), "judge/repeats": torch.rand(2, 3), "judge/calls": torch.zeros(2, 4)}
    score: Score = metric.score(generated=metric.observe(Batch(None, torch.arange(2), 2, ["a", "b"], features)))
    assert "judge_variance_share" not in score.details
