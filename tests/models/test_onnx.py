"""ONNX Runtime: exported generators and denoisers against the torch ones, names, providers, refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from packages import need
from torch import Tensor, nn

from evalkit.config.build import build
from evalkit.errors import ConfigError, DataError
from evalkit.models.base import Request, Sampler
from evalkit.models.onnx.model import OnnxDenoiser, OnnxModel

need("onnxruntime", "onnxruntime is not installed")
need("onnxscript", "onnxscript is not installed: torch cannot export")

ROOT = Path(__file__).resolve().parents[2]


def digits_option() -> dict[str, Any]:
    option: Any = OmegaConf.to_container(OmegaConf.load(ROOT / "configs/model/digits_dcgan.yaml"))["digits_dcgan"]  # type: ignore[index]
    del option["truncation"], option["latents"]
    return dict(option)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped digits generator as one .onnx file, by the command."""
    from evalkit.models.onnx.export import main

    file = tmp_path_factory.mktemp("onnx") / "g.onnx"
    assert main(["digits_dcgan", str(file)]) == 0
    return file


def digits(exported: Path, **changes: Any) -> OnnxModel:
    made = OnnxModel(str(exported), **{"latent_dim": 64, "num_classes": 10, "threads": 1, **changes})
    made.check()
    made.load("cpu")
    return made


def ask(count: int, start: int = 0) -> list[Request]:
    return [Request(i, 0) for i in range(start, start + count)]


def images(made: Any, requests: list[Request], **settings: Any) -> np.ndarray:
    pixels: np.ndarray = made.generate(requests, sampler=None, settings=settings).images
    return pixels


def test_the_digits_generator_equals_torch(exported: Path) -> None:
    """256 samples: pixels at most a level apart, and few of them; the FID is that of torch's within a thousandth."""
    from options import extractor_of, features_of, score_of

    theirs = build(digits_option())
    theirs.load("cpu")
    ours = digits(exported)
    a, b = images(theirs, ask(256)), images(ours, ask(256))
    assert np.abs(a.astype(int) - b).max() <= 1
    assert (a != b).mean() < 1e-3
    error = np.square(a.astype(float) - b).mean()
    assert error == 0 or 10 * np.log10(255**2 / error) > 70
    for limit in (0.5, 2.0):
        apart = np.abs(images(theirs, ask(9), truncation=limit).astype(int) - images(ours, ask(9), truncation=limit))
        assert apart.max() <= 1
    assert made_alone(ours, whole=b) <= 1
    reference = np.random.default_rng(0).normal(size=(300, 64)) + 1
    eye = extractor_of("digits")
    features = [features_of(eye, list(x), "features")["features"] for x in (a, b)]
    found = [score_of("fid_digits", each, reference=reference) for each in features]
    assert found[0].value is not None
    assert found[1].value == pytest.approx(found[0].value, rel=1e-3)


def made_alone(ours: OnnxModel, whole: np.ndarray) -> int:
    """How far samples made alone are from those of the whole batch."""
    parts = np.concatenate([images(ours, ask(n, start)) for start, n in ((0, 1), (1, 3), (4, 6))])
    return int(np.abs(parts.astype(int) - whole[:10]).max())


def test_classes_latents_and_path_lengths(exported: Path) -> None:
    ours = digits(exported)
    assert (images(ours, [Request(13, 0)]) == images(ours, [Request(13, 0, class_id=3)])).all()
    assert (images(ours, [Request(13, 0)]) != images(ours, [Request(13, 0, class_id=4)])).any()
    assert ours.spaces == ("z",)
    latents = ours.latents(ask(3), space="z", sampler=None, settings={})
    assert latents.shape == (3, 64)
    rendered = ours.render(latents, ask(3), space="z", sampler=None, settings={})
    assert (rendered != rendered.round()).any(), "what metrics of models see is not rounded"
    with pytest.raises(DataError, match="asks for class 10; the generator has 10"):
        images(ours, [Request(0, 0, class_id=10)])


