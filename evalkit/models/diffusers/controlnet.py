"""Networks of other origin in a pipeline: ControlNets, a T2I-Adapter, a VAE; and the pipeline's class with them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from evalkit.errors import ConfigError, nearest
from evalkit.models.diffusers.checkpoint import Checkpoint
from evalkit.models.diffusers.networks import Network, check_other_vae
from evalkit.models.hub import entries


@dataclass(frozen=True)
class Networks:
    """What a model is given besides its pipeline.

    Attributes:
        controlnets: in the order in which the pipeline gets them.
        adapter: a T2I-Adapter, or none.
        vae: takes the place of the pipeline's own; none: it stays.
    """

    controlnets: tuple[Network, ...] = ()
    adapter: Network | None = None
    vae: Network | None = None

    @classmethod
    def of(cls, controlnet: Any, t2i_adapter: Any, vae: Any) -> Networks:
        """From a model's options: a path, a mapping as `{path: owner/name, revision: main}`, or a list of ControlNets.

        Raises:
            ConfigError: they are none of these, or both a ControlNet and an adapter are given.
        """
        if (nets := entries(controlnet)) and t2i_adapter is not None:
            raise ConfigError("controlnet and t2i_adapter: diffusers has no pipeline that takes both: leave one out")
        return cls(
            tuple(Network.read("controlnet", net) for net in nets),
            None if t2i_adapter is None else Network.read("t2i_adapter", t2i_adapter),
            None if vae is None else Network.read("vae", vae),
        )

    @property
    def several(self) -> bool:
        return len(self.controlnets) > 1

    def check(self, base: Checkpoint | None, who: str, *, fetch: bool) -> None:
        """Looks for every network's files (see `Network.check`), and whether the VAE fits the local pipeline `base`."""
        for network in (*self.controlnets, self.adapter, self.vae):
            if network is not None:
                network.check(fetch=fetch)
        if self.vae and base and not self.vae.location.on_hub:
            check_other_vae(self.vae, base, who)

    def identity(self) -> dict[str, Any]:
        """What stands in the model's identity: nothing where there is no network."""
        nets = {"controlnet": [network.identity() for network in self.controlnets]} if self.controlnets else {}
        others = {"t2i_adapter": self.adapter, "vae": self.vae}
        return {**nets, **{option: network.identity() for option, network in others.items() if network}}

    def load(self, dtype: Mapping[str, Any]) -> dict[str, Any]:
        """The networks as arguments of the pipeline's `from_pretrained`; `dtype` is as `Network.load` takes it."""
        nets = [network.load(dtype) for network in self.controlnets]
        arguments: dict[str, Any] = {"controlnet": nets if self.several else nets[0]} if nets else {}
        others = {"adapter": self.adapter, "vae": self.vae}
        return arguments | {name: network.load(dtype) for name, network in others.items() if network}

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
            with_nets = _with_controlnet(name, any(map(_is_union, self.controlnets)))
        else:
            with_nets = own
        if with_nets is None:
            what = "t2i_adapter" if self.adapter else "controlnet"
            names = [n for n in dir(diffusers) if n.endswith("Pipeline") and ("Adapter" in n or "ControlNet" in n)]
            near = nearest(name.replace("Pipeline", "ControlNetPipeline"), names)
            raise ConfigError(f"{who}: diffusers has no {name} with a {what}; name one by pipeline=. {near}")
        return with_nets


def _is_union(net: Network) -> bool:
    return not net.location.on_hub and "Union" in net.config()["_class_name"]  # one on the hub is not fetched yet


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
