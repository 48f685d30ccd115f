"""Generators of the StyleGAN family (Karras et al. 2019, 2020, 2021): z -> w -> images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from evalkit.errors import ConfigError, DataError, nearest
from evalkit.models.base import ModelPart, Request, Sampler, Settings
from evalkit.models.gan import TorchModuleModel

if TYPE_CHECKING:
    from torch import Tensor

_NOISE_MODES = ("const", "none")


class StyleGanModel(TorchModuleModel):
    """A module with the two halves that NVlabs' stylegan2-ada and stylegan3 have; any code will do.

    `mapping(z, c, truncation_psi=, truncation_cutoff=)` -> w f32 [B,num_ws,w_dim], and `synthesis(ws, noise_mode=)` ->
    images [B,C,H,W]. z is f32 [B,z_dim], normal; c is f32 [B,num_classes], one-hot ([B,0] where there are no classes).
    The class is yours, by name, and must be importable; its weights are a state dict. Pickles are never read: a
    published `network.pkl` is turned into one where its own code is at hand, by
    `safetensors.torch.save_file(G_ema.state_dict(), "g.safetensors")`.

    Args:
        module, module_args, weights, weights_key, dtype, output_range: see TorchModuleModel.
        z_dim: width of z.
        num_classes: of a conditional generator; a sample's class is its own, or its index modulo this.
        synthesis_args: further keyword arguments of `synthesis`, such as {force_fp32: true}.

    Call settings:
        truncation_psi: towards the mean of w: 1 changes nothing, 0 gives one image for all z (none: 1).
        truncation_cutoff: how many layers of w it changes; none: all.
        noise_mode: "const", or "none". "random" is refused: it draws from one generator for the whole batch.
    """

    call_settings = frozenset({"truncation_psi", "truncation_cutoff", "noise_mode"})
    spaces = ("z", "w")

    def __init__(
        self,
        module: str | Mapping[str, Any],
        weights: str,
        module_args: Mapping[str, Any] | None = None,
        weights_key: str | None = None,
        z_dim: int = 512,
        num_classes: int | None = None,
        synthesis_args: Mapping[str, Any] | None = None,
        output_range: Sequence[float] = (-1, 1),
        dtype: str = "float32",
    ) -> None:
        super().__init__(
            module,
            module_args,
            weights,
            weights_key,
            latent_dim=z_dim,
            num_classes=num_classes,
            class_input="one_hot",
            output_range=output_range,
            dtype=dtype,
        )
        self.synthesis_args = dict(synthesis_args or {})
        if "noise_mode" in self.synthesis_args:
            raise ConfigError("synthesis_args: noise_mode is a setting of its own")

    def identity(self) -> dict[str, Any]:
        """As any torch module's, and how `synthesis` is called."""
        return super().identity() | {"kind": "stylegan", "synthesis_args": self.synthesis_args}

    def load(self, device: str) -> None:
        """As any torch module's; one that lacks a half is refused."""
        super().load(device)
        for half in ("mapping", "synthesis"):
            if not callable(getattr(self._net, half, None)):
                self._net = None
                raise ConfigError(f"module '{self._target}' has no `{half}`: model=[gan] takes generators `forward(z)`")

    def check_call(self, sampler: Sampler | None, settings: Settings) -> None:
        """Refuses settings that the model does not take, and values that make no sense."""
        super().check_call(sampler, settings)
        psi, cutoff = settings.get("truncation_psi"), settings.get("truncation_cutoff")
        number = isinstance(psi, int | float) and not isinstance(psi, bool) and math.isfinite(psi)
        if psi is not None and not number:
            raise ConfigError(f"truncation_psi={psi!r}: give a number, such as 0.7, or null")
        if cutoff is not None and (isinstance(cutoff, bool) or not isinstance(cutoff, int) or cutoff < 0):
            raise ConfigError(f"truncation_cutoff={cutoff!r}: give a number of layers >= 0, or null")
        mode = settings.get("noise_mode")
        if mode == "random":
            raise ConfigError(
                "noise_mode=random draws one noise for a whole batch, so a sample would depend on its batch: "
                "use const or none"
            )
        if mode is not None and mode not in _NOISE_MODES:
            raise ConfigError(f"noise_mode={mode!r} is not known. {nearest(str(mode), _NOISE_MODES)}")

    def latents(
        self, requests: Sequence[Request], *, space: str, sampler: Sampler | None, settings: Settings
    ) -> Tensor:
        """z f32 [B,z_dim], or w f32 [B,num_ws,w_dim] after truncation."""
        z = super().latents(requests, space="z", sampler=sampler, settings={})
        if space == "z":
            return z
        w: Tensor = self._map(z, self._labels(requests), settings).float().cpu()
        return w

    def timed_parts(self) -> list[ModelPart]:
        """Its two halves."""
        return [ModelPart("mapping", self, "_map", self.dtype), ModelPart("synthesis", self, "_output", self.dtype)]

    def _map(self, z: Tensor, labels: Tensor | None, settings: Settings) -> Tensor:
        import torch

        c = torch.zeros(len(z), 0) if labels is None else labels
        psi, cutoff = settings.get("truncation_psi"), settings.get("truncation_cutoff")
        w = self._evaluate(self._net.mapping, z, c, truncation_psi=1 if psi is None else psi, truncation_cutoff=cutoff)
        if not isinstance(w, torch.Tensor) or w.ndim != 3 or len(w) != len(z):
            got = list(w.shape) if isinstance(w, torch.Tensor) else f"a {type(w).__name__}"
            raise DataError(f"the generator's mapping gave {got} for {len(z)} latents, not [{len(z)},num_ws,w_dim]")
        return w

    def _output(self, latents: Tensor, labels: Tensor | None, *, space: str, settings: Settings) -> Any:
        w = latents if space == "w" else self._map(latents, labels, settings)
        mode = settings.get("noise_mode") or "const"
        return self._evaluate(self._net.synthesis, w, noise_mode=mode, **self.synthesis_args)
