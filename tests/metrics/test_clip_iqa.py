"""CLIP-IQA: torchmetrics' arithmetic, and piq's network, on the same seeded weights; and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from golden import RANDOM, Golden, peer
from options import option, score_of

from evalkit.config.build import build
from evalkit.errors import ConfigError, DataError
from evalkit.extractors.clip import WEIGHTS_NAME
from evalkit.extractors.clip_iqa import ClipIqa

WIDTH, TEXT = 8, 16
CONFIG = {
    "embed_dim": 24,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": WIDTH, "patch_size": None},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": TEXT, "heads": 2, "layers": 1},
}
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny CLIP on a ResNet with seeded weights, as open_clip saves one."""
    import open_clip
    from safetensors.torch import save_file

    path = tmp_path_factory.mktemp("clip_iqa")
    about = {"model_cfg": CONFIG, "preprocess_cfg": {"mean": MEAN, "std": STD}}
    (path / "open_clip_config.json").write_text(json.dumps(about))
    torch.manual_seed(0)
    net = open_clip.CLIP(**json.loads(json.dumps(CONFIG)))
    for name, value in net.named_parameters():
        if name.endswith("bn3.weight"):
            torch.nn.init.uniform_(value)  # zeros would take the residual layers out
    save_file({name: value.contiguous() for name, value in net.state_dict().items()}, str(path / WEIGHTS_NAME))
    return path


def made(folder: Path, **more: Any) -> ClipIqa:
    values = option("extractor", "clip_iqa", model=f"local-dir:{folder}", pretrained=None, repo=None, **more)
    extractor: ClipIqa = build(values)
    extractor.check()
    extractor.load("cpu")
    return extractor


def images() -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    return [rng.integers(0, 256, (h, w, 3), dtype=np.uint8) for h, w in ((64, 64), (48, 97), (64, 64), (130, 33))]


def test_equals_piq_and_torchmetrics(folder: Path, golden: Golden) -> None:
    """piq's network takes one image at a time, of any size; torchmetrics' functions do the rest."""
    from piq.feature_extractors.clip import CLIP
    from safetensors.torch import load_file
    from torchmetrics.functional.multimodal import clip_iqa as theirs

    state = load_file(folder / WEIGHTS_NAME)
    net = CLIP(24, 64, (1, 1, 1, 1), WIDTH, None, 77, 49408, TEXT, 2, 1).eval()
    net.load_state_dict(state, strict=False)
    extractor = made(folder)
    names = tuple(extractor.anchors)
    texts, _ = theirs._clip_iqa_format_prompts(names)
    assert texts == [text for pair in extractor.anchors.values() for text in pair]
    with torch.no_grad():
        anchors = net.encode_text(extractor._tokenizer(texts)).float()
        anchors = anchors / anchors.norm(p=2, dim=-1, keepdim=True)
        features = torch.cat(
            [
                theirs._clip_iqa_update("clip_iqa", torch.from_numpy(x).permute(2, 0, 1)[None], net, None, 255, "cpu")
                for x in images()
            ]
        )
        expected = theirs._clip_iqa_compute(features, anchors, list(names))
    found = extractor(images(), [], names)
    for name in names:
        torch.testing.assert_close(found[name][:, 0], expected[name], atol=2e-5, rtol=0)
    assert float(found["quality"].std()) > 1e-4
    score = score_of("clip_iqa", found["quality"])
    source = f"{peer('torchmetrics')} on {peer('piq')}'s network, images of other sizes"
    golden("clip_iqa", score.value, float(expected["quality"].mean()), abs=2e-5, source=source, weights=RANDOM)


def test_prepared_as_by_clip(folder: Path) -> None:
    """With positional embedding: the same as by the embeddings of CLIP's own extractor."""
    from torch.nn.functional import normalize

    from evalkit.extractors.clip import Clip

    clip = Clip("tiny", f"local-dir:{folder}")
    clip.load("cpu")
    extractor = made(folder, as_they_are=False)
    text = normalize(clip([], ["Good photo.", "Bad photo."], ["text"])["text"], dim=1)
    logits = 100 * clip(images(), [], ["image_unit"])["image_unit"] @ text.T
    found = extractor(images(), [], ["quality"])["quality"]
    torch.testing.assert_close(found[:, 0], logits.softmax(1)[:, 0], atol=1e-5, rtol=0)
    assert extractor.identity() != made(folder).identity()


def test_loaded_again(folder: Path) -> None:
    extractor = made(folder)
    first = extractor(images(), [], ["sharpness"])["sharpness"]
    extractor.unload()
    extractor.load("cpu")
    torch.testing.assert_close(extractor(images(), [], ["sharpness"])["sharpness"], first, atol=0, rtol=0)


def test_what_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"anchors\.quality=Good: give two texts"):
        made(folder, anchors={"quality": "Good"})
    with pytest.raises(ConfigError, match=r"anchors: give an attribute"):
        made(folder, anchors={})
    with pytest.raises(DataError, match="32 pixels or more"):
        made(folder)([np.zeros((16, 40, 3), np.uint8)], [], ["quality"])
    extractor = build(
        option("extractor", "clip_iqa", model="ViT-B-32-quickgelu", pretrained=str(folder / WEIGHTS_NAME))
    )
    with pytest.raises(ConfigError, match=r"give a ResNet, or extractor\.clip_iqa\.as_they_are=false"):
        extractor.check()


def test_missing_weights_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ConfigError, match=r"timm/resnet50_clip\.openai"):
        build(option("extractor", "clip_iqa", download=False)).check()
