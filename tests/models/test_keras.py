"""Keras 3 models: a generator trained elsewhere and ported, one made here, text-to-image tasks by a stand-in."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import types
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evalkit.errors import ConfigError, DataError, EvalkitError
from evalkit.models.base import Request
from evalkit.models.keras import KerasHubModel, KerasModel

if importlib.util.find_spec("keras") is None:  # not `importorskip`: it would import Keras on no backend of ours
    pytest.skip("keras is not installed", allow_module_level=True)
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def on_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    return


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random one: z [B,8] -> [B,8,8,3] in [-1,1]."""
    os.environ["KERAS_BACKEND"] = "torch"
    import keras

    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(128), keras.layers.Reshape((4, 4, 8))]
    layers += [keras.layers.Conv2DTranspose(8, 4, strides=2, padding="same", activation="relu")]
    layers += [keras.layers.Conv2D(3, 3, padding="same", activation="tanh")]
    file = tmp_path_factory.mktemp("keras") / "g.keras"
    keras.Sequential([keras.Input((8,)), *layers]).save(file)
    return file


def images(model: Any, count: int = 4, start: int = 0) -> np.ndarray:
    model.check()
    model.load("cpu")
    return model.generate([Request(i, 0) for i in range(start, start + count)], sampler=None, settings={}).images


def test_the_ported_dcgan_makes_the_same_images(tmp_path: Path) -> None:
    from keras_port import port

    from evalkit.models.gan import TorchModuleModel

    ported = KerasModel(str(port(tmp_path / "dcgan.keras")), latent_dim=64, num_classes=10)
    weights = "pkg://evalkit.digits/weights/dcgan.safetensors"
    own = TorchModuleModel("evalkit.digits.nets.DCGANGenerator", weights=weights, latent_dim=64, num_classes=10)
    made, wanted = images(ported, 16).astype(int), images(own, 16).astype(int)
    assert np.abs(made - wanted).max() <= 1, "the same latents, and layers that differ by rounding"
    assert made.std() > 30


def test_images_depend_on_their_own_latents_alone(generator: Path) -> None:
    model = KerasModel(str(generator), latent_dim=8)
    whole = images(model)
    assert whole.shape == (4, 8, 8, 3)
    assert whole.dtype == np.uint8
    parts = np.concatenate([images(model, 1, 0), images(model, 3, 1)])
    assert np.abs(parts.astype(int) - whole).max() <= 1
    assert len({image.tobytes() for image in whole}) == 4


def test_channels_first_and_ranges(generator: Path, tmp_path: Path) -> None:
    import keras

    whole = keras.saving.load_model(generator)
    turned = keras.Sequential([whole, keras.layers.Rescaling(0.5, 0.5), keras.layers.Permute((3, 1, 2))])
    turned.save(tmp_path / "first.keras")
    option: dict[str, Any] = {"latent_dim": 8, "data_format": "channels_first", "output_range": [0, 1]}
    made = images(KerasModel(str(tmp_path / "first.keras"), **option))
    assert np.abs(made.astype(int) - images(KerasModel(str(generator), latent_dim=8))).max() <= 1
    with pytest.raises(DataError, match=r"the generator gave \[4, 8, 8, 3\] for 4 latents"):
        images(KerasModel(str(generator), latent_dim=8, data_format="channels_first"))


