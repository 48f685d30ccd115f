"""TorchModuleModel: weights of every form, latents, truncation, classes, pixels."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from evalkit.errors import ConfigError, DataError, EvalkitError
from evalkit.models.base import Request
from evalkit.models.gan import TorchModuleModel


class Tiny(nn.Module):
    """A generator [B,8] -> [B,3,4,4] in [-1,1]."""

    def __init__(self, width: int = 8, channels: int = 3) -> None:
        super().__init__()
        self.channels = channels
        self.linear = nn.Linear(width, channels * 16)
        self.norm = nn.BatchNorm1d(channels * 16)

    def forward(self, z: Tensor) -> Tensor:
        return torch.tanh(self.norm(self.linear(z))).reshape(-1, self.channels, 4, 4)


class Classes(Tiny):
    def __init__(self) -> None:
        super().__init__(18)
        self.table = nn.Embedding(10, 10)

    def forward(self, z: Tensor, class_labels: Tensor) -> Tensor:  # type: ignore[override]
        onehot = class_labels if class_labels.is_floating_point() else self.table(class_labels)
        return super().forward(torch.cat([z, onehot], 1))


class Ramp(nn.Module):
    """Gives what it is told, to test pixels: the buffer `values` [1,C,H,W] once a latent."""

    values: Tensor

    def __init__(self, shape: tuple[int, ...] = (1, 3, 1, 6)) -> None:
        super().__init__()
        self.register_buffer("values", torch.zeros(shape))

    def forward(self, z: Tensor) -> Tensor:
        return self.values.expand(len(z), *self.values.shape[1:])


HERE = __name__


@pytest.fixture
def state() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return Tiny().state_dict()


def model(weights: Path, name: str = "Tiny", **kwargs: Any) -> TorchModuleModel:
    made = TorchModuleModel(f"{HERE}.{name}", weights=str(weights), **{"latent_dim": 8, **kwargs})
    made.check()
    made.load("cpu")
    return made


def make(made: TorchModuleModel, requests: list[Request], **settings: Any) -> Any:
    return made.generate(requests, sampler=None, settings=settings)


def ask(count: int, start: int = 0, seed: int = 0) -> list[Request]:
    return [Request(i, seed) for i in range(start, start + count)]


def saved(state: Mapping[str, Any], file: Path) -> Path:
    if file.suffix == ".safetensors":
        from safetensors.torch import save_file

        save_file(dict(state), str(file))
    else:
        torch.save(state, file)
    return file


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth"])
def test_weights_of_every_form(state: dict[str, Tensor], tmp_path: Path, suffix: str) -> None:
    made = model(saved(state, tmp_path / f"g{suffix}"))
    images = make(made, ask(4))
    assert images.images.shape == (4, 4, 4, 3)
    assert images.images.dtype == np.uint8
    assert images.nfe == 1.0
    assert images.warnings == [[], [], [], []]
    reference = Tiny().eval()
    reference.load_state_dict(state)
    z = torch.stack([torch.randn(8, generator=r.generator()) for r in ask(4)])
    with torch.no_grad():
        wanted = (reference(z).permute(0, 2, 3, 1) + 1) * 127.5
    assert np.abs(images.images - wanted.numpy()).max() <= 0.51


def test_torchscript(state: dict[str, Tensor], tmp_path: Path) -> None:
    net = Tiny().eval()
    net.load_state_dict(state)
    torch.jit.trace(net, torch.zeros(2, 8)).save(str(tmp_path / "g.pt"))
    scripted = TorchModuleModel(torchscript=str(tmp_path / "g.pt"), latent_dim=8)
    scripted.check()
    scripted.load("cpu")
    plain = model(saved(state, tmp_path / "g.safetensors"))
    assert (make(scripted, ask(5)).images == make(plain, ask(5)).images).all()
    assert json.loads(json.dumps(scripted.identity())) == scripted.identity()
    (tmp_path / "g.pt").write_bytes(b"no archive")
    with pytest.raises(DataError, match=r"g.pt is no TorchScript file") as caught:
        scripted.load("cpu")
    assert "\n" not in str(caught.value)


def test_module_as_a_mapping(state: dict[str, Tensor], tmp_path: Path) -> None:
    file = str(saved(state, tmp_path / "g.pt"))
    made = TorchModuleModel({"_target_": f"{HERE}.Tiny", "width": 8}, weights=file, latent_dim=8)
    made.check()
    made.load("cpu")
    assert (make(made, ask(3)).images == make(model(Path(file)), ask(3)).images).all()
    wide = model(saved(Tiny(5).state_dict(), tmp_path / "w.pt"), module_args={"width": 5}, latent_dim=5)
    assert make(wide, ask(1)).images.shape == (1, 4, 4, 3)


def test_samples_depend_on_seed_and_index_alone(state: dict[str, Tensor], tmp_path: Path) -> None:
    made = model(saved(state, tmp_path / "g.pt"))
    whole = make(made, ask(7)).images
    parts = np.concatenate([make(made, ask(n, start)).images for start, n in ((0, 1), (1, 3), (4, 3))])
    assert np.abs(parts.astype(int) - whole).max() <= 1
    assert len({image.tobytes() for image in whole}) == 7
    assert (make(made, ask(7, seed=1)).images != whole).any()


def test_half_weights_fill_a_float32_module(state: dict[str, Tensor], tmp_path: Path) -> None:
    half = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
    made = model(saved(half, tmp_path / "g.safetensors"))
    assert made._net.linear.weight.dtype == torch.float32
    brain = model(tmp_path / "g.safetensors", dtype="bfloat16")
    assert brain._net.linear.weight.dtype == torch.bfloat16
    assert np.abs(make(brain, ask(3)).images.astype(int) - make(made, ask(3)).images).mean() < 5


def test_truncation_bounds_latents_and_keeps_those_within(state: dict[str, Tensor], tmp_path: Path) -> None:
    made = model(saved(state, tmp_path / "g.pt"))
    plain = torch.stack([made._draw(r.generator(), None) for r in ask(500)])
    for limit in (2.0, 0.5):
        cut = torch.stack([made._draw(r.generator(), limit) for r in ask(500)])
        assert cut.abs().max() <= limit
        within = plain.abs() <= limit
        assert (cut[within] == plain[within]).all()
        if limit == 0.5:  # a normal truncated to +-a: variance 1 - 2 a phi(a) / (2 Phi(a) - 1)
            assert abs(float(cut.var()) - 0.0805) < 0.005
    assert plain.abs().max() > 3
    assert (make(made, ask(3), truncation=0.5).images != make(made, ask(3)).images).any()
    assert (make(made, ask(3), truncation=100.0).images == make(made, ask(3)).images).all()
    parts = [make(made, ask(1, i), truncation=0.5).images for i in range(3)]
    assert np.abs(np.concatenate(parts).astype(int) - make(made, ask(3), truncation=0.5).images).max() <= 1


def test_uniform_latents_and_latent_shapes(state: dict[str, Tensor], tmp_path: Path) -> None:
    file = saved(state, tmp_path / "g.pt")
    uniform = model(file, latent="uniform")
    z = torch.stack([uniform._draw(r.generator(), None) for r in ask(500)])
    assert -1 <= z.min() < -0.99
    assert 0.99 < z.max() <= 1
    with pytest.raises(ConfigError, match="truncation is for normal latents"):
        make(uniform, ask(1), truncation=1.0)
    maps = model(saved(Ramp().state_dict(), tmp_path / "r.pt"), "Ramp", latent_dim=[8, 1, 1])
    assert maps._draw(Request(0, 0).generator(), None).shape == (8, 1, 1)
    assert make(maps, ask(2)).images.shape == (2, 1, 6, 3)


def test_classes(tmp_path: Path) -> None:
    torch.manual_seed(0)
    file = saved(Classes().state_dict(), tmp_path / "c.safetensors")
    made = model(file, "Classes", num_classes=10)
    assert made.conditioning == "class"
    images = make(made, [Request(13, 0)]).images
    assert (make(made, [Request(13, 0, class_id=3)]).images == images).all()
    assert (make(made, [Request(13, 0, class_id=4)]).images != images).any()
    with pytest.raises(DataError, match="sample 2 asks for class 10; the generator has 10"):
        make(made, [Request(2, 0, class_id=10)])
    onehot = model(file, "Classes", num_classes=10, class_input="one_hot")
    assert (make(onehot, [Request(13, 0)]).images != images).any()


@pytest.mark.parametrize(
    ("output_range", "values", "pixels"),
    [
        ((-1, 1), [-1.5, -1, 0, 0.5 / 127.5, 1, 7], [0, 0, 128, 128, 255, 255]),
        ((0, 1), [-0.1, 0, 0.5, 1.5 / 255, 1, 2], [0, 0, 128, 2, 255, 255]),
        ((0, 255), [-3, 0.49, 0.5, 1.5, 254.5, 300], [0, 0, 1, 2, 255, 255]),
    ],
)
def test_pixels(tmp_path: Path, output_range: tuple[float, float], values: list[float], pixels: list[int]) -> None:
    file = saved({"values": torch.tensor(values).expand(1, 3, 1, 6).contiguous()}, tmp_path / "r.safetensors")
    images = make(model(file, "Ramp", output_range=output_range), ask(2)).images
    assert (images == np.array(pixels)[None, None, :, None]).all()


def test_grey_is_repeated(tmp_path: Path) -> None:
    file = saved({"values": torch.rand(1, 1, 2, 2)}, tmp_path / "r.pt")
    images = make(model(file, "Ramp", module_args={"shape": [1, 1, 2, 2]}), ask(2)).images
    assert images.shape == (2, 2, 2, 3)
    assert (images[..., :1] == images).all()


@pytest.mark.parametrize(
    ("shape", "value", "message"),
    [
        ([1, 4, 2, 2], 0.0, r"gave \[2, 4, 2, 2\] for 2 latents, not \[2,3,H,W\]"),
        ([1, 12], 0.0, r"gave \[2, 12\] for 2 latents"),
        ([1, 3, 2, 2], float("nan"), "holds NaN"),
        ([1, 3, 2, 2], float("inf"), "holds NaN or infinite"),
    ],
)
def test_outputs_that_are_no_images(tmp_path: Path, shape: list[int], value: float, message: str) -> None:
    file = saved({"values": torch.full(shape, value)}, tmp_path / "r.pt")
    with pytest.raises(DataError, match=message):
        make(model(file, "Ramp", module_args={"shape": shape}), ask(2))


def test_weights_that_do_not_fit_are_named(state: dict[str, Tensor], tmp_path: Path) -> None:
    def error(changed: Mapping[str, Any]) -> str:
        with pytest.raises(EvalkitError) as caught:
            model(saved(changed, tmp_path / "g.pt"))
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "g.pt lacks linear.weight" in error({k: v for k, v in state.items() if k != "linear.weight"})
    assert "has no place for extra.bias" in error({**state, "extra.bias": torch.zeros(1)})
    assert "linear.bias is [3], the module's [48]" in error({**state, "linear.bias": torch.zeros(3)})
    assert "is in 'g_ema': say so (weights_key=g_ema)" in error({"g_ema": state, "step": 3})
    many = {f"module.{k}": v for k, v in state.items()}
    assert "lacks linear.bias, linear.weight, norm.bias, norm.num_batches_tracked" in error(many)


def test_weights_key(state: dict[str, Tensor], tmp_path: Path) -> None:
    file = saved({"g_ema": state, "step": 3}, tmp_path / "all.pt")
    assert make(model(file, weights_key="g_ema"), ask(1)).images.shape == (1, 4, 4, 3)
    with pytest.raises(ConfigError, match="Did you mean 'g_ema'"):
        model(file, weights_key="g_em")


class Evil:
    def __reduce__(self) -> Any:
        return (sys.exit, (3,))


def test_a_pickle_is_never_run(tmp_path: Path) -> None:
    torch.save({"w": Evil()}, tmp_path / "g.pt")
    with pytest.raises(ConfigError, match=r"g.pt holds more than tensors.*state_dict\(\)") as caught:
        model(tmp_path / "g.pt")
    assert "\n" not in str(caught.value)
    (tmp_path / "g.pt").write_bytes(b"")
    with pytest.raises(ConfigError, match="cannot be read as a state dict"):
        model(tmp_path / "g.pt")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "either `module`"),
        ({"module": "a.B", "torchscript": "f"}, "either `module`"),
        ({"module": "a.B"}, "a.B: give its weights"),
        ({"torchscript": "f", "latent": "norml"}, "Did you mean 'normal'"),
        ({"torchscript": "f", "class_input": "onehot"}, "Did you mean 'one_hot'"),
        ({"torchscript": "f", "dtype": "float16x"}, "Did you mean 'float16'"),
        ({"torchscript": "f", "output_range": [1, -1]}, "darkest and the lightest"),
        ({"torchscript": "f", "num_classes": 0}, "num_classes=0"),
    ],
)
def test_constructor_refusals(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TorchModuleModel(**arguments)


def test_refusals(state: dict[str, Tensor], tmp_path: Path) -> None:
    file = saved(state, tmp_path / "g.pt")
    made = model(file)
    for settings, message in (
        ({"truncate": 1.0}, "Did you mean 'truncation'"),
        ({"truncation": 0.0}, "at least 0.01"),
        ({"truncation": True}, "at least 0.01"),
        ({"truncation": "big"}, "at least 0.01"),
    ):
        with pytest.raises(ConfigError, match=message):
            make(made, ask(1), **settings)
    with pytest.raises(ConfigError, match=r"cannot take \[1, 5\] \(latent_dim, num_classes\)"):
        make(model(file, latent_dim=5), ask(1))
    with pytest.raises(ConfigError, match=r"cannot take \[1, 8\], \[1\]"):
        make(model(file, num_classes=3), ask(1))
    with pytest.raises(ConfigError, match=r"nowhere.pt is missing: set weights"):
        model(tmp_path / "nowhere.pt")
    with pytest.raises(ConfigError, match="there is no package 'no_such_package'"):
        TorchModuleModel("no_such_package.Net", weights=str(file)).check()
    with pytest.raises(ConfigError, match="Did you mean 'Tiny'"):
        model(file, "Tiney")
    with pytest.raises(ConfigError, match=r"is not a subclass of torch\.nn\.modules\.module\.Module"):
        TorchModuleModel("evalkit.models.base.Sampler", weights=str(file)).load("cpu")
    broken = saved(state, tmp_path / "b.safetensors")
    broken.write_bytes(broken.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"b.safetensors is no safetensors file, or its end is missing"):
        model(broken)


def test_identity_follows_weights_arguments_and_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "somegan"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('naming a module must not import it')")
    (package / "nets.py").write_text("class G: ...")
    monkeypatch.syspath_prepend(tmp_path)
    weights = tmp_path / "g.pt"
    weights.write_bytes(b"one")

    def identity(**kwargs: Any) -> dict[str, Any]:
        made = TorchModuleModel("somegan.nets.G", weights=str(weights), **kwargs)
        made.check()
        return made.identity()

    one = identity()
    assert json.loads(json.dumps(one)) == one
    assert identity() == one
    for change in ({"latent_dim": 9}, {"num_classes": 2}, {"output_range": [0, 1]}, {"module_args": {"a": 1}}):
        assert identity(**change) != one
    (package / "nets.py").write_text("class G: 'changed'")
    assert identity() != one
    (package / "nets.py").write_text("class G: ...")
    weights.write_bytes(b"two, longer")
    assert identity() != one


def test_digits_dcgan() -> None:
    from omegaconf import OmegaConf

    from evalkit.config.build import build

    file = Path(__file__).resolve().parents[2] / "configs" / "model" / "digits_dcgan.yaml"
    option: Any = OmegaConf.to_container(OmegaConf.load(file))["digits_dcgan"]  # type: ignore[index]
    settings = {key: option.pop(key) for key in list(option) if key in TorchModuleModel.call_settings}
    made = build({key: value for key, value in option.items() if key != "latents"})
    try:
        made.check()
    except EvalkitError as error:
        pytest.skip(f"the weights are not there: {error}")
    made.load("cpu")
    images = make(made, ask(10), **settings).images
    assert images.shape == (10, 32, 32, 3)
    assert images.std() > 20
    made.unload()
