"""What is asked for: the structured root, composition, sweeps, building; the only place that knows Hydra."""

from evalkit.config.build import build, locate
from evalkit.config.compose import compose, explain, explain_null, group_options, register, resolve
from evalkit.config.schema import CONFIG_MODULE, GROUPS, RULES, RunConfig

__all__ = [
    "CONFIG_MODULE",
    "GROUPS",
    "RULES",
    "RunConfig",
    "build",
    "compose",
    "explain",
    "explain_null",
    "group_options",
    "locate",
    "register",
    "resolve",
]
