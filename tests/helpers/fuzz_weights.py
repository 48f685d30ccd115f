"""Readers of weights, starting noise and models that others saved, with good inputs to start from."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import numpy as np
from fuzz import Target


def weights(folder: Path) -> Target:
    import torch
    from safetensors.torch import save_file

    from evalkit.extractors.clip_convert import tells_quick_gelu
    from evalkit.models.diffusers.checkpoint import read_header
    from evalkit.utils.state_dict import read_state, what_it_is

    state = {"a.weight": torch.zeros(3, 4), "a.bias": torch.zeros(3, dtype=torch.float16)}
    save_file(state, str(folder / "a.safetensors"))
    torch.save(state, folder / "b.pt")
    torch.save({"ema": state, "step": 3}, folder / "c.pth", _use_new_zipfile_serialization=False)

    def read(path: Path) -> None:
        what_it_is(path)
        tells_quick_gelu(path)
        if path.suffix == ".safetensors":
            read_header(path)
        read_state(path, "weights", "ema" if path.suffix == ".pth" else None)

    return Target("weights", {n: (folder / n).read_bytes() for n in ("a.safetensors", "b.pt", "c.pth")}, read)


def latents(folder: Path) -> Target:
    import torch
    from safetensors.numpy import save_file

    from evalkit.models.starting_noise import StartingNoise

    values = np.arange(24, dtype=np.float32).reshape(3, 2, 4)
    np.save(folder / "a.npy", values)
    save_file({"latents": values}, folder / "b.safetensors", {"evalkit_cell": "key"})
    save_file({str(i): values[i : i + 1] for i in range(3)}, folder / "c.safetensors")
    torch.save(torch.from_numpy(values), folder / "d.pt")

    def read(path: Path) -> None:
        noise = StartingNoise(str(path), "model.m.latents")
        noise.identity()
        noise.check([(2, 4)] * 3)
        _ = noise[0], noise.about()

    names = ("a.npy", "b.safetensors", "c.safetensors", "d.pt")
    return Target("latents", {name: (folder / name).read_bytes() for name in names}, read)


def keras_files() -> Target:
    from evalkit.models.keras import KerasModel

    layer = {"class_name": "Dense", "module": "keras.layers", "config": {"units": 3}, "registered_name": None}
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("config.json", json.dumps({"class_name": "Sequential", "config": {"layers": [layer]}}))
        archive.writestr("model.weights.h5", b"\x89HDF")
    return Target("keras files", {"g.keras": packed.getvalue()}, lambda path: KerasModel(str(path)).check())
