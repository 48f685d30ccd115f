"""Tensors by name from a weights file: safetensors, or what `torch.save` wrote, with `weights_only=True`.

What holds something else is named as what it is. torch's own messages are never printed: they advise to load the file
with `weights_only=False`, which runs whatever code is in it.
"""

from __future__ import annotations

import logging
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.errors import ConfigError, nearest
from evalkit.utils.files import open_file
from evalkit.utils.text import one_line

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)

KEY = "weights_key"  # the option that names one of several state dicts
_SHOWN = 8
# Of several state dicts in a training's checkpoint: averaged weights first, then those that were trained.
_PREFERRED = (
    *("ema", "g_ema", "ema_model", "model_ema", "ema_state_dict"),
    *("model", "generator", "netg", "g", "state_dict", "model_state_dict", "unet", "weights"),
)
_SAVE = "save the module's state_dict() alone, best as .safetensors"

_BEGINNINGS = (
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file (Keras)", "evalkit reads torch's weights"),
    (b"GGUF", "a GGUF file", "give the .safetensors that it was made from"),
    (b"version https://git-lfs", "a pointer of Git LFS, not the file", "fetch it (git lfs pull)"),
    (b"<", "a web page, not a weights file", "fetch the file itself"),
    (b"\x93NUMPY", "an array of numpy", _SAVE),
)
_SUFFIXES = {
    ".onnx": ("an ONNX file", "make it a model of its own (model=onnx)"),
    ".tflite": ("a TensorFlow Lite file", "evalkit reads torch's weights"),
    ".pb": ("a TensorFlow graph", "evalkit reads torch's weights"),
    ".msgpack": ("weights of Flax", "convert them to torch's"),
}


def what_it_is(file: Path) -> tuple[str, str] | None:
    """What a file is that holds no state dict, and what to do; none where it may hold one. Nothing is loaded.

    Raises:
        OSError, DataError: it cannot be opened, or is no regular file.
    """
    with open_file(file) as opened:
        head = opened.read(64)
    for beginning, kind, fix in _BEGINNINGS:
        if head.lstrip().startswith(beginning):
            return kind, fix
    if head.startswith(b"PK"):
        return _zipped(file)
    return _SUFFIXES.get(file.suffix.lower())


def is_torchscript(file: Path) -> bool:
    """Whether a file is a TorchScript archive (OpenAI's own files of CLIP are)."""
    names = _names(file)
    return any(name.endswith("/constants.pkl") for name in names) and any("/code/" in name for name in names)


def _names(file: Path) -> list[str]:
    try:
        with open_file(file) as opened, zipfile.ZipFile(opened) as archive:
            return archive.namelist()
    except Exception:  # zipfile raises anything on a damaged directory
        return []


def _zipped(file: Path) -> tuple[str, str] | None:
    names = _names(file)
    ends = {name.rpartition("/")[2] for name in names}
    if "archive_format" in ends or "serialized_exported_program.json" in ends:
        return "a program of torch.export (.pt2)", f"{_SAVE}, or give the module by its class"
    if "model.weights.h5" in ends:
        return "a model of Keras", "evalkit reads torch's weights"
    if is_torchscript(file):
        return "a TorchScript archive", "a GAN takes it as torchscript=FILE; else " + _SAVE
    if names and all(name.endswith(".npy") for name in names):
        return "an .npz of numpy", _SAVE
    if names and "data.pkl" not in ends:
        return "a zip of something else", _SAVE
    return None


def read_state(file: Path, where: str, key: str | None = None) -> dict[str, Tensor]:
    """The tensors by name of a .safetensors, .pth, .pt or .bin file, on the CPU; the latter with `weights_only=True`.

    Args:
        file: the weights.
        where: who asks, for messages.
        key: which of several state dicts in it (`weights_key`); none: the file holds one alone.

    Raises:
        ConfigError: the file cannot be read so, or holds no state dict, or several of which none is chosen.
    """
    import torch

    state = load_tensors(file, where)
    if key is not None:
        inner = _inner(state)
        if key not in inner:
            raise ConfigError(f"{where}: {file} has no {KEY} '{key}'. {nearest(key, inner)}")
        state = state[key]
    if isinstance(state, Mapping) and all(isinstance(value, torch.Tensor) for value in state.values()):
        return {str(name): value for name, value in state.items()}
    inner = _inner(state)
    if len(inner) > 1:
        some = ", ".join(inner[:_SHOWN]) + (f" and {len(inner) - _SHOWN} more" if len(inner) > _SHOWN else "")
        raise ConfigError(f"{where}: {file} holds several state dicts ({some}): name one ({KEY}={inner[0]})")
    if inner:
        raise ConfigError(f"{where}: the state dict of {file} is in '{inner[0]}': say so ({KEY}={inner[0]})")
    raise ConfigError(f"{where}: {file} is not a state dict (a mapping from names to tensors): {_SAVE}")


def choose_state(file: Path, where: str) -> str | None:
    """The key of the state dict that a checkpoint with several of them is read from; none where it is one itself.

    Averaged weights (`ema`) go before those that were trained; a line says which was taken. None as well where no name
    is known: who reads it then asks for the key.

    Raises:
        ConfigError: as of `load_tensors`.
    """
    inner = _inner(load_tensors(file, where, mapped=zipfile.is_zipfile(file)))
    by_name = {name.lower(): name for name in inner}
    known = [by_name[name] for name in _PREFERRED if name in by_name]
    averaged = [name for name in inner if "ema" in re.split(r"[^a-z]+", name.lower())]
    chosen = next(iter([*averaged, *known, *(inner if len(inner) == 1 else [])]), None)
    if chosen is not None:
        others = [name for name in inner if name != chosen]
        more = f" and not {', '.join(others)} ({KEY}=NAME takes another)" if others else ""
        log.info("%s: of %s the state dict '%s' is read%s", where, file.name, chosen, more)
    return chosen


def load_tensors(file: Path, where: str, *, mapped: bool = False) -> Any:
    """What a weights file holds: tensors, and plain values around them.

    Args:
        file: the weights.
        where: who asks, for messages.
        mapped: tensors stay in the file (of torch.save's zip) until they are looked at.

    Raises:
        ConfigError: it is something else, holds code, or is damaged.
    """
    import torch

    try:
        other = what_it_is(file)
        if other is not None:
            raise ConfigError(f"{where}: {file} is {other[0]}: {other[1]}")
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(str(file))
        return torch.load(file, map_location="cpu", weights_only=True, mmap=mapped)
    except ConfigError:
        raise
    except Exception as error:  # torch.load and safetensors raise many kinds for a damaged file
        wanted = re.search(r"GLOBAL ([\w.]+)", str(error)) if isinstance(error, pickle.UnpicklingError) else None
        if wanted:
            raise ConfigError(f"{where}: {file} holds more than tensors (a {wanted[1]}): {_SAVE}") from None
        reason = f" ({one_line(error, 120)})" if file.suffix == ".safetensors" else ""  # torch's advise to run it
        raise ConfigError(f"{where}: {file} cannot be read as a state dict{reason}: get it again") from None


def _inner(state: Any) -> list[str]:
    """The keys of the state dicts in a mapping."""
    import torch

    if not isinstance(state, Mapping):
        return []
    return [
        str(key)
        for key, value in state.items()
        if isinstance(value, Mapping) and value and all(isinstance(tensor, torch.Tensor) for tensor in value.values())
    ]