def test_identity(generator: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = KerasModel(str(generator), latent_dim=8).identity()
    assert json.loads(json.dumps(one)) == one
    assert one["backend"] == "torch"
    assert KerasModel(str(generator), latent_dim=9).identity() != one
    monkeypatch.delenv("KERAS_BACKEND")
    assert KerasModel(str(generator), latent_dim=8).identity() == one, "torch where none is named"


def refused(message: str, path: Path | str, error: type[EvalkitError] = ConfigError, **options: Any) -> None:
    with pytest.raises(error, match=message) as caught:
        KerasModel(str(path), **options).check()
    assert "\n" not in str(caught.value)


def test_what_is_wrong_is_one_line_before_keras_is_imported(
    generator: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused("there is no file", tmp_path / "nowhere.keras")
    h5 = tmp_path / "g.h5"
    h5.write_bytes(b"")
    refused("is no .keras file: load it where it was made", h5)
    cut = tmp_path / "cut.keras"
    cut.write_bytes(generator.read_bytes()[:-40])
    refused("is no .keras file, or its end is missing", cut, DataError)
    with zipfile.ZipFile(tmp_path / "empty.keras", "w") as archive:
        archive.writestr("config.json", "{}")
    refused("holds no model.weights.h5", tmp_path / "empty.keras", DataError)
    refused("Did you mean 'channels_first'", generator, data_format="channel_first")
    monkeypatch.setenv("KERAS_BACKEND", "troch")
    refused("KERAS_BACKEND=troch is not known. Did you mean 'torch'", generator)
    if importlib.util.find_spec("jax") is None:
        monkeypatch.setenv("KERAS_BACKEND", "jax")
        refused(r"needs the package jax \(KERAS_BACKEND=jax\): pip install jax", generator)


def test_code_in_a_file_is_not_run_unless_allowed(generator: Path, tmp_path: Path) -> None:
    import keras

    whole = keras.saving.load_model(generator)
    coded = keras.Sequential([whole, keras.layers.Lambda(lambda x: -x)])
    coded.save(tmp_path / "coded.keras")
    refused(r"holds Python code \(a Lambda layer\), which is not run", tmp_path / "coded.keras")
    allowed = KerasModel(str(tmp_path / "coded.keras"), latent_dim=8, safe_mode=False)
    made = images(allowed).astype(int)
    assert np.abs(made - (255 - images(KerasModel(str(generator), latent_dim=8)).astype(int))).max() <= 1


def test_layers_of_ones_own_are_named(generator: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_layers.py").write_text(
        "import keras\n\n\nclass Negative(keras.layers.Layer):\n    def call(self, x):\n        return -x\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import keras
    from my_layers import Negative

    keras.Sequential([keras.saving.load_model(generator), Negative()]).save(tmp_path / "own.keras")
    refused("give custom_objects='{Negative: package.module.Negative}'", tmp_path / "own.keras")
    model = KerasModel(str(tmp_path / "own.keras"), latent_dim=8, custom_objects={"Negative": "my_layers.Negative"})
    assert images(model).std() > 0
    before = model.identity()
    (tmp_path / "my_layers.py").write_text((tmp_path / "my_layers.py").read_text().replace("-x", "x"))
    assert model.identity() != before


def test_keras_on_another_backend_before_is_one_line(generator: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import keras

    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")  # as where a program imported Keras on it
    with pytest.raises(
        ConfigError, match="KERAS_BACKEND=torch, but Keras runs on jax in this process: it was imported"
    ):
        KerasModel(str(generator), latent_dim=8).load("cpu")


@pytest.mark.parametrize("name", ["tensorflow", "jax"])
def test_other_backends_make_the_same_images(name: str, generator: Path) -> None:
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed")
    code = f"""
import numpy as np, sys
from evalkit.models.base import Request
from evalkit.models.keras import KerasModel
model = KerasModel({str(generator)!r}, latent_dim=8)
model.check()
model.load("cpu")
made = model.generate([Request(i, 0) for i in range(4)], sampler=None, settings={{}}).images
import keras
assert keras.backend.backend() == {name!r}
sys.stdout.buffer.write(made.tobytes())
"""
    env = {**os.environ, "KERAS_BACKEND": name}
    made = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, check=True).stdout
    other = np.frombuffer(made[-4 * 8 * 8 * 3 :], np.uint8).reshape(4, 8, 8, 3)
    assert np.abs(other.astype(int) - images(KerasModel(str(generator), latent_dim=8))).max() <= 1


# ---------------------------------------------------------------------------------------------------- KerasHub


class StandIn:
    """Answers as `keras_hub.models.TextToImage`: keras-hub installs TensorFlow, so the real one is not in the tests."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, dict[str, Any]]] = []

    @classmethod
    def from_preset(cls, path: str) -> StandIn:
        assert Path(path).is_dir()
        return cls()

    def generate(self, asked: Any, **options: Any) -> np.ndarray:
        self.calls.append((asked, options))
        generator = np.random.default_rng(options["seed"])
        image = generator.integers(0, 256, (8, 8, 3), np.uint8)
        return image if isinstance(asked, str) else image[None]


def test_a_text_to_image_task_is_asked_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = types.ModuleType("keras_hub")
    hub.models = types.SimpleNamespace(TextToImage=StandIn)  # type: ignore[attr-defined]
    hub.__spec__ = importlib.util.spec_from_loader("keras_hub", None)
    monkeypatch.setitem(sys.modules, "keras_hub", hub)
    (tmp_path / "config.json").write_text("{}")
    model = KerasHubModel(str(tmp_path))
    model.check()
    identity = model.identity()
    (tmp_path / "config.json").write_text('{"a": 1}')
    assert model.identity() != identity
    model.load("cpu")
    requests = [Request(0, 0, prompt="a cat"), Request(1, 0, prompt="a dog", negative_prompt="a tree")]
    made = model.generate(requests, sampler=None, settings={"num_steps": 3, "guidance_scale": None})
    assert made.images.shape == (2, 8, 8, 3)
    assert [call[0] for call in model._task.calls] == [
        "a cat",
        {"prompts": ["a dog"], "negative_prompts": ["a tree"]},
    ]
    assert [call[1] for call in model._task.calls] == [{"seed": r.seed32(), "num_steps": 3} for r in requests]
    alone = model.generate(requests[1:], sampler=None, settings={"num_steps": 3})
    assert (alone.images == made.images[1:]).all()


def test_without_keras_hub_it_is_one_line(tmp_path: Path) -> None:
    if importlib.util.find_spec("keras_hub") is not None:
        pytest.skip("keras-hub is installed")
    with pytest.raises(ConfigError, match="needs the package keras-hub: pip install keras-hub"):
        KerasHubModel(str(tmp_path)).check()
