"""The share of flagged images: exact bounds against SciPy, their gate, a classifier of transformers' own classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fakes import random_images
from golden import Golden, peer
from options import option, score_of
from scipy.stats import binomtest

from evalkit.config.build import build
from evalkit.errors import ConfigError
from evalkit.extractors.base import exact_float32
from evalkit.extractors.image_classifier import ImageClassifier
from evalkit.gate.bounds import score_bounds
from evalkit.metric import Batch
from evalkit.metrics.flagged_share import FlaggedShare
from evalkit.results.stats import Estimate


def probabilities(flagged: int, n: int) -> torch.Tensor:
    return torch.tensor([[0.9]] * flagged + [[0.5]] * (n - flagged))


@pytest.mark.parametrize(("flagged", "n"), [(0, 300), (3, 200), (50, 50)])
def test_the_interval_is_exact(flagged: int, n: int, golden: Golden) -> None:
    score = FlaggedShare().score(generated=_rows(probabilities(flagged, n), range(n)))
    theirs = binomtest(flagged, n).proportion_ci(0.95, "exact")
    golden("flagged_share", score.value, flagged / n, source=f"{flagged} of {n}", abs=1e-12)
    for key, bound in (("exact_low", theirs.low), ("exact_high", theirs.high)):
        golden(
            f"flagged_share, {key}", score.details[key], bound, source=f"{peer('scipy')}, {flagged} of {n}", abs=1e-9
        )
    assert score.details["flagged"] == flagged


def test_half_is_not_above_half() -> None:
    assert score_of("flagged_share", probabilities(0, 4)).value == 0
    assert score_of("flagged_share", probabilities(0, 4), {"threshold": 0.49}).value == 1


def test_images_of_one_prompt_are_worth_less() -> None:
    """None flagged of 4 x 75: the bound is that of 75, since how alike a prompt's images are cannot be seen."""
    score = FlaggedShare().score(generated=_rows(probabilities(0, 300), [i // 4 for i in range(300)]))
    assert score.details["exact_high"] == pytest.approx(binomtest(0, 75).proportion_ci(0.95, "exact").high)


@pytest.mark.parametrize(("flagged", "n", "passes"), [(0, 298, False), (0, 299, True), (1, 472, False), (1, 473, True)])
def test_the_gate_of_the_preset_is_exact(flagged: int, n: int, passes: bool) -> None:
    """No more than 1 %: 0.99 ** 299 is the first below 0.05; with one flagged it takes 473."""
    limit = option("gate", "safety")["rules"][0]["max"]
    score = FlaggedShare().score(generated=_rows(probabilities(flagged, n), range(n)))
    assert score.value is not None
    bounds = score_bounds(Estimate(score.value, score.stderr, n, score.influence))
    assert bounds is not None
    assert (bounds.high <= limit) == passes == (binomtest(flagged, n, limit, "less").pvalue <= 0.05)


def _rows(values: torch.Tensor, clusters: Any) -> Any:
    from dataclasses import replace

    n = len(values)
    batch = Batch(None, torch.arange(n), n, [None] * n, {"safety/flagged": values})
    return replace(FlaggedShare().observe(batch), clusters=torch.tensor(list(clusters)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny ViT of random weights, three classes."""
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

    path = tmp_path_factory.mktemp("vit")
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    names = {0: "normal", 1: "nsfw", 2: "gore"}
    config = ViTConfig(**sizes, image_size=32, patch_size=8, id2label=names, initializer_range=0.5)
    ViTForImageClassification(config).save_pretrained(path)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(path)
    return path


def test_a_classifier_by_path(folder: Path) -> None:
    """Probabilities are those of transformers' own calls; what is flagged is the sum of two classes."""
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    extractor = build(option("extractor", "safety", model=str(folder), flags=["gore", "nsfw"]))
    extractor.check()
    assert dict(extractor.layers) == {"logits": 3, "probabilities": 3, "flagged": 1}
    extractor.load("cpu")
    images = [*random_images(2, 40), *random_images(1, 24)]
    found = extractor(images, [], ["logits", "probabilities", "flagged"])
    net, processor = AutoModelForImageClassification.from_pretrained(folder), AutoImageProcessor.from_pretrained(folder)
    with exact_float32():
        theirs = [net.eval()(**processor(images=[image], return_tensors="pt")).logits.softmax(1)[0] for image in images]
    np.testing.assert_allclose(found["probabilities"], torch.stack(theirs), atol=1e-6)
    np.testing.assert_allclose(found["flagged"][:, 0], torch.stack(theirs)[:, 1:].sum(1), atol=1e-6)
    alone = ImageClassifier("safety", str(folder), ["gore", "nsfw"], multi_label=True)
    alone.load("cpu")
    flagged = alone(images, [], ["flagged"])["flagged"]
    np.testing.assert_allclose(flagged[:, 0], found["logits"].sigmoid()[:, 1:].amax(1), atol=1e-6)
    assert alone.identity() != extractor.identity()
    assert extractor.label().startswith("safety:")


def test_labels_that_are_not_there_are_refused(folder: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"extractor.safety.flags: the model has no class 'nfsw'. Did you mean 'nsfw'"
    ):
        ImageClassifier("safety", str(folder), ["nfsw"]).check()
    with pytest.raises(ConfigError, match="is no folder"):
        ImageClassifier("safety", str(folder / "none"), ["nsfw"]).check()
