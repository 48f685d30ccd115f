"""VQAScore through a stand-in of t2v-metrics' public API: what is handed over and what is made of the answer.

The package itself pins other versions of torch and transformers, so that it is not installed here.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from golden import Golden
from options import score_of

from evalkit.errors import ConfigError
from evalkit.extractors.vqascore import QUESTION, VqaScore


class StandIn:
    """`t2v_metrics.VQAScore`: "probability" = the image's mean level / 255 + the prompt's length / 100."""

    calls: list[dict[str, Any]] = []  # noqa: RUF012  # shared on purpose

    def __init__(self, model: str = "clip-flant5-xxl", device: str = "cuda", cache_dir: str = "x") -> None:
        if model not in ("clip-flant5-xxl", "clip-flant5-xl"):
            raise AssertionError
        self.options = {"model": model, "device": device, "cache_dir": cache_dir}

    def batch_forward(self, dataset: list[dict[str, list[str]]], batch_size: int = 16, **templates: str) -> Any:
        from PIL import Image

        self.calls.append({**self.options, "batch_size": batch_size, **templates})
        scores = torch.zeros(len(dataset), 1, 1)
        for i, pair in enumerate(dataset):
            (path,), (text,) = pair["images"], pair["texts"]
            scores[i] = float(np.asarray(Image.open(path)).mean()) / 255 + len(text) / 100
        return scores


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("t2v_metrics")
    module.VQAScore = StandIn  # type: ignore[attr-defined]
    module.__spec__ = importlib.util.spec_from_loader("t2v_metrics", None)
    monkeypatch.setitem(sys.modules, "t2v_metrics", module)
    StandIn.calls.clear()


def test_pairs_of_images_and_prompts(
    package: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, golden: Golden
) -> None:
    """Each image, level for level, with its own prompt, in order; its files are gone afterwards."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    extractor = VqaScore("vqascore", model="clip-flant5-xl", cache_dir="weights")
    extractor.check()
    extractor.load("cpu")
    shown = [np.full((8, 6, 3), level, np.uint8) for level in (0, 51, 255)]
    found = extractor(shown, ["a", "four", "a red seven"], ["score"])["score"]
    assert found.dtype == torch.float32
    assert found.shape == (3, 1)
    assert found.flatten().tolist() == pytest.approx([0.01, 0.24, 1.11], rel=1e-6)
    source = "a stand-in for t2v-metrics' API only: means of known answers"
    golden("vqascore", score_of("vqascore", found).value, (0.01 + 0.24 + 1.11) / 3, rel=1e-6, source=source)
    expected = {"model": "clip-flant5-xl", "device": "cpu", "cache_dir": "weights", "batch_size": 3}
    assert StandIn.calls == [{**expected, "question_template": QUESTION, "answer_template": "Yes"}]
    assert not list(tmp_path.iterdir())


def test_unknown_models_and_questions(package: None) -> None:
    with pytest.raises(ConfigError, match="t2v-metrics cannot load the model 'clip-flan': AssertionError"):
        VqaScore("vqascore", model="clip-flan").load("cpu")
    with pytest.raises(ConfigError, match=r"'Is it good\?' has no place {} for the prompt"):
        VqaScore("vqascore", question="Is it good?")


def test_the_package_is_missing() -> None:
    if importlib.util.find_spec("t2v_metrics") is not None:
        pytest.skip("t2v-metrics is installed")
    with pytest.raises(ConfigError, match=r"give it an environment of its own: extractor\.vqascore\.env") as caught:
        VqaScore("vqascore").check()
    assert "\n" not in str(caught.value)


def test_contract() -> None:
    plain, other = VqaScore("vqascore"), VqaScore("vqascore", model="clip-flant5-xl")
    assert plain.canonical()
    assert not other.canonical()
    assert (plain.label(), other.label()) == ("vqascore", "vqascore:clip-flant5-xl")
    assert plain.joint_layers == {"score"}
    assert not VqaScore("vqascore", question="{}?").canonical()
    assert plain.identity() != VqaScore("vqascore", question="{}?").identity()
