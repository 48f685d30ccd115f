"""What is asked for: the structured root, composition, sweeps, building; the only place that knows Hydra."""

from typing import TYPE_CHECKING

from evalkit.utils.lazy import lazy

if TYPE_CHECKING:
    from evalkit.config.build import build as build
    from evalkit.config.build import locate as locate
    from evalkit.config.compose import compose as compose
    from evalkit.config.compose import explain as explain
    from evalkit.config.compose import group_options as group_options
    from evalkit.config.compose import register as register
    from evalkit.config.compose import resolve as resolve
    from evalkit.config.schema import CONFIG_MODULE as CONFIG_MODULE
    from evalkit.config.schema import GROUPS as GROUPS
    from evalkit.config.schema import RULES as RULES
    from evalkit.config.schema import RunConfig as RunConfig
else:
    __all__, __getattr__ = lazy(
        __name__,
        build="build locate",
        compose="compose explain group_options register resolve",
        schema="CONFIG_MODULE GROUPS RULES RunConfig",
    )
