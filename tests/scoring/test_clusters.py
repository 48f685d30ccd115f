"""Standard errors know clusters: the samples of one prompt were drawn together.

The exact case is a set in which each prompt's k samples are one image k times: it tells no more than one of each.
`tests/scoring/test_coverage.py` holds the intervals against simulated truth.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fakes import MatrixExtractor, MemorySource, random_images

from evalkit.metric import Batch, Rows, SampleMetric, Score, by_cluster, cluster_ids, standard_error
from evalkit.metrics.cmmd import Cmmd
from evalkit.metrics.feature_distance import FeatureDistance, FeatureDiversity
from evalkit.metrics.feature_mean import FeatureMean
from evalkit.metrics.frechet import FrechetDistance
from evalkit.metrics.inception_score import InceptionScore
from evalkit.metrics.kernel_distance import KernelDistance
from evalkit.metrics.memorisation import AuthPct, DataCopying
from evalkit.metrics.precision_recall import Coverage, Density, Precision, Recall
from evalkit.metrics.vendi import Vendi
from evalkit.prompts.sets import ClassPrompts, DigitsPrompts, InlinePrompts, Prompt, PromptSet
from evalkit.samples.store import Store
from evalkit.scoring import Against, score_sources
from evalkit.scoring.pairs import error_within

G, K = 60, 4


def test_the_samples_of_a_prompt_are_one_cluster_and_others_each_their_own() -> None:
    ids = cluster_ids(["a", None, "b", "a", "", None])
    assert ids[0] == ids[3] >= 0
    assert ids[2] not in (ids[0], -1)
    assert ids[1] == -2
    assert ids[4:] == [-5, -6]
    assert cluster_ids(["b", None], [7, 9]) == [ids[2], -10]  # in any batch the same


def test_the_clustered_error_by_hand() -> None:
    """Sums of 1 + 2 and of 6 about the mean of 3: -3 and 3. G / (G - 1) (9 + 9) / 3^2 = 4."""
    assert standard_error([1.0, 2.0, 6.0], [5, 5, 9]) == pytest.approx(2.0)
    assert by_cluster([1.0, 2.0, 6.0], [5, 5, 9]).tolist() == [1.0, 5.0]
    assert by_cluster([1.0, 2.0, 6.0], [5, 6, 9]).tolist() == [1.0, 2.0, 6.0]
    assert standard_error([1.0, 2.0], [5, 5]) is None


def test_thirty_prompts_eight_times_are_thirty_samples() -> None:
    u = torch.randn(30, 1, generator=torch.Generator().manual_seed(0)).repeat(8, 1)
    metric = FeatureMean("x/y")
    batch = Batch(None, torch.arange(240), 240, [f"p{i % 30}" for i in range(240)], {"x/y": u})
    score = metric.score(generated=metric.observe(batch))
    assert score.stderr == pytest.approx(float(u[:30].double().std() / 30**0.5), rel=1e-12)
    assert score.clusters == 30


class Brightness(SampleMetric[Rows]):
    """A plugin that knows nothing of clusters: its influences are the scoring stage's to sum."""

    title = "brightness"
    better = "higher"
    needs = ("matrix/flat",)
    error: Any = "influence"

    def observe(self, batch: Batch) -> Rows:
        return Rows(batch.index, {"x": batch.features["matrix/flat"][:, 0].double()})

    def score(self, *, generated: Rows) -> Score:
        x = generated["x"]
        influence = tuple(x.tolist()) if self.error == "influence" else None
        return Score(float(x.mean()), len(x), float(x.std() / len(x) ** 0.5), influence)


class Lonely(Brightness):
    """Its error has no influences."""

    title = "lonely"
    error = "own"


class Matrix(MatrixExtractor):
    """Its features have spread enough for all metrics."""


STATES: dict[str, Any] = {
    "brightness": Brightness(),
    "density": Density("matrix/flat"),
    "precision": Precision("matrix/flat"),
    "authpct": AuthPct("matrix/flat"),
    "c_t": DataCopying("matrix/flat", cells=2, more_than=2),
    "frechet": FrechetDistance("matrix/flat"),
    "is": InceptionScore("matrix/soft", splits=1),
    "vendi": Vendi("matrix/flat"),
    "kid": KernelDistance("matrix/flat", subsets=800, subset_size=30),
    "cmmd": Cmmd("matrix/flat"),
}


