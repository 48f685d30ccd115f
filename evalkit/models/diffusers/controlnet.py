"""ControlNets and T2I-Adapters: networks that are loaded beside a pipeline, and the pipeline's class with them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evalkit.errors import ConfigError, DataError, nearest
from evalkit.models import hub
from evalkit.models.diffusers.checkpoint import Checkpoint, Component, read_header, read_json
from evalkit.utils.files import PKG_SCHEME, resolve_path, sha256_file, sha256_json

_CONFIG = "config.json"
_FILES = (  # no variants: the network is brought to the pipeline's dtype
    _CONFIG,
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.safetensors.index.json",
    "diffusion_pytorch_model-*.safetensors",
)


@dataclass(frozen=True)
class Network:
    """One ControlNet or T2I-Adapter, as `save_pretrained` wrote it.

    Attributes:
        option: "controlnet" or "t2i_adapter".
        path: a folder, "pkg://package/folder", or a hub id ("owner/name").
        revision: commit, tag or branch of a hub id.
    """

    option: str
    path: str
    revision: str | None = None

    @property
    def local(self) -> bool:
        return self.path.startswith(PKG_SCHEME) or Path(self.path).expanduser().is_dir() or not hub.is_hub_id(self.path)

    def check(self) -> None:
        """Looks for the files; of a hub id, offline, for its copy in the cache.

        Raises:
            ConfigError, DataError: a file is missing or broken (named).
        """
        if not self.local:
            hub.check(self.path, self.revision, _CONFIG)
            return
        folder = resolve_path(self.path)
        if not (folder / _CONFIG).is_file():
            raise ConfigError(
                f"{self.option} '{self.path}': {folder / _CONFIG} is missing; give a folder that save_pretrained "
                "wrote, or a hub id (owner/name)"
            )
        self._class_of(folder)
        for file in self._weights(folder):
            read_header(file)

    def identity(self) -> Any:
        """Digest of the local files, or hub id and revision."""
        if not self.local:
            return {"hub": self.path, "revision": self.revision or "main"}
        folder = resolve_path(self.path)
        files = [folder / _CONFIG, *self._weights(folder)]
        return sha256_json([[file.name, sha256_file(file)] for file in files])

    def class_name(self) -> str | None:
        """The network's class in diffusers; none where it is not fetched yet."""
        return self._class_of(resolve_path(self.path)) if self.local else None

    def load(self, loading: Mapping[str, Any]) -> Any:
        """The network on the CPU, in the dtype that `loading` names.

        Raises:
            ConfigError: it cannot be had.
            DataError: its files do not fit together.
        """
        import diffusers

        from evalkit.utils.text import one_line

        folder = resolve_path(self.path) if self.local else hub.files(self.path, self.revision, _FILES)
        cls = getattr(diffusers, self._class_of(folder), None)
        if cls is None:
            raise ConfigError(f"{self.option} '{self.path}': diffusers has no {self._class_of(folder)}")
        try:
            return cls.from_pretrained(str(folder), use_safetensors=True, **loading).eval()
        except (OSError, ValueError, TypeError, RuntimeError, KeyError) as error:
            raise DataError(f"{self.option} '{self.path}' cannot be loaded: {one_line(error)}") from error

    def _class_of(self, folder: Path) -> str:
        name = str(read_json(folder / _CONFIG).get("_class_name"))
        wanted = "ControlNet" if self.option == "controlnet" else "Adapter"
        if wanted not in name:
            raise ConfigError(f"{self.option} '{self.path}' is a {name}, no {wanted}: {folder / _CONFIG} says so")
        return name

    def _weights(self, folder: Path) -> list[Path]:
        return Checkpoint(folder).weight_files(Component(self.option, "diffusers", self._class_of(folder), folder))


