"""StyleGanModel on a small generator of that family: truncation, noise, classes, w."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_stylegan
import torch

from evalkit.errors import ConfigError, DataError
from evalkit.models.base import Request
from evalkit.models.latent import to_pixels
from evalkit.models.stylegan import StyleGanModel


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("stylegan") / "g.safetensors"
    tiny_stylegan.save(file)
    return file


def model(weights: Path, module: str = "tiny_stylegan.Generator", **arguments: Any) -> StyleGanModel:
    made = StyleGanModel(module, str(weights), **{"z_dim": 16, **arguments})
    made.check()
    made.load("cpu")
    return made


def ask(count: int, start: int = 0, seed: int = 0, **more: Any) -> list[Request]:
    return [Request(i, seed, **more) for i in range(start, start + count)]


def images(made: StyleGanModel, requests: list[Request], **settings: Any) -> np.ndarray:
    return made.generate(requests, sampler=None, settings=settings).images


def test_equals_the_module_itself(weights: Path) -> None:
    net = tiny_stylegan.Generator().eval()
    made = model(weights)
    net.load_state_dict(made._net.state_dict())
    z = torch.stack([torch.randn(16, generator=r.generator()) for r in ask(5)])
    with torch.no_grad():
        for psi in (1, 0.5):
            wanted = (net(z, torch.zeros(5, 0), truncation_psi=psi).permute(0, 2, 3, 1) + 1) * 127.5
            found = images(made, ask(5), truncation_psi=psi)
            assert np.abs(found - wanted.clamp(0, 255).numpy()).max() <= 0.51
    assert found.shape == (5, 16, 16, 3)
    assert len({image.tobytes() for image in found}) == 5


def test_truncation_goes_from_the_mean_image_to_the_sample(weights: Path) -> None:
    made = model(weights)
    mean = made._net.synthesis(made._net.mapping.w_avg.repeat(1, 3, 1), noise_mode="const")
    nought = images(made, ask(6), truncation_psi=0)
    assert (nought == to_pixels(made._scaled(mean, 1)[0])).all(), "psi 0: the image of the mean w, for every z"
    whole = images(made, ask(6))
    assert (images(made, ask(6), truncation_psi=1) == whole).all()
    assert (images(made, ask(6), truncation_psi=None, truncation_cutoff=None) == whole).all()
    spread = [images(made, ask(40), truncation_psi=psi).astype(float).std(0).mean() for psi in (0, 0.3, 0.7, 1)]
    assert spread == sorted(spread)
    assert spread[0] == 0 < spread[1]
    assert (images(made, ask(6), truncation_psi=0, truncation_cutoff=0) == whole).all(), "no layer is changed"
    part = images(made, ask(6), truncation_psi=0, truncation_cutoff=1)
    assert (part != whole).any()
    assert (part != nought).any()


def test_samples_depend_on_seed_and_index_alone(weights: Path) -> None:
    made = model(weights)
    whole = images(made, ask(7), truncation_psi=0.7)
    parts = [images(made, ask(n, start), truncation_psi=0.7) for start, n in ((0, 1), (1, 3), (4, 3))]
    assert np.abs(np.concatenate(parts).astype(int) - whole).max() <= 1
    assert (images(made, ask(7, seed=1), truncation_psi=0.7) != whole).any()


def test_noise(weights: Path) -> None:
    made = model(weights, synthesis_args={"force_fp32": True})
    const, none = images(made, ask(2)), images(made, ask(2), noise_mode="none")
    assert made._net.synthesis.calls[-2:] == [{"noise_mode": m, "force_fp32": True} for m in ("const", "none")]
    assert (const != none).any()
    assert (images(made, ask(2), noise_mode="const") == const).all()
    with pytest.raises(ConfigError, match="noise_mode=random draws one noise for a whole batch"):
        images(made, ask(2), noise_mode="random")


def test_classes_and_w(tmp_path: Path) -> None:
    tiny_stylegan.save(tmp_path / "c.safetensors", c_dim=3)
    made = model(tmp_path / "c.safetensors", module_args={"c_dim": 3}, num_classes=3)
    assert made.conditioning == "class"
    own = images(made, ask(1, 4))
    assert (images(made, ask(1, 4, class_id=1)) == own).all(), "sample 4 of 3 classes is of class 1"
    assert (images(made, ask(1, 4, class_id=2)) != own).any()
    assert made.settled(Request(4, 0)).class_id == 1
    with pytest.raises(DataError, match="sample 0 asks for class 3; the generator has 3"):
        images(made, ask(1, class_id=3))
    for space, shape in (("z", (3, 16)), ("w", (3, 3, 12))):
        latents = made.latents(ask(3), space=space, sampler=None, settings={"truncation_psi": 0.6})
        assert latents.shape == shape
        again = made.render(latents, ask(3), space=space, sampler=None, settings={"truncation_psi": 0.6})
        assert (to_pixels(again) == images(made, ask(3), truncation_psi=0.6)).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"truncation": 1.0}, "Did you mean 'truncation_psi'"),
        ({"truncation_psi": "much"}, "truncation_psi='much': give a number"),
        ({"truncation_psi": True}, "give a number"),
        ({"truncation_psi": float("nan")}, "give a number"),
        ({"truncation_cutoff": -1}, "number of layers >= 0"),
        ({"noise_mode": "cosnt"}, "Did you mean 'const'"),
    ],
)
def test_refused_settings(weights: Path, settings: dict[str, Any], message: str) -> None:
    made = StyleGanModel("tiny_stylegan.Generator", str(weights))
    with pytest.raises(ConfigError, match=message):
        made.check_call(None, settings)


def test_refusals(weights: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({}, str(tmp_path / "none.safetensors"))
    with pytest.raises(ConfigError, match="has no `mapping`: model=\\[gan\\]"):
        model(tmp_path / "none.safetensors", "tiny_stylegan.NoHalves")
    with pytest.raises(ConfigError, match=r"cannot take \[2, 5\]"):
        images(model(weights, z_dim=5), ask(2))
    with pytest.raises(ConfigError, match="noise_mode is a setting of its own"):
        StyleGanModel("a.B", "g.pt", synthesis_args={"noise_mode": "none"})
    with pytest.raises(ConfigError, match=r"nowhere.pt is missing"):
        StyleGanModel("tiny_stylegan.Generator", str(tmp_path / "nowhere.pt")).check()


def test_identity(weights: Path) -> None:
    one = StyleGanModel("tiny_stylegan.Generator", str(weights)).identity()
    assert one["kind"] == "stylegan"
    assert json.loads(json.dumps(one)) == one
    for change in ({"synthesis_args": {"force_fp32": True}}, {"z_dim": 8}, {"num_classes": 3}, {"dtype": "bfloat16"}):
        assert StyleGanModel("tiny_stylegan.Generator", str(weights), **change).identity() != one
