"""Krippendorff's alpha for names: how far several raters agree on items, beyond chance, whoever rated which.

Krippendorff 2004, "Content Analysis", 2nd edition, chapter 11: 1 where all agree, 0 where they agree as by chance.
Items that one rater alone has rated tell nothing, and are left out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def alpha(counts: NDArray[np.float64]) -> float | None:
    """Alpha of names; none where no item has two ratings, or all ratings are one and the same.

    Args:
        counts: f64 [items, names], how many raters gave an item each name.
    """
    import numpy as np

    counts = counts[counts.sum(1) > 1]
    each = counts.sum(1)
    totals = counts.sum(0)
    n = float(totals.sum())
    by_chance = n**2 - float((totals**2).sum())
    if not by_chance:
        return None
    apart = float(((each**2 - (counts**2).sum(1)) / np.maximum(each - 1, 1)).sum())
    return 1 - (n - 1) * apart / by_chance
