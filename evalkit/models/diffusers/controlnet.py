"""ControlNets and T2I-Adapters: networks that are loaded next to a pipeline, and the pipeline's class with them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evalkit.errors import ConfigError, DataError, nearest
from evalkit.models.diffusers.checkpoint import Checkpoint, Component, read_header, read_json
from evalkit.models.hub import WeightsLocation, entries
from evalkit.utils.files import sha256_file, sha256_json
from evalkit.utils.text import one_line

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
        location: its folder, or its repository.
    """

    option: str
    location: WeightsLocation

    def __str__(self) -> str:
        return f"{self.option} '{self.location.path}'"

    def check(self, *, fetch: bool) -> None:
        """Looks for the files; of a repository see `WeightsLocation.check`.

        Raises:
            ConfigError, DataError: a file is missing or broken (named).
        """
        if self.location.on_hub:
            self.location.check(_CONFIG, fetch=fetch)
            return
        folder = self.location.local
        if not (folder / _CONFIG).is_file():
            raise ConfigError(
                f"{self}: {folder / _CONFIG} is missing; give a folder that save_pretrained wrote, or a hub id "
                "(owner/name)"
            )
        self._class_of(folder)
        for file in self._weights(folder):
            read_header(file)

    def identity(self) -> Any:
        """Digest of the local files, or hub id and revision."""
        if self.location.on_hub:
            return self.location.hub_identity()
        folder = self.location.local
        files = [folder / _CONFIG, *self._weights(folder)]
        return sha256_json([[file.name, sha256_file(file)] for file in files])

    def class_name(self) -> str | None:
        """The network's class in diffusers; none where it is not fetched yet."""
        return None if self.location.on_hub else self._class_of(self.location.local)

    def load(self, loading: Mapping[str, Any]) -> Any:
        """The network on the CPU, in the dtype that `loading` names.

        Raises:
            ConfigError: it cannot be had.
            DataError: its files do not fit together.
        """
        import diffusers

        folder = self.location.get(_FILES)
        cls = getattr(diffusers, self._class_of(folder), None)
        if cls is None:
            raise ConfigError(f"{self}: diffusers has no {self._class_of(folder)}")
        try:
            return cls.from_pretrained(str(folder), use_safetensors=True, **loading).eval()
        except (OSError, ValueError, TypeError, RuntimeError, KeyError) as error:
            raise DataError(f"{self} cannot be loaded: {one_line(error)}") from error

    def _class_of(self, folder: Path) -> str:
        name = str(read_json(folder / _CONFIG).get("_class_name"))
        kind = "ControlNet" if self.option == "controlnet" else "Adapter"
        if kind not in name:
            raise ConfigError(f"{self} is a {name}, no {kind}: {folder / _CONFIG} says so")
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
        if (nets := entries(controlnet)) and t2i_adapter is not None:
            raise ConfigError("controlnet and t2i_adapter: diffusers has no pipeline that takes both: leave one out")
        controlnets = tuple(Network("controlnet", WeightsLocation.read("controlnet", net)) for net in nets)
        if t2i_adapter is None:
            return cls(controlnets)
        return cls(controlnets, Network("t2i_adapter", WeightsLocation.read("t2i_adapter", t2i_adapter)))

    @property
    def several(self) -> bool:
        return len(self.controlnets) > 1

    def check(self, *, fetch: bool) -> None:
        """Looks for every network's files (see `Network.check`)."""
        for network in (*self.controlnets, *([self.adapter] if self.adapter else ())):
            network.check(fetch=fetch)

    def identity(self) -> dict[str, Any]:
        """What stands in the model's identity: nothing where there is no network."""
        identity: dict[str, Any] = {}
        if self.controlnets:
            identity["controlnet"] = [network.identity() for network in self.controlnets]
        if self.adapter:
            identity["t2i_adapter"] = self.adapter.identity()
        return identity

    def load(self, loading: Mapping[str, Any]) -> dict[str, Any]:
        """The networks as arguments of the pipeline's `from_pretrained`; of `loading` the dtype alone counts."""
        dtype = {name: loading[name] for name in ("dtype", "torch_dtype") if name in loading}
        nets = [network.load(dtype) for network in self.controlnets]
        arguments: dict[str, Any] = {"controlnet": nets if self.several else nets[0]} if nets else {}
        return arguments | ({"adapter": self.adapter.load(dtype)} if self.adapter else {})

    def pipeline_class(self, own: Any, who: str) -> Any:
        """The class of diffusers that is the model's own, with the networks: by diffusers' own table of families.

        Raises:
            ConfigError: there is none.
        """
        import diffusers

        parts = inspect.signature(own.__init__).parameters
        name = own.__name__
        if self.adapter and "adapter" not in parts:
            with_nets = getattr(diffusers, name.replace("Pipeline", "AdapterPipeline"), None)
        elif self.controlnets and "controlnet" not in parts:
            with_nets = _with_controlnet(name, any("Union" in str(net.class_name()) for net in self.controlnets))
        else:
            with_nets = own
        if with_nets is None:
            what = "t2i_adapter" if self.adapter else "controlnet"
            names = [n for n in dir(diffusers) if n.endswith("Pipeline") and ("Adapter" in n or "ControlNet" in n)]
            near = nearest(name.replace("Pipeline", "ControlNetPipeline"), names)
            raise ConfigError(f"{who}: diffusers has no {name} with a {what}; name one by pipeline=. {near}")
        return with_nets


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