def found(tmp_path: Path, metrics: dict[str, Any], source: MemorySource, **more: Any) -> dict[str, Score]:
    sides = (MemorySource(random_images(300, seed)) for seed in (5, 6))
    scored = score_sources(
        {"a": source},
        metrics={name: ({}, metric) for name, metric in metrics.items()},
        extractors={"matrix": Matrix()},
        against=Against(*sides),
        store=Store(tmp_path),
        **more,
    )
    return {name: scored["a", name].score for name in metrics}


def test_copies_of_one_image_per_prompt_tell_no_more_than_one(tmp_path: Path) -> None:
    images, prompts = random_images(G, 1), [f"p{i}" for i in range(G)]
    once = found(tmp_path, STATES, MemorySource(images, prompts))
    copied = found(tmp_path, STATES, MemorySource(images * K, prompts * K))
    unknown = found(tmp_path, STATES, MemorySource(images * K))
    for name in STATES:
        assert (once[name].clusters, copied[name].clusters, unknown[name].clusters) == (G, G, G * K), name
        if name != "c_t":  # a z-score: it grows with the samples
            assert copied[name].stderr == pytest.approx(once[name].stderr, rel=0.2), name
            assert unknown[name].stderr < 0.75 * once[name].stderr, name
        if name not in ("kid", "cmmd"):  # theirs is no plain sum
            assert copied[name].stderr == pytest.approx(standard_error(copied[name].influence, [*range(G)] * K)), name


def test_an_exhaustive_set_has_no_clusters(tmp_path: Path) -> None:
    source = MemorySource(random_images(40, 1), [f"p{i % 4}" for i in range(40)])
    own = found(tmp_path, {"brightness": Brightness()}, source, clusters={"a": cluster_ids([None] * 40)})
    assert own["brightness"].clusters == 40
    assert found(tmp_path, {"brightness": Brightness()}, source)["brightness"].clusters == 4


def test_an_error_that_takes_samples_to_be_independent_is_not_shown(tmp_path: Path) -> None:
    images = random_images(40, 1)
    kept = found(tmp_path, {"lonely": Lonely()}, MemorySource(images))["lonely"]
    dropped = found(tmp_path, {"lonely": Lonely()}, MemorySource(images, [f"p{i % 20}" for i in range(40)]))["lonely"]
    assert kept.stderr is not None
    assert dropped.stderr is None
    assert "takes the 40 samples of 20 prompts to be independent" in str(dropped.note)


def test_few_prompts_are_told_and_one_has_no_error(tmp_path: Path) -> None:
    images = random_images(40, 1)
    for count, note in ((9, "a rough standard error, of 9 prompts alone"), (1, "all samples are of one prompt")):
        score = found(tmp_path, {"m": Brightness()}, MemorySource(images, [f"p{i % count}" for i in range(40)]))["m"]
        assert note in str(score.note)
        assert (score.stderr is None) == (count == 1)
        assert len(score.influence or ()) == 40
    many = found(tmp_path, {"m": Brightness()}, MemorySource(images, [f"p{i % 10}" for i in range(40)]))["m"]
    assert many.note is None


def test_pairs_of_one_prompt_vary_together() -> None:
    rng = np.random.default_rng(0)
    level = rng.normal(size=50)
    pairs, values = [], []
    for prompt, one in enumerate(level):
        pairs += [(prompt, prompt)] * 3
        values += [one] * 3
    stderr, count = error_within(pairs, values)
    assert (stderr, count) == (pytest.approx(float(level.std(ddof=1) / 50**0.5)), 50)
    apart = [(-1 - 2 * i, -2 - 2 * i) for i in range(50)]
    stderr, count = error_within(apart, level.tolist())
    assert (stderr, count) == (pytest.approx(float(level.std(ddof=1) / 50**0.5)), 50)