def test_the_export_command(exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import onnx

    from evalkit.models.onnx.export import OPSET, main

    graph = onnx.load(str(exported))
    onnx.checker.check_model(graph)
    assert [i.name for i in graph.graph.input] == ["z", "classes"]
    assert [o.version for o in graph.opset_import if o.domain == ""] == [OPSET]
    assert [p.name for p in exported.parent.iterdir()] == ["g.onnx"], "one file, weights and all"
    assert main(["digits_vae", str(tmp_path / "l.onnx")]) == 2
    assert "a generator with `module` and `weights`" in capsys.readouterr().err
    assert main(["digits_dcga", str(tmp_path / "l.onnx")]) == 2
    assert "Did you mean 'digits_dcgan'" in capsys.readouterr().err


def test_a_graph_of_batch_one_is_called_image_by_image(exported: Path, tmp_path: Path) -> None:
    import onnx

    graph = onnx.load(str(exported))
    for value in (*graph.graph.input, *graph.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(graph, str(tmp_path / "one.onnx"))
    one = digits(tmp_path / "one.onnx")
    assert [shape[0] for _, shape in one.file.inputs().values()] == [1, 1]
    assert np.abs(images(one, ask(3)).astype(int) - images(digits(exported), ask(3))).max() <= 1


class Pair(nn.Module):
    """Takes its inputs by names of its own, in an order of its own; grey, in [0,1]."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(12, 16)

    def forward(self, onehot: Tensor, noise: Tensor) -> Tensor:
        return torch.sigmoid(self.line(torch.cat([noise.flatten(1), onehot], 1))).reshape(-1, 1, 4, 4)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Pair, Path]:
    from evalkit.models.onnx.export import export_onnx

    torch.manual_seed(0)
    net, file = Pair(), tmp_path_factory.mktemp("pair") / "pair.onnx"
    export_onnx(net, [torch.zeros(2, 4), torch.zeros(2, 2, 4)], file, ["onehot", "noise"])
    return net, file


def test_inputs_by_name(pair: tuple[Pair, Path]) -> None:
    net, file = pair
    asked = {"latent_dim": [2, 4], "num_classes": 4, "class_input": "one_hot", "output_range": [0, 1]}
    made = digits(file, inputs={"latent": "noise", "classes": "onehot"}, output="images", **asked)
    found = images(made, ask(5))
    z = torch.stack([torch.randn(2, 4, generator=r.generator()) for r in ask(5)])
    with torch.no_grad():
        wanted = net(torch.eye(4)[torch.arange(5) % 4], z)[:, 0, :, :, None] * 255
    assert np.abs(found - wanted.numpy()).max() <= 0.51
    assert found.shape == (5, 4, 4, 3)
    with pytest.raises(ConfigError, match=r"has no input 'noize' .latent.. Did you mean 'noise'"):
        images(digits(file, inputs={"latent": "noize"}, **asked), ask(1))
    with pytest.raises(ConfigError, match="also takes the input onehot"):
        images(digits(file, inputs={"latent": "noise"}, **(asked | {"num_classes": None})), ask(1))
    with pytest.raises(ConfigError, match=r"has no output 'image'. Did you mean 'images'"):
        images(digits(file, output="image", **asked), ask(1))
    with pytest.raises(ConfigError, match=r"cannot take onehot .1, 2, 4."):
        images(digits(file, **asked), ask(1))
    with pytest.raises(ConfigError, match=r"inputs.lantent: there is no such input. Did you mean 'latent'"):
        OnnxModel("g.onnx", inputs={"lantent": "z"})


def test_providers_threads_and_files(exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for wrong in ("tpu", ["cpu", "tpu"], "TpuExecutionProvider"):
        with pytest.raises(
            ConfigError, match=r"provider '[tT]pu.*' is not available in onnxruntime .*available: .*cpu"
        ):
            OnnxModel(str(exported), providers=wrong).check()
    with pytest.raises(ConfigError, match="providers: give at least one"):
        OnnxModel(str(exported), providers=[])
    with pytest.raises(ConfigError, match="threads=0: give a whole number >= 1"):
        OnnxModel(str(exported), threads=0)
    with pytest.raises(ConfigError, match=r"none.onnx is missing: set path"):
        OnnxModel(str(tmp_path / "none.onnx")).check()
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    with pytest.raises(DataError, match=r"broken.onnx cannot be loaded by ONNX Runtime") as caught:
        OnnxModel(str(tmp_path / "broken.onnx")).load("cpu")
    assert "\n" not in str(caught.value)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"needs ONNX Runtime: pip install 'evalkit\[onnx\]'"):
        OnnxModel(str(exported)).check()


def test_providers_name_the_wheel_that_has_them(exported: Path) -> None:
    import onnxruntime

    wheels = {"cuda": "onnxruntime-gpu", "tensorrt": "onnxruntime-gpu", "OpenVINO": "onnxruntime-openvino"}
    for name, wheel in wheels.items():
        if f"{name}executionprovider".lower() in map(str.lower, onnxruntime.get_available_providers()):
            continue
        with pytest.raises(ConfigError, match=f"'{name}' is not available .* .it comes with {wheel}, instead of") as e:
            OnnxModel(str(exported), providers=[name, "cpu"]).check()
        assert "\n" not in str(e.value)


def test_session_options(exported: Path, tmp_path: Path) -> None:
    """Each is what ONNX Runtime is told; images stay; the identity holds them where they are set."""
    plain = digits(exported)
    options = {
        "graph_optimization_level": "disable",
        "execution_mode": "parallel",
        "inter_op_num_threads": 2,
        "enable_mem_pattern": False,
        "config_entries": {"session.set_denormal_as_zero": 1},
    }
    made = digits(exported, session=options, provider_options={"cpu": {}})
    told = made.file._session.get_session_options()
    assert str(told.graph_optimization_level).endswith("ORT_DISABLE_ALL")
    assert str(told.execution_mode).endswith("ORT_PARALLEL")
    assert told.inter_op_num_threads == 2
    assert told.enable_mem_pattern is False
    assert told.get_session_config_entry("session.set_denormal_as_zero") == "1"
    assert np.abs(images(made, ask(4)).astype(int) - images(plain, ask(4))).max() <= 1
    assert "session" not in plain.identity()
    assert made.identity() == {**plain.identity(), "session": options, "provider_options": {"cpu": {}}}
    denoiser = OnnxDenoiser(str(exported), str(tmp_path), session={"execution_mode": "parallel"})
    assert denoiser.file.session == {"execution_mode": "parallel"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"session": {"graph_optimization": "all"}},
            "session.graph_optimization: there is no such session option. Did",
        ),
        ({"session": {"graph_optimization_level": "al"}}, "session.graph_optimization_level=al: Did you mean 'all'?"),
        ({"session": {"enable_mem_pattern": 1}}, "session.enable_mem_pattern=1: give true or false"),
        ({"session": {"inter_op_num_threads": 0}}, "session.inter_op_num_threads=0: give a whole number >= 1"),
        ({"session": {"config_entries": "x"}}, "session.config_entries=x: give a mapping"),
        ({"provider_options": {"cuda": {}}}, "provider_options.cuda: not one of the providers. Choices: cpu."),
    ],
)
def test_wrong_session_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        OnnxModel("g.onnx", **options)
    assert message in str(caught.value)


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_provider_that_does_not_start_is_not_replaced_in_silence(
    exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where CUDA's libraries are missing: ONNX Runtime goes on with the CPU, and only warns."""
    made = OnnxModel(str(exported), providers=["cuda", "cpu"])
    names = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(made.file, "provider_names", lambda: names)
    with pytest.raises(ConfigError, match=r"CUDAExecutionProvider did not start .* fell back to CPUExecutionProvider"):
        made.load("cpu")


def test_identity(exported: Path, tmp_path: Path) -> None:
    file = tmp_path / "g.onnx"
    file.write_bytes(exported.read_bytes())
    one = OnnxModel(str(file)).identity()
    assert json.loads(json.dumps(one)) == one
    assert one["weights"] == OnnxModel(str(exported)).identity()["weights"], "the bytes count, not the place"
    for change in ({"threads": 2}, {"latent_dim": 9}, {"inputs": {"latent": "z"}}, {"providers": ["cuda", "cpu"]}):
        assert OnnxModel(str(file), **change).identity() != one
    (tmp_path / "g.onnx.data").write_bytes(b"weights beside it")
    assert OnnxModel(str(file)).identity() != one


class Noise(nn.Module):
    """The digits DDPM's UNet as a plain function of tensors."""

    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, sample: Tensor, timestep: Tensor, classes: Tensor) -> Tensor:
        out: Tensor = self.unet(sample, timestep, class_labels=classes, return_dict=False)[0]
        return out


def test_a_denoiser_equals_the_pipeline(tmp_path: Path) -> None:
    """A small UNet2DModel with classes, exported, under two samplers: as the same UNet in a diffusers folder."""
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

    from evalkit.models.diffusers.model import DiffusersModel
    from evalkit.models.onnx.export import export_onnx

    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=8,
        in_channels=3,
        out_channels=3,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=8,
        num_class_embeds=4,
    )
    DDPMPipeline(unet, DDPMScheduler(num_train_timesteps=100)).save_pretrained(tmp_path / "ddpm")
    examples = [torch.randn(2, 3, 8, 8), torch.tensor([3, 70]), torch.tensor([0, 2])]
    export_onnx(Noise(unet), examples, tmp_path / "u.onnx", ["sample", "timestep", "classes"])
    theirs = DiffusersModel(str(tmp_path / "ddpm"))
    theirs.load("cpu")
    ours = OnnxDenoiser(
        str(tmp_path / "u.onnx"), str(tmp_path / "ddpm/scheduler"), num_classes=4, conditioning="class", threads=1
    )
    ours.check()
    ours.load("cpu")
    for sampler in (Sampler("DDIMScheduler", num_inference_steps=3), Sampler(num_inference_steps=4)):
        ours.check_call(sampler, {})
        a, b = (m.generate(ask(4), sampler=sampler, settings={}) for m in (theirs, ours))
        assert np.abs(a.images.astype(int) - b.images).max() <= 1
        assert a.nfe == b.nfe == sampler.num_inference_steps
    alone = ours.generate(ask(1, 2), sampler=sampler, settings={}).images
    assert np.abs(alone.astype(int) - b.images[2:3]).max() <= 1
    free = OnnxDenoiser(str(tmp_path / "u.onnx"), str(tmp_path / "ddpm/scheduler/scheduler_config.json"), num_classes=4)
    free.load("cpu")
    assert free.conditioning == "none"
    assert free.generate(ask(2), sampler=sampler, settings={}).images.shape == (2, 8, 8, 3)
    with pytest.raises(ConfigError, match=r"takes no setting 'eat'. Did you mean 'eta'"):
        ours.check_call(sampler, {"eat": 1})
    with pytest.raises(ConfigError, match=r"no scheduler 'DDIMSchedule'. Did you mean 'DDIMScheduler'"):
        ours.check_call(Sampler("DDIMSchedule"), {})
    with pytest.raises(ConfigError, match=r"is missing: set scheduler to the model's scheduler_config.json"):
        OnnxDenoiser(str(tmp_path / "u.onnx"), str(tmp_path)).check()
    with pytest.raises(ConfigError, match="give class, with num_classes, or none"):
        OnnxDenoiser("u.onnx", "s", conditioning="class")
    with pytest.raises(DataError, match="sample 0 asks for class 7"):
        ours.generate([Request(0, 0, class_id=7)], sampler=sampler, settings={})
