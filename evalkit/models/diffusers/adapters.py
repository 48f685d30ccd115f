"""What is put into a diffusers pipeline beside its own weights: LoRA adapters, and another VAE.

LoRA: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2021; loaded by diffusers and peft.
"""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evalkit.errors import ConfigError, DataError, nearest
from evalkit.models import hub
from evalkit.models.diffusers.checkpoint import INDEX, Checkpoint, read_header, read_json
from evalkit.utils.files import PKG_SCHEME, resolve_path, sha256_file, sha256_json

LORA_FILE = "pytorch_lora_weights.safetensors"  # diffusers' own name for it
SCALE = "lora_scale"
_LORA_KEY = re.compile(r"[._](?:lora|lokr|hada)_?")
_VAE_FILE = "diffusion_pytorch_model.safetensors"


@dataclass(frozen=True)
class Adapter:
    """One LoRA.

    Attributes:
        path: a .safetensors file, a folder, "pkg://package/folder", or a hub id ("owner/name").
        weight_name: the file in the folder or repository; none: diffusers' own name, or the only one there.
        scale: its weight; multiplied by the call setting `lora_scale`.
        name: what the pipeline calls it; none: lora0, lora1, ...
        revision: commit, tag or branch of a hub id.
    """

    path: str
    weight_name: str | None = None
    scale: float = 1.0
    name: str | None = None
    revision: str | None = None

    @property
    def on_hub(self) -> bool:
        return _on_hub(self.path)

    def file(self) -> Path:
        """The local file.

        Raises:
            ConfigError: there is none, or which one is meant is not clear.
        """
        place = resolve_path(self.path)
        if place.is_dir():
            return self._chosen(place)
        if not place.is_file():
            raise ConfigError(f"lora: there is no file or folder {self.path}; give a .safetensors file, or a hub id")
        if place.suffix != ".safetensors":
            raise ConfigError(f"lora: {place} is no .safetensors file, and pickled weights are never loaded")
        return place

    def _chosen(self, folder: Path) -> Path:
        names = sorted(f.name for f in folder.glob("*.safetensors"))
        wanted = self.weight_name or (LORA_FILE if LORA_FILE in names or len(names) != 1 else names[0])
        if wanted not in names:
            raise ConfigError(f"lora: {folder} holds no {wanted}; give its weight_name. {nearest(wanted, names)}")
        return folder / wanted

    def fetched(self) -> Path:
        """The file, fetched from the hub where it comes from there."""
        if not self.on_hub:
            return self.file()
        name = self.weight_name or LORA_FILE
        found = hub.files(self.path, self.revision, [name]) / name
        if not found.is_file():
            raise ConfigError(f"lora: '{self.path}' on the hub holds no {name}: give its weight_name")
        return found

    def identity(self) -> dict[str, Any]:
        weights: Any = {"hub": self.path, "revision": self.revision or "main", "file": self.weight_name or LORA_FILE}
        return {"weights": weights if self.on_hub else sha256_file(self.file()), "scale": self.scale}


def _on_hub(path: str) -> bool:
    return not path.startswith(PKG_SCHEME) and hub.is_hub_id(path) and not Path(path).expanduser().exists()


def read_adapters(lora: Any) -> tuple[Adapter, ...]:
    """The adapters that the YAML's `lora` names: a path, a mapping as `Adapter`, or a list of those.

    Raises:
        ConfigError: it is none of these, or an unknown key (the nearest is offered).
    """
    known = tuple(Adapter.__dataclass_fields__)
    adapters: list[Adapter] = []
    for entry in lora if isinstance(lora, list | tuple) else [] if lora is None else [lora]:
        given: Any = {"path": entry} if isinstance(entry, str | os.PathLike) else entry
        if not isinstance(given, Mapping) or not given.get("path"):
            raise ConfigError(f"lora: {entry!r} is no path, hub id or mapping such as {{path: style.safetensors}}")
        for key in given:
            if key not in known:
                raise ConfigError(f"lora.{key}: no such key. {nearest(str(key), known)}")
        scale = given.get("scale", 1.0)
        if not _is_number(scale):
            raise ConfigError(f"lora.scale={scale!r}: give a number")
        name = given.get("name") or f"lora{len(adapters)}"
        if not str(name).isidentifier():
            raise ConfigError(f"lora.name='{name}': give a name of letters and digits, such as lora{len(adapters)}")
        rest = {key: given.get(key) for key in ("weight_name", "revision")}
        adapters.append(Adapter(os.fspath(given["path"]), scale=float(scale), name=str(name), **rest))
    names = [adapter.name for adapter in adapters]
    if len(set(names)) < len(names):
        raise ConfigError(f"lora: two adapters have one name ({', '.join(map(str, names))})")
    return tuple(adapters)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < float("inf")


