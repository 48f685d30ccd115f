"""The aesthetic predictor: its own layers on a tiny CLIP with seeded weights, and the wrong head."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from golden import RANDOM, Golden
from options import score_of
from torch import nn

from evalkit.errors import ConfigError
from evalkit.extractors import aesthetic
from evalkit.extractors.aesthetic import HEAD, Aesthetic
from evalkit.extractors.clip import WEIGHTS_NAME
from evalkit.utils.files import sha256_file

CONFIG = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "patch_size": 16, "head_width": 16},
    "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


class Predictor(nn.Module):
    """The published model as its authors wrote it (`simple_inference.py`), with another input width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(width, 1024),
            nn.Dropout(0.2),
            nn.Linear(1024, 128),
            nn.Dropout(0.2),
            nn.Linear(128, 64),
            nn.Dropout(0.1),
            nn.Linear(64, 16),
            nn.Linear(16, 1),
        )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import open_clip
    from safetensors.torch import save_file

    path = tmp_path_factory.mktemp("aesthetic")
    (path / "open_clip_config.json").write_text(json.dumps({"model_cfg": CONFIG, "preprocess_cfg": {}}))
    torch.manual_seed(0)
    net = open_clip.CLIP(**json.loads(json.dumps(CONFIG)))
    save_file({name: value.contiguous() for name, value in net.state_dict().items()}, str(path / WEIGHTS_NAME))
    torch.save(Predictor(24).state_dict(), path / "head.pth")
    return path


def made(folder: Path, **more: str) -> Aesthetic:
    return Aesthetic("aesthetic", f"local-dir:{folder}", **{"head": str(folder / "head.pth"), **more})


def test_equals_the_authors_layers(folder: Path, golden: Golden) -> None:
    extractor = made(folder)
    extractor.check()
    extractor.load("cpu")
    rng = np.random.default_rng(0)
    shown = [rng.integers(0, 256, (40, 32, 3), dtype=np.uint8) for _ in range(3)]
    features = extractor(shown, [], ["score", "image"])
    theirs = Predictor(24).eval()
    theirs.load_state_dict(torch.load(folder / "head.pth", weights_only=True))
    embedding = features["image"].numpy()
    unit = torch.from_numpy(embedding / np.linalg.norm(embedding, axis=1, keepdims=True))
    with torch.no_grad():
        expected = theirs.layers(unit)
    torch.testing.assert_close(features["score"], expected, rtol=1e-5, atol=1e-6)
    found = score_of("aesthetic", features["score"]).value
    source = "the authors' layers, the same embeddings"
    golden("aesthetic", found, expected.mean(), rel=1e-5, source=source, weights=RANDOM)
    assert extractor.layers["score"] == 1
    assert set(extractor(shown, [], ["image"])) == {"image"}
    assert features["score"].std() > 0


def test_identity_label_and_the_published_head(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = sha256_file(folder / "head.pth")
    assert made(folder).identity()["head"] == digest
    assert made(folder).label() == f"aesthetic+{digest[:8]}"
    assert made(folder, head_sha256=digest[:10]).label() == "aesthetic"
    assert HEAD.sha256.startswith("21dd590f")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(aesthetic, "HEAD", replace(HEAD, sha256=digest))
    cached = tmp_path / "hub" / "checkpoints" / HEAD.file
    cached.parent.mkdir(parents=True)
    cached.write_bytes((folder / "head.pth").read_bytes())
    assert Aesthetic("aesthetic", f"local-dir:{folder}", canonical=True).canonical()
    assert Aesthetic("aesthetic", f"local-dir:{folder}", canonical=True).label() == "aesthetic"


def test_wrong_heads(folder: Path, tmp_path: Path) -> None:
    torch.save(Predictor(20).state_dict(), tmp_path / "narrow.pth")
    torch.save({"layers.0.weight": torch.zeros(1)}, tmp_path / "lacking.pth")
    with pytest.raises(ConfigError, match=r"takes embeddings of 20 values, but .* gives 24: use CLIP ViT-L/14"):
        made(folder, head=str(tmp_path / "narrow.pth")).load("cpu")
    with pytest.raises(ConfigError, match=r"is not the file of this model: it lacks 'layers\.0\.bias'"):
        made(folder, head=str(tmp_path / "lacking.pth")).load("cpu")
    with pytest.raises(ConfigError, match=r"no weights file .*gone\.pth \(extractor\.aesthetic\.head\)"):
        made(folder, head=str(tmp_path / "gone.pth")).check()
    with pytest.raises(ConfigError, match=r"but 00000000 is asked for: .* change extractor\.aesthetic\.head_sha256"):
        made(folder, head_sha256="00000000").check()
