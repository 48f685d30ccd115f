"""CLIP-I and DINO against a loop over pairs; whose images count, what copies give. The consistency of sets."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from golden import Golden
from options import metric_of, option
from PIL import Image

import evalkit
from evalkit.metric import Batch, Score, cluster_ids
from evalkit.metrics.set_consistency import SetConsistency
from evalkit.metrics.subject_similarity import SubjectSimilarity

ADDRESS = "clip_vit_b32/image"


def batch(x: np.ndarray, categories: Sequence[str | None] = (), prompts: Sequence[str | None] = ()) -> Batch:
    n = len(x)
    features = dict.fromkeys((ADDRESS, "dino_vits16/features", "digits_clip/image"), torch.from_numpy(x).float())
    return Batch(None, torch.arange(n), n, list(prompts) or [None] * n, features, list(categories))


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a.astype(np.float32).astype(float), b.astype(np.float32).astype(float)
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def vectors(n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, 6)) + 1


def scored(metric: SubjectSimilarity, made: Batch, real: Batch) -> Score:
    return metric.score(generated=metric.observe(made), reference=metric.observe(real))


@pytest.mark.parametrize("name", ["clip_i", "dino_i", "clip_i_digits"])
def test_golden(golden: Golden, name: str) -> None:
    """Two subjects with four and three real images, seven samples: every pair by a loop."""
    x, y = vectors(7, 0), vectors(7, 1)
    subjects, of_real = list("abababa"), list("aaaabbb")
    score = scored(metric_of(name), batch(x, subjects), batch(y, of_real))
    real = {s: [y[j] for j in range(7) if of_real[j] == s] for s in "ab"}
    each = [np.mean([cosine(x[i], other) for other in real[subjects[i]]]) for i in range(7)]
    source = "every pair by a loop, features"
    golden(name, score.value, float(np.mean(each)), rel=1e-9, source=source)
    among = {s: np.mean([cosine(p, q) for p, q in combinations(real[s], 2)]) for s in "ab"}
    golden(f"{name}, real", score.details["real"], np.mean([among[s] for s in subjects]), rel=1e-9, source=source)
    most = {s: max(cosine(p, q) for p, q in combinations(real[s], 2)) for s in "ab"}
    copies = np.mean([max(cosine(x[i], o) for o in real[subjects[i]]) > most[subjects[i]] for i in range(7)])
    assert score.details["copies"] == pytest.approx(copies)
    assert score.influence == pytest.approx(each)


def test_merged_states_give_the_same() -> None:
    metric, x, y = SubjectSimilarity(), vectors(6, 2), vectors(4, 3)
    whole = metric.observe(batch(x, list("aabbaa")))
    first, second = metric.observe(batch(x[:4], list("aabb"))), metric.observe(batch(x[4:], list("aa")))
    shifted = type(second)(second.index + 4, second.values, second.clusters)
    real = metric.observe(batch(y, list("aabb")))
    assert metric.score(generated=shifted + first, reference=real).value == pytest.approx(
        metric.score(generated=whole, reference=real).value, rel=1e-12
    )


def test_copies_of_real_images() -> None:
    """A copy has cosine 1 with its original: above what any two real images have."""
    y = vectors(5, 4)
    score = scored(SubjectSimilarity(), batch(y[:2]), batch(y))
    assert score.details["copies"] == 1
    assert score.note is not None
    assert "100% of the samples lie nearer to a real image than those: copies?" in score.note
    far = scored(SubjectSimilarity(copy=1.0), batch(vectors(3, 5)), batch(y))
    assert far.details["copies"] == 0
    assert far.note == f"real images of the subjects among themselves: {far.details['real']:.4f}"


def test_subjects_that_are_missing() -> None:
    x, y = vectors(3, 6), vectors(4, 7)
    line = r"^sample 2 is of a category that is no folder of the reference: a prompt's category names its subject"
    with pytest.raises(ValueError, match=line):
        scored(SubjectSimilarity(), batch(x, ["a", "a", "c"]), batch(y, list("aabb")))
    with pytest.raises(ValueError, match=r"^sample 0 \(and 2 more\) has no category"):
        scored(SubjectSimilarity(), batch(x), batch(y, list("aabb")))
    with pytest.raises(ValueError, match=r"several subjects, and no reference image has a category: reference\.folder"):
        scored(SubjectSimilarity(), batch(x, ["a", "a", "c"]), batch(y))
    single = scored(SubjectSimilarity(), batch(x, list("aaa")), batch(y[:1], ["a"]))
    assert single.value is not None
    assert single.details == {}
    assert single.note == "a subject has a single real image: nothing to compare with"
    with pytest.raises(ValueError, match="copy=2"):
        SubjectSimilarity(copy=2)


def test_a_folder_per_subject_the_whole_way(tmp_path: Path) -> None:
    """Folders of images; renaming one changes the score though no image changed: it is not found in the cache."""
    rng = np.random.default_rng(0)
    for side, subjects in (("real", "cat dog"), ("made", "cat dog")):
        for k, subject in enumerate(subjects.split()):
            (tmp_path / side / subject).mkdir(parents=True)
            for i in range(3):
                pixels = np.full((32, 32, 3), 60 + 120 * k, np.uint8) + rng.integers(0, 30, (32, 32, 3), np.uint8)
                Image.fromarray(pixels).save(tmp_path / side / subject / f"{i}.png")

    def run(out: str) -> evalkit.ResultTable:
        settings = {"model.folder.categories": "folder", "reference.folder.categories": "folder"}
        sides = (tmp_path / "made", tmp_path / "real", ["clip_i_digits"])
        return evalkit.evaluate(*sides, store=tmp_path / "store", out=tmp_path / out, device="cpu", settings=settings)

    row = run("one").rows[0]
    assert row.label == "CLIP-I [digits_clip]"
    assert row.value is not None
    made = tmp_path / "made"
    made.joinpath("cat").rename(made / "x")
    made.joinpath("dog").rename(made / "cat")
    made.joinpath("x").rename(made / "dog")
    other = run("two").rows[0].value
    assert other is not None
    assert other < row.value


@pytest.mark.parametrize("name", ["set_consistency", "set_consistency_digits"])
def test_set_consistency_golden(golden: Golden, name: str) -> None:
    """Prompts of three, two and one sample: the mean over samples of the mean cosine with the others."""
    x = vectors(6, 8)
    prompts = ["p", "q", "p", "p", "r", "q"]
    metric = metric_of(name)
    score = metric.score(generated=metric.observe(batch(x, prompts=prompts)))
    others = {i: [j for j in range(6) if prompts[j] == prompts[i] and j != i] for i in range(6)}
    each = [np.mean([cosine(x[i], x[j]) for j in others[i]]) for i in range(6) if others[i]]
    golden(name, score.value, float(np.mean(each)), rel=1e-9, source="every pair by a loop, features")
    assert score.details == {"prompts": 2, "samples": 5}
    assert np.mean(score.influence) == pytest.approx(score.value)
    assert score.clusters == 3
    assert set(cluster_ids(prompts)) == set(metric.observe(batch(x, prompts=prompts))["group"].tolist())


def test_sets_of_one() -> None:
    metric = SetConsistency()
    score = metric.score(generated=metric.observe(batch(vectors(2, 9), prompts=["a", "b"])))
    assert (score.value, score.note) == (None, "no prompt has two samples: raise samples_per_prompt")
    same = np.repeat(vectors(1, 10), 4, axis=0)
    assert metric.score(generated=metric.observe(batch(same, prompts=["a"] * 4))).value == pytest.approx(1.0)
    assert option("metric", "set_consistency")["features"] == ADDRESS
