"""A plan as a dry run prints it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from evalkit.cell import KEY_SHOWN
from evalkit.plan.asked import prompts_of
from evalkit.results.terminal import make_console
from evalkit.samples.cells import look

if TYPE_CHECKING:
    from evalkit.plan.plan import Plan


def print_plan(plan: Plan) -> None:
    """Prints the cells, what of each is there and to make, and a line for each thing that is missing."""
    from rich.table import Table
    from rich.text import Text

    from evalkit.samples.generate import bytes_per_image

    title = Text(f"{plan.config.name}: {len(plan.cells)} cells")  # a name may hold brackets, which are no markup
    view = Table(title=title, title_justify="left")
    for head in ("cell", "key"):
        view.add_column(head, overflow="fold")
    for head in ("samples", "there", "to make", "about MB"):
        view.add_column(head, justify="right")
    to_make = {key: found.count_missing() for key, found in look(plan.store, plan.generated).items()}
    size = {c.key: to_make[c.key] * bytes_per_image(c) / 1e6 for c in plan.generated}  # MB
    for cell in plan.all_cells:
        missing = to_make.get(cell.key, 0)
        numbers = (str(cell.num_samples), str(cell.num_samples - missing), str(missing))
        view.add_row(Text(cell.name), cell.key[:KEY_SHOWN], *numbers, f"{size.get(cell.key, 0):,.0f}")
    console = make_console()
    console.print(view)
    names = ", ".join([*plan.metrics, *plan.ratings]) or "none"
    console.print(
        f"{sum(to_make.values())} samples to make, about {sum(size.values()):,.0f} MB. Metrics: {names}. "
        f"Results would go to {plan.out}.",
        markup=False,
    )
    for line in _forecasts(plan) if not plan.missing else ():
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    for line in plan.missing:
        console.print(f"missing: {line}", markup=False, highlight=False, soft_wrap=True)


def _forecasts(plan: Plan) -> Iterator[str]:
    """A line per judge: the calls and tokens that its questions about all samples would be."""
    for name, extractor in plan.extractors.items():
        if extractor.asks:
            prompts = [p for cell in plan.all_cells for p in prompts_of(cell, plan.built[cell.key], None)]
            yield f"extractor.{name}: {extractor.forecast(prompts)}"
    for rating in plan.ratings.values():
        if (line := rating.forecast()) is not None:
            yield f"votes.{rating.source}: {line}"
