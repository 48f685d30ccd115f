"""Networks of other origin in a pipeline: ControlNets, a T2I-Adapter, a VAE, a denoiser; the pipeline's class then."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from evalkit.errors import ConfigError, nearest
from evalkit.models.diffusers.checkpoint import Checkpoint
from evalkit.models.diffusers.networks import Network, check_other_denoiser, check_other_vae
from evalkit.utils.hub import entries


@dataclass(frozen=True)
class Networks:
    """What a model is given besides its pipeline.

    Attributes:
        controlnets: in the order in which the pipeline gets them.
        adapter: a T2I-Adapter, or none.
        vae, denoiser: take the place of the pipeline's own; none: it stays.
    """

    controlnets: tuple[Network, ...] = ()
    adapter: Network | None = None
    vae: Network | None = None
    denoiser: Network | None = None

    @classmethod
    def of(cls, controlnet: Any, t2i_adapter: Any, vae: Any, denoiser: Any = None, ema: bool = False) -> Networks:
        """From a model's options: a path, a mapping as `{path: owner/name, revision: main}`, or a list of ControlNets.

        `ema` is about the denoiser of a trainer's checkpoint (`Network.read_denoiser`).

        Raises:
            ConfigError: they are none of these, or both a ControlNet and an adapter are given.
        """
        if (nets := entries(controlnet)) and t2i_adapter is not None:
            raise ConfigError("controlnet and t2i_adapter: diffusers has no pipeline that takes both: leave one out")
        return cls(
            tuple(Network.read("controlnet", net) for net in nets),
            None if t2i_adapter is None else Network.read("t2i_adapter", t2i_adapter),
            None if vae is None else Network.read("vae", vae),
            None if denoiser is None else Network.read_denoiser(denoiser, ema),
        )

    @property
    def several(self) -> bool:
        return len(self.controlnets) > 1

    def check(self, base: Checkpoint | None, who: str, *, fetch: bool) -> None:
        """Looks for every network's files (see `Network.check`), and whether the VAE fits the local pipeline `base`."""
        for network in (*self.controlnets, self.adapter, self.vae, self.denoiser):
            if network is not None:
                network.check(fetch=fetch)
        if self.vae and base and not self.vae.location.on_hub:
            check_other_vae(self.vae, base, who)
        if self.denoiser and base and not self.denoiser.location.on_hub:
            check_other_denoiser(self.denoiser, base, who)

    def identity(self) -> dict[str, Any]:
        """What stands in the model's identity: nothing where there is no network."""
        nets = {"controlnet": [network.identity() for network in self.controlnets]} if self.controlnets else {}
        others = {"t2i_adapter": self.adapter, "vae": self.vae, "denoiser": self.denoiser}
        return {**nets, **{option: network.identity() for option, network in others.items() if network}}

    def load(self, dtype: Mapping[str, Any], base: Checkpoint, who: str) -> dict[str, Any]:
        """The networks as arguments of the `from_pretrained` of a pipeline, `base`; `dtype` as in `Network.load`."""
        nets = [network.load(dtype) for network in self.controlnets]
        arguments: dict[str, Any] = {"controlnet": nets if self.several else nets[0]} if nets else {}
        if self.adapter:
            arguments["adapter"] = self.adapter.load(dtype)
        for network in (self.vae, self.denoiser):
            if network:
                part = network.part_of(base, who)
                arguments[part.name] = network.load(dtype, part)
        return arguments

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
