"""Histograms of classes: by hand, by simulation, and of a set that lacks a class."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from golden import Golden, peer
from options import metric_of, score_of

from evalkit.metric import Batch, standard_error
from evalkit.metrics.class_histogram import ClassHistogram, CollapsedClasses, entropy
from evalkit.numerics.binomial import mean_deviations


def logits(*counts: int) -> torch.Tensor:
    """So many samples of each class, f32 [N,C]."""
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    return torch.nn.functional.one_hot(labels, len(counts)).float()


def test_by_hand(golden: Golden) -> None:
    """Of 4 classes 10, 10, 0, 0 made where 5, 5, 5, 5 are in the reference: half of all would have to be others."""
    score = score_of("class_histogram", logits(10, 10, 0, 0), reference=logits(5, 5, 5, 5))
    golden("class_histogram", score.value, 0.5, source="worked by hand: two of four classes", abs=1e-12)
    assert score.details["collapsed"] == score.details["never_made"] == 2
    assert score.details["entropy"] == pytest.approx(np.log(2))
    assert score.details["reference_entropy"] == pytest.approx(np.log(4))
    assert score.note == "hardly made: classes 2, 3"
    alone = score_of("collapsed_classes", logits(10, 10, 0, 0))
    golden("collapsed_classes", alone.value, 2, source="worked by hand: two of four classes", abs=1e-12)
    # of 20 draws none of one of four classes: 4 * 0.75 ** 20
    assert alone.details["by_chance"] == pytest.approx(4 * 0.75**20)
    assert alone.details["never_made"] == 2
    assert score_of("class_histogram", logits(3, 4), reference=logits(6, 8)).value == 0


def test_a_part_of_the_due_share_counts_as_collapsed() -> None:
    """100 of 2 classes are due 50 each: below 0.1 are 4 and less, 5 are not."""
    assert [score_of("collapsed_classes", logits(100 - few, few)).value for few in (4, 5)] == [1, 0]
    never = {"below": 0.0}
    assert [score_of("collapsed_classes", logits(100 - few, few), never).value for few in (0, 1)] == [1, 0]
    # a class that the reference lacks is none that is lost
    assert score_of("class_histogram", logits(9, 0), reference=logits(9, 0)).details["collapsed"] == 0


def test_chance_and_error_by_simulation() -> None:
    """400 draws of 200 from one histogram against it: mean distance and spread are those that are told."""
    rng = np.random.default_rng(0)
    due = np.array([0.4, 0.3, 0.2, 0.1])
    drawn = rng.multinomial(200, due, 400) / 200
    distances = abs(drawn - due).sum(axis=1) / 2
    assert distances.mean() == pytest.approx(mean_deviations(200, due).sum() / 2, rel=0.05)
    other = np.array([0.1, 0.2, 0.3, 0.4])  # far from it: the delta method holds
    metric = ClassHistogram("net/logits")
    states, errors, values = [], [], []
    for counts in rng.multinomial(200, due, 60):
        x = logits(*counts)
        batch = Batch(None, torch.arange(200), 200, [None] * 200, {"net/logits": x})
        states.append(metric.observe(batch))
        reference = metric.observe(
            Batch(None, batch.index, 200, batch.prompts, {"net/logits": logits(*(other * 200).astype(int))})
        )
        given = {"generated": states[-1], "reference": reference}
        values.append(metric.score(**given).value)
        each = metric.influence(**given)(batch)
        assert float(each.mean()) == pytest.approx(values[-1])
        errors.append(standard_error(each))
    assert np.mean(errors) == pytest.approx(np.std(values, ddof=1), rel=0.25)


def test_entropy_against_scipy(golden: Golden) -> None:
    from scipy.stats import entropy as theirs

    shares = np.random.default_rng(0).dirichlet(np.ones(10))
    golden("class_histogram, entropy", entropy(shares), float(theirs(shares)), source=peer("scipy"), rel=1e-12)
    assert entropy(np.array([1.0, 0.0])) == 0


def test_options_that_are_wrong_are_refused() -> None:
    with pytest.raises(ValueError, match="below=2"):
        CollapsedClasses(below=2)
    assert metric_of("class_histogram_digits").needs == ("digits/logits",)
