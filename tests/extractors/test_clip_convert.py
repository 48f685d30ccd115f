"""Weights of transformers' CLIPModel in open_clip's network: transformers' own results on a tiny model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from golden import RANDOM, Golden, peer
from options import score_of

from evalkit.errors import ConfigError
from evalkit.extractors.clip import Clip
from evalkit.extractors.clip_convert import is_transformers

VISION = {"image_size": 32, "layers": 2, "width": 32, "patch_size": 16, "head_width": 16}
TEXT = {"context_length": 14, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2}
CONFIG = {"embed_dim": 24, "vision_cfg": VISION, "text_cfg": TEXT}


def transformers_model() -> Any:
    """PickScore's architecture, tiny: CLIPModel with GELU, seeded weights, and a logit scale of its own."""
    from transformers import CLIPConfig, CLIPModel

    shared = {"hidden_act": "gelu", "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {"hidden_size": 16, "intermediate_size": 64, "vocab_size": 49408, "max_position_embeddings": 14}
    vision = {"hidden_size": 32, "intermediate_size": 128, "image_size": 32, "patch_size": 16}
    config = CLIPConfig(
        text_config={**shared, **text, "bos_token_id": 49406, "eos_token_id": 49407, "pad_token_id": 1},
        vision_config={**shared, **vision},
        projection_dim=24,
    )
    torch.manual_seed(1)  # of the seeds tried, the one with scores above 0: torchmetrics clamps
    model = CLIPModel(config).eval().requires_grad_(False)
    for value in model.parameters():
        if value.dim():
            value.add_(torch.randn_like(value) * 0.05)
    model.logit_scale.fill_(4.65)  # exp: 104.6
    return model


@pytest.fixture
def extractor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Clip:
    import open_clip
    from safetensors.torch import save_file

    save_file(
        {n: v.contiguous() for n, v in transformers_model().state_dict().items()}, str(tmp_path / "m.safetensors")
    )
    (tmp_path / "tiny-convert.json").write_text(json.dumps(CONFIG))
    open_clip.add_model_config(tmp_path / "tiny-convert.json")
    monkeypatch.setattr(Clip, "_config", lambda self: CONFIG)
    return Clip("pickscore", "tiny-convert", pretrained=str(tmp_path / "m.safetensors"))


def test_equals_transformers(extractor: Clip, golden: Golden) -> None:
    """Embeddings, and PickScore's own formula: exp(logit_scale) times the cosine."""
    import open_clip
    from PIL import Image

    extractor.check()
    extractor.load("cpu")
    rng = np.random.default_rng(0)
    shown = [rng.integers(0, 256, (40, 32, 3), dtype=np.uint8) for _ in range(3)]
    texts = ["a red seven", "a photo of a blue cat on the mat", "three " * 40]
    pixels = torch.stack([extractor._preprocess(Image.fromarray(image)) for image in shown])
    ids = open_clip.SimpleTokenizer(context_length=14)(texts)
    model = transformers_model()
    output = model(input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=pixels)
    mine = extractor(shown, [], ["image", "image_unit"]) | extractor([], texts, ["text", "text_logit"])
    torch.testing.assert_close(mine["image_unit"], output.image_embeds, rtol=1e-4, atol=1e-6)
    pick = model.logit_scale.exp() * (output.text_embeds * output.image_embeds).sum(1)
    torch.testing.assert_close((mine["image_unit"] * mine["text_logit"]).sum(1), pick, rtol=1e-4, atol=1e-4)
    assert float((pick[0] - pick[1]).abs()) > 0.1, "the model tells the texts apart"
    given = {"pickscore/image_unit": mine["image_unit"], "pickscore/text_logit": mine["text_logit"]}
    source = f"PickScore's formula, {peer('transformers')}'s CLIPModel, from images and texts"
    golden("pickscore", score_of("pickscore", given).value, pick.mean(), rel=1e-5, source=source, weights=RANDOM)


def pooled(output: Any) -> torch.Tensor:
    found: torch.Tensor = getattr(output, "pooler_output", output)
    return found


def test_clip_score_of_torchmetrics(extractor: Clip, monkeypatch: pytest.MonkeyPatch, golden: Golden) -> None:
    """Images and texts through transformers' model in torchmetrics' function; the processor is a stand-in."""
    import open_clip
    from PIL import Image
    from torchmetrics.functional.multimodal import clip_score

    extractor.check()
    extractor.load("cpu")
    prepare, tokenizer = extractor._preprocess, open_clip.SimpleTokenizer(context_length=14)

    def processor(text: list[str] | None = None, images: list[torch.Tensor] | None = None, **_: Any) -> dict[str, Any]:
        if images is not None:
            return {"pixel_values": torch.stack([prepare(Image.fromarray(x.permute(1, 2, 0).numpy())) for x in images])}
        ids = tokenizer(text)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    rng = np.random.default_rng(3)
    shown = [rng.integers(0, 256, (40, 32, 3), dtype=np.uint8) for _ in range(3)]
    texts = ["a red seven", "a photo of a blue cat", "three"]
    given = [torch.from_numpy(image).permute(2, 0, 1) for image in shown]
    model = transformers_model()
    for name in ("get_image_features", "get_text_features"):  # transformers 5 gives more than torchmetrics 1.9 expects
        plain = getattr(model, name)
        monkeypatch.setattr(model, name, lambda *args, plain=plain: pooled(plain(*args)))
    expected = clip_score(given, texts, lambda: (model, processor))  # type: ignore[arg-type,return-value]
    assert expected > 1, "a score of 0 is clamped"
    image, text = extractor(shown, [], ["image"])["image"], extractor([], texts, ["text"])["text"]
    found = score_of("clip_score", {"clip_vit_b32/image": image, "clip_vit_b32/text": text}).value
    source = f"{peer('torchmetrics')} with {peer('transformers')}'s CLIPModel, from images and texts"
    golden("clip_score", found, expected, rel=1e-5, source=source, weights=RANDOM)


def test_the_kind_of_file_is_told_by_its_names(extractor: Clip, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    assert is_transformers(tmp_path / "m.safetensors")
    save_file({"token_embedding.weight": torch.zeros(2)}, str(tmp_path / "other.safetensors"))
    assert not is_transformers(tmp_path / "other.safetensors")
    assert not is_transformers(tmp_path / "m.pt")


def test_another_architecture_is_refused(extractor: Clip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import open_clip

    (tmp_path / "tiny-wide.json").write_text(json.dumps({**CONFIG, "embed_dim": 20}))
    open_clip.add_model_config(tmp_path / "tiny-wide.json")
    wrong = Clip("pickscore", "tiny-wide", pretrained=str(tmp_path / "m.safetensors"))
    with pytest.raises(ConfigError, match=r"model 'tiny-wide' cannot be loaded from .*m\.safetensors: .*size mismatch"):
        wrong.load("cpu")
