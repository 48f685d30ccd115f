"""Pairs of images: how they are formed, that each is read once, and what their mean rests on.

Of samples of one set, with a baseline's, and with the images that the samples' own prompts name.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import FeatureGap, MatrixExtractor, MemorySource, PixelGap, random_images

from evalkit.data.codec import encode_png
from evalkit.errors import ConfigError, DataError
from evalkit.metric import PairMetric
from evalkit.prompts.images import PromptImages, prompt_images
from evalkit.prompts.sets import InlinePrompts, Prompt, PromptSet
from evalkit.samples.store import Store
from evalkit.scoring import Against, score_sources, sources
from evalkit.scoring.checks import check_pairs
from evalkit.scoring.pairs import form_pairs
from evalkit.scoring.protocol import OWN


def scores(
    tmp_path: Path, metrics: dict[str, PairMetric], baseline: str | None = "a", own: Any = None, **sets: MemorySource
) -> Any:
    return score_sources(
        sets,
        metrics={name: ({}, metric) for name, metric in metrics.items()},
        extractors={"matrix": MatrixExtractor()},
        against=Against(baseline=sets.get(baseline) if baseline else None, own=own or {}),
        store=Store(tmp_path),
    )


def test_a_cell_with_the_baseline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "shuffle", lambda prompts, categories: None)
    prompts = [f"p{i}" for i in range(70)]
    a = MemorySource(random_images(70, 0), prompts)
    b = MemorySource([255 - image for image in a.images], prompts)
    found = scores(tmp_path, {"gap": PixelGap(), "features": FeatureGap()}, a=a, b=b)
    expected = [np.abs(255 - 2 * image.astype(float)).mean() for image in a.images]
    score = found["b", "gap"].score
    assert score.value == pytest.approx(np.mean(expected))
    assert score.stderr == pytest.approx(np.std(expected, ddof=1) / 70**0.5)
    assert score.influence == pytest.approx(expected)
    assert found["b", "features"].score.value > 0
    assert found["a", "gap"].score.note == "this is the baseline"
    assert set(a.reads.values()) == {1}  # of both metrics together
    stored = {path.parent.parent.name.partition("-")[0] for path in (tmp_path / "features").rglob("*.safetensors")}
    assert stored == {"pixelgap", "featuregap"}  # wide features are not kept
    assert found["b", "gap"].protocol["baseline"] == {"digest": a.digest, "n": 70}


def test_a_second_run_finds_pair_scores(tmp_path: Path) -> None:
    sets = {"a": MemorySource(random_images(6)), "b": MemorySource(random_images(6, 1))}
    first = scores(tmp_path, {"gap": PixelGap()}, **sets)
    sets["b"].reads.clear()
    again = scores(tmp_path, {"gap": PixelGap()}, **sets)
    assert again["b", "gap"].cached
    assert again["b", "gap"].score == first["b", "gap"].score
    assert not sets["b"].reads


@pytest.mark.parametrize("changed", [{"prompts": ["y"] * 6}, {"images": random_images(5, 1)}])
def test_other_prompts_or_sizes_are_not_paired(tmp_path: Path, changed: dict[str, Any]) -> None:
    other = MemorySource(**{"images": random_images(6, 1), **changed})
    found = scores(tmp_path, {"gap": PixelGap()}, a=MemorySource(random_images(6)), b=other)
    assert found["b", "gap"].score.value is None
    assert "other prompts" in found["b", "gap"].score.note


def test_images_of_other_sizes_are_refused(tmp_path: Path) -> None:
    sets = {"a": MemorySource(random_images(4)), "b": MemorySource(random_images(4, 1, 9))}
    found = scores(tmp_path, {"gap": PixelGap()}, **sets)["b", "gap"].score
    assert found.value is None
    assert found.broken
    assert "cannot be paired" in found.note


def test_pairs_within_a_prompt_are_disjoint_and_seeded() -> None:
    source = MemorySource(random_images(20), [f"p{i % 3}" for i in range(20)])
    pairs, other = form_pairs(PixelGap("prompt"), source, None, {})
    assert other is source
    used = [i for pair in pairs for i in pair]
    assert len(used) == len(set(used)) == 18  # 7 + 7 + 6 samples a prompt: one of each 7 stays alone
    assert all(i % 3 == j % 3 for i, j in pairs)
    assert pairs == form_pairs(PixelGap("prompt"), source, None, {})[0]
    assert form_pairs(PixelGap("prompt", max_pairs=4), source, None, {})[0] == pairs[:4]
    assert len(form_pairs(PixelGap("any"), source, None, {})[0]) == 10


def test_one_sample_a_prompt_has_no_pairs(tmp_path: Path) -> None:
    source = MemorySource(random_images(4), list("abcd"))
    found = scores(tmp_path, {"gap": PixelGap("prompt")}, None, a=source)
    assert "samples_per_prompt" in found["a", "gap"].score.note


def test_without_a_baseline_there_is_no_pair_score(tmp_path: Path) -> None:
    found = scores(tmp_path, {"gap": PixelGap()}, None, a=MemorySource(random_images(4)))
    assert "give baseline=" in found["a", "gap"].score.note


def write_images(folder: Path, images: list[np.ndarray]) -> list[str]:
    """PNGs; their paths."""
    folder.mkdir(exist_ok=True)
    for i, image in enumerate(images):
        (folder / f"{i}.png").write_bytes(encode_png(image))
    return [str(folder / f"{i}.png") for i in range(len(images))]


def targets(paths: list[str], num_samples: int) -> PromptImages:
    """Of samples whose prompts name these targets, in turn."""
    found = prompt_images(PromptSet(tuple(Prompt("x", target=path) for path in paths)), "target", num_samples, "a")
    assert isinstance(found, PromptImages)
    return found


@pytest.mark.parametrize("kind", OWN)
def test_each_sample_with_the_image_that_its_prompt_names(tmp_path: Path, kind: str) -> None:
    """Five samples of two prompts: the images come round again, as the prompts do."""
    shown = random_images(2, 9)
    paths = write_images(tmp_path / "own", shown)
    prompts = InlinePrompts([{"text": "x", kind: path} for path in paths])
    own = {"a": {kind: prompt_images(prompts, kind, 5, "a")}}
    a = MemorySource(random_images(5))
    found = scores(tmp_path, {"gap": PixelGap(kind), "features": FeatureGap(kind)}, None, own, a=a)
    expected = [np.abs(image.astype(float) - shown[i % 2]).mean() for i, image in enumerate(a.images)]
    score = found["a", "gap"].score
    assert score.value == pytest.approx(np.mean(expected))
    assert score.influence == pytest.approx(expected)  # one a sample: cells are compared in pairs
    assert score.stderr == pytest.approx(np.std(expected, ddof=1) / 5**0.5)
    assert found["a", "features"].score.value > 0
    assert found["a", "gap"].label == f"gap ({kind})"
    assert found["a", "gap"].protocol["pairs"] == {"of": kind}
    assert found["a", "gap"].protocol[kind] == {"digest": own["a"][kind].digest, "n": 5}


def test_another_target_is_another_score_and_another_protocol(tmp_path: Path) -> None:
    a = MemorySource(random_images(2))
    first = targets(write_images(tmp_path / "own", random_images(2, 9)), 2)
    before = scores(tmp_path, {"gap": PixelGap("target")}, None, {"a": {"target": first}}, a=a)
    again = scores(tmp_path, {"gap": PixelGap("target")}, None, {"a": {"target": first}}, a=a)
    assert again["a", "gap"].cached
    second = targets(write_images(tmp_path / "other", random_images(2, 8)), 2)
    after = scores(tmp_path, {"gap": PixelGap("target")}, None, {"a": {"target": second}}, a=a)
    assert not after["a", "gap"].cached
    assert after["a", "gap"].protocol_hash != before["a", "gap"].protocol_hash
    assert after["a", "gap"].score.value != before["a", "gap"].score.value


def test_a_target_that_changes_under_the_run_is_not_scored(tmp_path: Path) -> None:
    images = targets(write_images(tmp_path / "own", random_images(2, 9)), 2)
    assert images.digest
    write_images(tmp_path / "own", random_images(2, 8))
    with pytest.raises(DataError, match=r"0\.png: altered"):
        scores(tmp_path, {"gap": PixelGap("target")}, None, {"a": {"target": images}}, a=MemorySource(random_images(2)))


def test_samples_without_targets_have_no_score(tmp_path: Path) -> None:
    """No prompts at all, prompts without targets, and with some: a note each. A source stands in for no target."""
    path = write_images(tmp_path / "own", random_images(1))[0]
    none = prompt_images(InlinePrompts([{"text": "x", "source": path}]), "target", 3, "b")
    some = prompt_images(InlinePrompts([{"text": "x", "target": path}, "y"]), "target", 3, "c")
    sets = {name: MemorySource(random_images(3, i)) for i, name in enumerate("abc")}
    own = {"b": {"target": none}, "c": {"target": some}}
    found = scores(tmp_path, {"gap": PixelGap("target")}, None, own, **sets)
    assert [found[name, "gap"].score.value for name in "abc"] == [None] * 3
    assert [found[name, "gap"].score.note for name in "abc"] == [
        "the samples have no prompts that name target images",
        "the prompts name no target image",
        "the prompts of 1 of 3 samples name no target image",
    ]
    with pytest.raises(ConfigError, match=r"'gap' compares each sample with its prompt's target image, but no cell"):
        check_pairs({"gap": PixelGap("target")}, None, own)
    check_pairs({"gap": PixelGap("target")}, None, {**own, "d": {"target": targets([path], 3)}})


def test_a_target_of_another_size_is_refused_or_resized(tmp_path: Path) -> None:
    from PIL import Image

    large = random_images(2, 9, size=16)
    own = {"a": {"target": targets(write_images(tmp_path / "own", large), 2)}}
    a = MemorySource(random_images(2))
    found = scores(tmp_path, {"gap": PixelGap("target")}, None, own, a=a)["a", "gap"]
    assert found.score.broken
    assert "images of 8x8 and 16x16 cannot be paired: resize one of them" in found.score.note
    metric = PixelGap("target")
    metric.resize_own = True
    small = [np.asarray(Image.fromarray(image).resize((8, 8), Image.Resampling.LANCZOS)) for image in large]
    expected = [np.abs(x.astype(float) - y).mean() for x, y in zip(a.images, small, strict=True)]
    found = scores(tmp_path, {"gap": metric}, None, own, a=a)["a", "gap"]
    assert found.score.influence == pytest.approx(expected)
    assert found.protocol["pairs"] == {"of": "target", "resized": True}