class Loras:
    """The LoRA adapters of a pipeline: checked, loaded, and set to a scale from call to call.

    Args:
        lora: as in the YAML; none: no adapters.
        fused: add them to the weights when loading: no slower than the bare model, at one fixed scale.
    """

    def __init__(self, lora: Any, fused: bool) -> None:
        self.adapters = read_adapters(lora)
        self.fused = fused
        if fused and not self.adapters:
            raise ConfigError("lora_fused: there is nothing to fuse; give lora=FILE as well")
        self._set: tuple[float, ...] | None = None

    def check(self, who: str, base: Checkpoint | None) -> None:
        """Looks at each file's header, and whether it fits the local pipeline `base`.

        Raises:
            ConfigError: peft or a file is missing.
            DataError: it is broken, no LoRA, or made for another model.
        """
        if self.adapters and importlib.util.find_spec("peft") is None:
            raise ConfigError("lora needs the package peft: pip install 'evalkit[lora]'")
        for adapter in self.adapters:
            if adapter.on_hub:
                hub.check(adapter.path, adapter.revision, adapter.weight_name or LORA_FILE)
                continue
            file = adapter.file()
            header = read_header(file)
            if not any(_LORA_KEY.search(key) for key in header):
                raise DataError(f"lora: {file} holds no LoRA: none of its tensors is named so")
            misfit = _misfit(header, base) if base is not None else None
            if misfit:
                raise DataError(f"lora: {file} does not fit {who}: {misfit}")

    def identity(self) -> dict[str, Any]:
        """Digests and scales; empty without adapters, so that a plain model's identity is what it was."""
        if not self.adapters:
            return {}
        return {"lora": [adapter.identity() for adapter in self.adapters], "lora_fused": self.fused}

    def load(self, pipe: Any, who: str) -> None:
        """Puts all adapters into the pipeline, and fuses them where that is asked for.

        Raises:
            ConfigError: the pipeline's class takes none.
            DataError: one does not fit the pipeline.
        """
        from evalkit.utils.text import one_line

        if not self.adapters:
            return
        _takes_lora(type(pipe), who)
        for adapter in self.adapters:
            file = adapter.fetched()
            try:
                pipe.load_lora_weights(
                    str(file.parent),
                    weight_name=file.name,
                    adapter_name=adapter.name,
                    use_safetensors=True,
                    local_files_only=True,
                )
            except (ValueError, RuntimeError, KeyError, TypeError, AttributeError, OSError, ImportError) as error:
                raise DataError(f"lora: {file} does not fit {who}: {one_line(error)}") from error
            _check_loaded(pipe, adapter, file, who)
        self._set = None
        if self.fused:
            self._activate(pipe, [adapter.scale for adapter in self.adapters])
            if any(adapter.scale for adapter in self.adapters):
                parts = [name for name in pipe._lora_loadable_modules if getattr(pipe, name, None) is not None]
                pipe.fuse_lora(components=parts)
            pipe.unload_lora_weights()

    def check_call(self, settings: Mapping[str, Any], pipeline: Any, who: str) -> dict[str, Any]:
        """The settings without `lora_scale`.

        Raises:
            ConfigError: the scale is no number, has no adapter, or is fixed since they are fused; or the pipeline's
                class takes no LoRA.
        """
        if self.adapters and pipeline is not None:
            _takes_lora(pipeline, who)
        self._scales(settings)
        return {key: value for key, value in settings.items() if key != SCALE}

    def _scales(self, settings: Mapping[str, Any]) -> list[float]:
        """One scale an adapter."""
        given = settings.get(SCALE)
        if given is None:
            return [adapter.scale for adapter in self.adapters]
        if not self.adapters:
            raise ConfigError(f"{SCALE} is set, but no lora is given: give lora=FILE, or take {SCALE} away")
        if self.fused:
            raise ConfigError(
                f"{SCALE} changes adapters from call to call, but these are fused into the weights: set lora_fused: "
                "false, or give the scale with the adapter (lora: {path: ..., scale: 0.5})"
            )
        each = list(given) if isinstance(given, list | tuple) else [given] * len(self.adapters)
        if len(each) != len(self.adapters) or not all(map(_is_number, each)):
            raise ConfigError(f"{SCALE}={given}: give a number, or a list of {len(self.adapters)}, one an adapter")
        return [adapter.scale * scale for adapter, scale in zip(self.adapters, each, strict=True)]

    def set(self, pipe: Any, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Brings the adapters to the call's scales (at 0 the pipeline is exactly the bare one); the other settings."""
        scales = self._scales(settings)
        if self.adapters and not self.fused and self._set != tuple(scales):
            self._activate(pipe, scales)
            self._set = tuple(scales)
        return {key: value for key, value in settings.items() if key != SCALE}

    def _activate(self, pipe: Any, scales: Sequence[float]) -> None:
        used = [(adapter.name, scale) for adapter, scale in zip(self.adapters, scales, strict=True) if scale]
        if not used:
            pipe.disable_lora()
            return
        pipe.enable_lora()
        pipe.set_adapters([name for name, _ in used], adapter_weights=[scale for _, scale in used])


def read_vae(vae: Any) -> OtherVae | None:
    """What the YAML's `vae` names: a path or hub id, or a mapping as `OtherVae`; none: the pipeline's own.

    Raises:
        ConfigError: it is neither.
    """
    if vae is None:
        return None
    given: Any = {"path": vae} if isinstance(vae, str | os.PathLike) else vae
    if not isinstance(given, Mapping) or not given.get("path") or set(given) - {"path", "revision"}:
        raise ConfigError(f"vae: {vae!r} is no folder, hub id or mapping such as {{path: owner/name, revision: main}}")
    return OtherVae(os.fspath(given["path"]), given.get("revision"))


def _takes_lora(pipeline: Any, who: str) -> None:
    if not hasattr(pipeline, "load_lora_weights"):
        raise ConfigError(f"{who}: {pipeline.__name__} takes no LoRA")


def _misfit(header: Mapping[str, Any], base: Checkpoint) -> str | None:
    """Why a LoRA in diffusers' format does not fit the UNet of a local pipeline; none where it does, or cannot be told.

    Only a UNet's: diffusers itself renames and widens layers of transformers and text encoders.
    """
    for part in base.components():
        if part.name != "unet":
            continue
        layers = {k: v["shape"] for f in base.weight_files(part) for k, v in read_header(f).items() if k[:2] != "__"}
        for key, entry in header.items():
            if not key.startswith("unet.") or not key.endswith(".lora_A.weight"):
                continue
            layer = key.removeprefix("unet.").removesuffix(".lora_A.weight")
            shape = layers.get(f"{layer}.weight")
            if shape is None:
                return f"its UNet has no layer {layer}"
            if shape[1:] != entry["shape"][1:]:  # [out,in,...] and [rank,in,...]
                return f"layer {layer} of its UNet takes {shape[1:]} inputs, the adapter's {entry['shape'][1:]}"
    return None


def _check_loaded(pipe: Any, adapter: Adapter, file: Path, who: str) -> None:
    """DataError where diffusers left layers of the file out, which it only logs; the rest are brought to one dtype."""
    import torch
    from peft.tuners.tuners_utils import BaseTunerLayer

    unet = {"unet_config": pipe.unet.config} if hasattr(pipe, "unet") else {}  # else SDXL's block names stay unread
    found = type(pipe).lora_state_dict(str(file.parent), weight_name=file.name, local_files_only=True, **unet)
    state = found[0] if isinstance(found, tuple) else found
    wanted = {_LORA_KEY.split(key)[0] for key in state if _LORA_KEY.search(key) and not key.endswith("alpha")}
    got = 0
    parts: list[Any] = [part for part in pipe.components.values() if isinstance(part, torch.nn.Module)]
    for part in parts:
        for module in part.modules():
            if not isinstance(module, BaseTunerLayer) or adapter.name not in getattr(module, "scaling", {}):
                continue
            got += 1
            for name, weight in module.named_parameters():
                if f".{adapter.name}." in name:  # else a half precision file computes in half precision
                    weight.data = weight.data.to(part.dtype)
    if got < max(len(wanted), 1):
        raise DataError(
            f"lora: {file} does not fit {who}: {len(wanted) - got} of its {len(wanted)} layers are not in "
            "the pipeline; it was made for another model"
        )


@dataclass(frozen=True)
class OtherVae:
    """An autoencoder that takes the place of the pipeline's own.

    Attributes:
        path: a folder with its config.json (or a whole pipeline's folder), "pkg://package/folder", or a hub id.
        revision: commit, tag or branch of a hub id.
    """

    path: str
    revision: str | None = None

    def check(self, who: str, base: Checkpoint | None) -> None:
        """Looks for its files, and compares its latents with those of the pipeline's own.

        Raises:
            ConfigError, DataError: a file is missing or broken; the latents do not fit.
        """
        if _on_hub(self.path):
            hub.check(self.path, self.revision, "config.json")
            return
        folder = self._folder()
        read_header(folder / _VAE_FILE)
        own = base.config_of("vae") if base is not None else {}
        if base is not None and not own:
            raise ConfigError(f"{who} has no VAE to exchange: set vae: null")
        theirs = read_json(folder / "config.json")
        for key in ("latent_channels", "in_channels", "out_channels"):
            if key in own and key in theirs and own[key] != theirs[key]:
                raise ConfigError(f"vae: {self.path} has {key}={theirs[key]}, that of {who} has {own[key]}")
        if len(own.get("block_out_channels", [])) != len(theirs.get("block_out_channels", [])):
            raise ConfigError(f"vae: {self.path} shrinks images by another factor than that of {who}")

    def _folder(self) -> Path:
        folder = resolve_path(self.path)
        folder = folder / "vae" if (folder / INDEX).is_file() else folder
        for name in ("config.json", _VAE_FILE):
            if not (folder / name).is_file():
                raise ConfigError(f"vae: {folder / name} is missing: give a folder by save_pretrained, or a hub id")
        return folder

    def identity(self) -> Any:
        """Digest of the local files, or the hub id."""
        if _on_hub(self.path):
            return {"hub": self.path, "revision": self.revision or "main"}
        return sha256_json([sha256_file(self._folder() / name) for name in ("config.json", _VAE_FILE)])

    def load(self, **loading: Any) -> Any:
        """The autoencoder; `loading` goes to diffusers' from_pretrained.

        Raises:
            ConfigError: it cannot be had.
            DataError: it is no autoencoder of diffusers, or its files do not fit together.
        """
        import diffusers

        from evalkit.utils.text import one_line

        if _on_hub(self.path):
            folder = hub.files(self.path, self.revision, ["config.json", _VAE_FILE])
        else:
            folder = self._folder()
        name = str(read_json(folder / "config.json").get("_class_name"))
        if not name.startswith("Autoencoder") or not hasattr(diffusers, name):
            raise DataError(f"vae: {self.path} is {name}, no autoencoder of diffusers")
        try:
            return getattr(diffusers, name).from_pretrained(str(folder), **loading)
        except (OSError, ValueError, RuntimeError, TypeError, KeyError) as error:
            raise DataError(f"vae: {self.path} cannot be loaded: {one_line(error)}") from error
