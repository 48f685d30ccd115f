"""Who runs the units of work: this process, a process per device, stripes of a gang, Slurm, Ray."""

from typing import TYPE_CHECKING

from evalkit.utils.lazy import lazy

if TYPE_CHECKING:
    from evalkit.engines.base import Engine as Engine
    from evalkit.engines.base import InProcess as InProcess
    from evalkit.engines.base import Work as Work
    from evalkit.engines.factory import choose as choose
    from evalkit.engines.local import Local as Local
    from evalkit.engines.stripe import Stripe as Stripe
else:
    __all__, __getattr__ = lazy(
        __name__, base="Engine InProcess Work", factory="choose", local="Local", stripe="Stripe"
    )
