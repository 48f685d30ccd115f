"""Pipelines of diffusers: loading, sampling, and what is done to them beyond (adapters, ControlNets, speed-ups)."""

from typing import TYPE_CHECKING

from evalkit.utils.lazy import lazy

if TYPE_CHECKING:
    from evalkit.models.diffusers.model import DiffusersModel as DiffusersModel
else:
    __all__, __getattr__ = lazy(__name__, model="DiffusersModel")
