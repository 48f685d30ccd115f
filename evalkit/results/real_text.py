"""Real images next to the generated ones (`floor=split|DIR`), in words: how their line and its multiples are called."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

REAL = "real (floor)"  # what the table calls the model of a line of real images; no option of `model` is called so
OF_FLOOR = "/floor"  # at the end of a metric's name: the distance as a multiple of the real images'
RUN = "floor"  # the key of a table's `run`


def is_real(model: str) -> bool:
    """Whether a row of such a model is of real images that were held out: no cell that is ranked or compared."""
    return model == REAL


def multiple_of(metric: str) -> str | None:
    """The distance that a metric is a multiple of the floor of ("fid" of "fid/floor"); none of any other metric."""
    return metric.removesuffix(OF_FLOOR) if metric.endswith(OF_FLOOR) else None


def real_lines(run: Mapping[str, Any]) -> list[str]:
    """What must be read with a table that has a floor: which images it is of, and which distances have no multiple."""
    about = run.get(RUN)
    if not about:
        return []
    n = " and ".join(f"{count:,}" for count in about["n"])
    if about["kind"] == "split":
        which = f"{n} images of {about['of']} that were held out (seed {about['seed']})"
        against = f"against the other {about['left']:,}, which all cells are compared with here"
    else:
        which, against = f"{n} of the {about['images']:,} images of {about['of']}", "against the same reference"
    lines = [
        f"{REAL}: {which}, scored as a cell of that N {against}. NAME / floor: a distance by theirs; 1 is as near as "
        "other real images are."
    ]
    if about.get("shared"):
        lines.append(
            f"Warning: {about['shared']} of the {about['images']:,} images of {about['of']} are images of the "
            "reference: they are not held out, and the floor is too low."
        )
    return [*lines, *(f"No multiple of {label}: {why}." for label, why in about.get("without", {}).items())]