def test_pairs_of_two_prompts_share_both() -> None:
    """Of 40 prompts with an effect each, pairs of any two of 6 samples a prompt: the error is the prompts'."""
    rng = np.random.default_rng(1)
    means, stated = [], []
    for _ in range(300):
        effect = rng.normal(size=40)
        order = rng.permutation(np.repeat(np.arange(40), 6))
        pairs = list(zip(order[::2].tolist(), order[1::2].tolist(), strict=True))
        values = [float(effect[i] + effect[j]) for i, j in pairs]
        means.append(np.mean(values))
        stated.append(error_within(pairs, values)[0])
    assert np.mean(stated) / np.std(means) == pytest.approx(1, abs=0.1)  # as if independent: 0.4


def test_diversity_and_distances_know_prompts(tmp_path: Path) -> None:
    images = random_images(30, 1)
    images = [images[i // 2] if i % 2 else images[(i // 2 + 1) % 30] for i in range(60)]
    prompts = [f"p{i % 30}" for i in range(60)]
    metrics = {"diversity": FeatureDiversity("matrix/flat"), "source": FeatureDistance("matrix/flat", pairs="source")}
    own = {"a": {"source": MemorySource(random_images(60, 3), prompts)}}
    scored = score_sources(
        {"a": MemorySource(images * 2, prompts * 2)},
        metrics={"diversity": ({}, metrics["diversity"])},
        extractors={"matrix": Matrix()},
        against=Against(),
        store=Store(tmp_path),
    )["a", "diversity"]
    assert (scored.score.details["pairs"], scored.score.clusters) == (60, 30)
    assert scored.error == "by prompt"
    distance = score_sources(
        {"a": MemorySource(images, prompts)},
        metrics={"source": ({}, metrics["source"])},
        extractors={"matrix": Matrix()},
        against=Against(own=own),
        store=Store(tmp_path),
    )["a", "source"].score
    assert distance.stderr == pytest.approx(standard_error(distance.influence or (), cluster_ids(prompts)))


@pytest.mark.slow
def test_recall_and_coverage_take_prompts_as_wholes() -> None:
    y = torch.randn(400, 4, generator=torch.Generator().manual_seed(0))
    sides = {"reference": Rows(torch.arange(400), {"x/y": y})}
    for metric in (Recall("x/y"), Coverage("x/y")):
        scores: dict[str, list[Score]] = {"known": [], "blind": []}
        for seed in range(20):
            rng = torch.Generator().manual_seed(seed)
            x = torch.randn(40, 4, generator=rng).repeat(6, 1) * 0.9 + 0.4 * torch.randn(240, 4, generator=rng)
            for name, ids in (("known", torch.arange(40).repeat(6)), ("blind", None)):
                scores[name].append(metric.score(generated=Rows(torch.arange(240), {"x/y": x}, ids), **sides))
        known, blind = (np.mean([score.stderr for score in scores[name]]) for name in ("known", "blind"))
        spread = np.std([score.value for score in scores["known"]], ddof=1)
        assert known > 1.15 * blind, metric.title
        assert 0.7 < known / spread < 1.6, metric.title
        assert {score.clusters for score in scores["known"]} == {40}
    few = Recall("x/y").score(generated=Rows(torch.arange(240), {"x/y": x}, torch.arange(240) % 5), **sides)
    assert (few.stderr, few.note) == (None, "no standard error: 5 prompts are below 10")


def test_what_a_sample_was_asked_to_show() -> None:
    """Texts; a constant text with other images; a class alone and an exhaustive set: nothing that was drawn."""
    assert InlinePrompts(["a", "b"]).asked(["a", "b", "a"]) == ["a", "b", "a"]
    images = PromptSet((Prompt("fix it", source="1.png"), Prompt("fix it", source="2.png")))
    first, second, third = images.asked(["fix it"] * 3)
    assert first == third != second
    assert ClassPrompts(3).asked([None] * 4) == ClassPrompts(names=["x", "y"]).asked(["x", "y"] * 2) == [None] * 4
    assert DigitsPrompts().asked(["a"]) == [None]
    assert DigitsPrompts(limit=20).asked(["a"]) == ["a"]  # a part of all that there are is a sample again
    assert DigitsPrompts(exhaustive=False).asked(["a"]) == ["a"]
