"""Weights files as people have them: state dicts are read, all else is named as what it is; nothing in one is run."""

from __future__ import annotations

import json
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from evalkit.errors import ConfigError
from evalkit.extractors.inception import Inception
from evalkit.extractors.lpips import Lpips
from evalkit.models.diffusers.checkpoint import read_header
from evalkit.models.gan import TorchModuleModel
from evalkit.utils.state_dict import read_state
from evalkit.utils.weights import Weights

STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2)}


def refusal(file: Path, key: str | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        read_state(file, "extractor 'x'", key)
    message = str(caught.value)
    assert message.startswith(f"extractor 'x': {file}") or str(file) in message
    for word in ("\n", "\x1b", "weights_only", "safe_globals", "trusted source"):
        assert word not in message
    return message


def test_state_dicts_are_read(tmp_path: Path) -> None:
    torch.save(STATE, tmp_path / "a.pt")
    torch.save(STATE, tmp_path / "b.bin", _use_new_zipfile_serialization=False)
    save_file(STATE, str(tmp_path / "c.safetensors"))
    for name in ("a.pt", "b.bin", "c.safetensors"):
        read = read_state(tmp_path / name, "x")
        assert read.keys() == STATE.keys()
        assert all(torch.equal(read[key], STATE[key]) for key in STATE)


def test_one_of_several_is_chosen(tmp_path: Path) -> None:
    other = {key: value + 1 for key, value in STATE.items()}
    file = tmp_path / "training.ckpt"
    torch.save({"model": STATE, "ema": other, "optimizer": {"lr": 0.1}, "step": 7}, file)
    assert "holds several state dicts (model, ema): name one (weights_key=model)" in refusal(file)
    assert torch.equal(read_state(file, "x", "ema")["a.bias"], other["a.bias"])
    assert "has no weights_key 'emma'. Did you mean 'ema'?" in refusal(file, "emma")
    torch.save({"state_dict": STATE, "epoch": 3}, file)
    assert "is in 'state_dict': say so (weights_key=state_dict)" in refusal(file)
    torch.save({"epoch": 3, "lr": [0.1]}, file)
    assert "is not a state dict" in refusal(file)


def test_the_key_is_part_of_the_digest(tmp_path: Path) -> None:
    file = tmp_path / "w.pt"
    torch.save({"model": STATE, "ema": STATE}, file)
    digests = {Weights("extractor.x", "weights", str(file), key=key).digest() for key in (None, "model", "ema")}
    assert len(digests) == 3
    assert Weights("extractor.x", "weights", str(file), key="ema").read().keys() == STATE.keys()


@pytest.mark.parametrize("make", [Inception, lambda **o: Lpips("lpips", **o)], ids=["inception", "lpips"])
def test_extractors_take_a_key(make: Callable[..., Any], tmp_path: Path) -> None:
    """Not the network's weights, which it says once it has found them."""
    file = tmp_path / "w.pt"
    torch.save({"model": STATE, "ema": STATE}, file)
    with pytest.raises(ConfigError, match=r"several state dicts \(model, ema\): name one \(weights_key=model\)"):
        make(weights=str(file)).load("cpu")
    with pytest.raises(ConfigError, match=r"w\.pt does not hold the weights of"):
        make(weights=str(file), weights_key="ema").load("cpu")


class Touch:
    """Code in a pickle."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def exported(file: Path) -> None:
    torch.export.save(torch.export.export(torch.nn.Linear(3, 4), (torch.zeros(1, 3),)), file)


def keras(file: Path) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        for name in ("metadata.json", "config.json", "model.weights.h5"):
            archive.writestr(name, b"{}")


def whole_module(file: Path) -> None:
    torch.save(torch.nn.Linear(3, 4), file)


def huge_shape(file: Path) -> None:
    header = json.dumps({"w": {"dtype": "F32", "shape": [2**60, 8], "data_offsets": [0, 16]}}).encode()
    file.write_bytes(struct.pack("<Q", len(header)) + header + bytes(16))


def cut_off(file: Path) -> None:
    torch.save(STATE, file)
    file.write_bytes(file.read_bytes()[:-200])


FOREIGN: dict[str, tuple[str, Callable[[Path], Any], str]] = {
    "torch.export": ("a.pt2", exported, r"a program of torch.export \(.pt2\): save the module's state_dict\(\)"),
    "torch.export called .pt": ("a.pt", exported, "a program of torch.export"),
    "keras": ("a.keras", keras, "a model of Keras: evalkit reads torch's weights"),
    "keras 2": ("a.h5", lambda f: f.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(99)), r"an HDF5 file \(Keras\)"),
    "torchscript": ("a.pt", lambda f: torch.jit.save(torch.jit.script(torch.nn.ReLU()), f), "a TorchScript archive"),
    "a whole module": ("a.pt", whole_module, r"holds more than tensors \(a torch.nn.modules.linear.Linear\)"),
    "a pickle": ("a.pth", lambda f: f.write_bytes(pickle.dumps({"w": 3})), "cannot be read as a state dict"),
    "a huge shape": ("a.safetensors", huge_shape, r"cannot be read as a state dict \("),
    "cut off": ("a.pt", cut_off, "cannot be read as a state dict: get it again"),
    "empty": ("a.bin", lambda f: f.write_bytes(b""), "cannot be read as a state dict"),
    "no safetensors": (
        "a.safetensors",
        lambda f: f.write_bytes(b"none of it at all"),
        "cannot be read as a state dict",
    ),
    "git lfs": (
        "a.safetensors",
        lambda f: f.write_text("version https://git-lfs.github.com/spec/v1\n"),
        "pointer of Git",
    ),
    "a web page": ("a.pth", lambda f: f.write_text("<!DOCTYPE html><html>"), "a web page, not a weights file"),
    "gguf": ("a.gguf", lambda f: f.write_bytes(b"GGUF" + bytes(30)), "a GGUF file"),
    "onnx": ("a.onnx", lambda f: f.write_bytes(b"\x08\x07\x12\x07pytorch"), "an ONNX file"),
}


@pytest.mark.filterwarnings("ignore")  # torch's, that TorchScript and others are of yesterday
@pytest.mark.parametrize("kind", FOREIGN)
def test_other_files_are_named_as_what_they_are(kind: str, tmp_path: Path) -> None:
    name, make, words = FOREIGN[kind]
    make(tmp_path / name)
    with pytest.raises(ConfigError, match=words):
        read_state(tmp_path / name, "extractor 'x'")
    refusal(tmp_path / name)


@pytest.mark.filterwarnings("ignore")
def test_a_gans_file_is_named_before_anything_is_built(tmp_path: Path) -> None:
    exported(tmp_path / "g.pt2")
    keras(tmp_path / "g.keras")
    torch.jit.save(torch.jit.script(torch.nn.ReLU()), tmp_path / "script.pt")
    for option in ({"module": "torch.nn.Linear", "weights": "g.pt2"}, {"torchscript": "g.pt2"}):
        given = {key: value if key == "module" else str(tmp_path / value) for key, value in option.items()}
        with pytest.raises(ConfigError, match=r"g\.pt2 is a program of torch\.export"):
            TorchModuleModel(**given).check()  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"weights: .*g\.keras is a model of Keras"):
        TorchModuleModel(module="torch.nn.Linear", weights=str(tmp_path / "g.keras")).check()
    TorchModuleModel(torchscript=str(tmp_path / "script.pt")).check()


def test_code_is_not_run(tmp_path: Path) -> None:
    torch.save({"w": Touch(tmp_path / "sprung")}, tmp_path / "trap.pt")
    assert "holds more than tensors" in refusal(tmp_path / "trap.pt")
    assert not (tmp_path / "sprung").exists()


def test_a_header_of_a_huge_shape(tmp_path: Path) -> None:
    huge_shape(tmp_path / "a.safetensors")
    with pytest.raises(Exception, match=r"a\.safetensors is no safetensors file") as caught:
        read_header(tmp_path / "a.safetensors")
    assert "\n" not in str(caught.value)