@dataclass(frozen=True)
class Controls:
    """The networks of one model.

    Attributes:
        controlnets: in the order in which the pipeline gets them.
        adapter: a T2I-Adapter, or none.
    """

    controlnets: tuple[Network, ...] = ()
    adapter: Network | None = None

    @classmethod
    def of(cls, controlnet: Any, t2i_adapter: Any) -> Controls:
        """From a model's options: a path, a mapping as `{path: owner/name, revision: main}`, or a list of ControlNets.

        Raises:
            ConfigError: they are none of these, or both are given.
        """
        given = controlnet if isinstance(controlnet, list | tuple) else [] if controlnet is None else [controlnet]
        if given and t2i_adapter is not None:
            raise ConfigError("controlnet and t2i_adapter: diffusers has no pipeline that takes both: leave one out")
        adapter = _network("t2i_adapter", t2i_adapter) if t2i_adapter is not None else None
        return cls(tuple(_network("controlnet", entry) for entry in given), adapter)

    @property
    def several(self) -> bool:
        return len(self.controlnets) > 1

    def check(self) -> None:
        """Looks for every network's files (see `Network.check`)."""
        for network in (*self.controlnets, *([self.adapter] if self.adapter else ())):
            network.check()

    def identity(self) -> dict[str, Any]:
        """What stands in the model's identity: nothing where there is no network."""
        found: dict[str, Any] = {}
        if self.controlnets:
            found["controlnet"] = [network.identity() for network in self.controlnets]
        if self.adapter:
            found["t2i_adapter"] = self.adapter.identity()
        return found

    def load(self, loading: Mapping[str, Any]) -> dict[str, Any]:
        """The networks as arguments of the pipeline's `from_pretrained`; of `loading` the dtype alone counts."""
        kept = {name: loading[name] for name in ("dtype", "torch_dtype") if name in loading}
        nets = [network.load(kept) for network in self.controlnets]
        found: dict[str, Any] = {"controlnet": nets if self.several else nets[0]} if nets else {}
        return found | ({"adapter": self.adapter.load(kept)} if self.adapter else {})

    def pipeline_class(self, own: Any, who: str) -> Any:
        """The class of diffusers that is the model's own, with the networks: by diffusers' own table of families.

        Raises:
            ConfigError: there is none.
        """
        import diffusers

        parts = inspect.signature(own.__init__).parameters
        name = own.__name__
        if self.adapter and "adapter" not in parts:
            found = getattr(diffusers, name.replace("Pipeline", "AdapterPipeline"), None)
        elif self.controlnets and "controlnet" not in parts:
            found = _with_controlnet(name, any("Union" in str(net.class_name()) for net in self.controlnets))
        else:
            found = own
        if found is None:
            what = "t2i_adapter" if self.adapter else "controlnet"
            names = [n for n in dir(diffusers) if n.endswith("Pipeline") and ("Adapter" in n or "ControlNet" in n)]
            near = nearest(name.replace("Pipeline", "ControlNetPipeline"), names)
            raise ConfigError(f"{who}: diffusers has no {name} with a {what}; name one by pipeline=. {near}")
        return found


def _network(option: str, entry: Any) -> Network:
    given = {"path": entry} if isinstance(entry, str) else entry
    if not isinstance(given, Mapping) or not given.get("path") or set(given) - {"path", "revision"}:
        raise ConfigError(
            f"{option}: {entry!r} is no folder, hub id or mapping such as {{path: owner/name, revision: main}}"
        )
    return Network(option, str(given["path"]), given.get("revision"))


def _with_controlnet(name: str, union: bool) -> Any:
    """The pipeline of the same family and task with a ControlNet, or none."""
    from diffusers.pipelines import auto_pipeline as tables

    for table in (
        tables.AUTO_TEXT2IMAGE_PIPELINES_MAPPING,
        tables.AUTO_IMAGE2IMAGE_PIPELINES_MAPPING,
        tables.AUTO_INPAINT_PIPELINES_MAPPING,
    ):
        for family, pipeline in table.items():
            if pipeline.__name__ == name:
                return table.get(f"{family}-controlnet{'-union' if union else ''}")
    return None
