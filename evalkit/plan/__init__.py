"""RunConfig -> cells: everything that a run needs, built and checked once, carried by `Plan`."""

from typing import TYPE_CHECKING

from evalkit.utils.lazy import lazy

if TYPE_CHECKING:
    from evalkit.plan.grid import Grid as Grid
    from evalkit.plan.grid import make_grid as make_grid
    from evalkit.plan.plan import Plan as Plan
    from evalkit.plan.plan import make_plan as make_plan
    from evalkit.plan.show import print_plan as print_plan
else:
    __all__, __getattr__ = lazy(__name__, grid="Grid make_grid", plan="Plan make_plan", show="print_plan")
