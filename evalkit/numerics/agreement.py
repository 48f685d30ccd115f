"""How far two raters agree on items: the share, Cohen's kappa, and their intervals; items may come in clusters.

Cohen 1960 and, for grades, 1968 (weighted kappa). The standard error is that of Fleiss, Cohen and Everitt 1969, written
as one influence per item, so that items of one cluster (questions about one image) can be summed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Literal

from evalkit.metric import standard_error
from evalkit.numerics.binomial import clopper_pearson, effective_samples

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

CONFIDENCE = 0.95
Weights = Literal["none", "quadratic"]


@dataclass(frozen=True)
class Share:
    """A value with its interval at 95 %.

    Attributes:
        value: the share, or kappa.
        low, high: the interval; none where there is none.
        worth: of a share: as many independent items would tell as much.
    """

    value: float
    low: float | None
    high: float | None
    worth: float | None = None


def confusion(first: Sequence[int], second: Sequence[int], classes: int) -> NDArray[np.int64]:
    """How often the first rater's class i met the second's class j: i64 [C,C].

    Args:
        first, second: classes of the same items, 0 to `classes` - 1.
    """
    import numpy as np

    table = np.zeros((classes, classes), np.int64)
    np.add.at(table, (np.asarray(first, np.int64), np.asarray(second, np.int64)), 1)
    return table


def agreement(same: Sequence[bool], clusters: Sequence[int] | None = None) -> Share:
    """The share of items on which two raters agree; the interval is exact (Clopper and Pearson 1934).

    Items in clusters count as many as independent ones would tell as much (`effective_samples`).
    """
    n = len(same)
    value, groups = sum(same) / n, n if clusters is None else len(set(clusters))
    error = standard_error([float(each) for each in same], clusters) if groups < n else None
    many = float(effective_samples(value, error, n, groups))
    return Share(value, *clopper_pearson(value * many, many), many)


def kappa(
    first: Sequence[int],
    second: Sequence[int],
    classes: int,
    weights: Weights = "none",
    clusters: Sequence[int] | None = None,
) -> Share | None:
    """Cohen's kappa of two raters' classes of the same items; none where both know one and the same class alone.

    The interval is normal, of the standard error above; none of fewer than two clusters, or where nothing varies.

    Args:
        first, second: classes, 0 to `classes` - 1.
        weights: "quadratic": classes are grades, and near ones count as nearly the same: 1 - ((i - j) / (C - 1))^2.
        clusters: by item its cluster; none: each is its own.
    """
    import numpy as np

    i, j = np.asarray(first, np.int64), np.asarray(second, np.int64)
    table = confusion(first, second, classes) / len(i)
    rows, columns = table.sum(1), table.sum(0)
    grades = np.arange(classes)
    credit = np.eye(classes)
    if weights == "quadratic":
        credit = 1 - np.square((grades[:, None] - grades) / max(classes - 1, 1))
    seen, chance = float((credit * table).sum()), float(rows @ credit @ columns)
    if chance >= 1 - 1e-12:
        return None
    value = (seen - chance) / (1 - chance)
    by_chance = (credit @ columns)[i] + (rows @ credit)[j] - 2 * chance  # what an item adds to `chance`, [N]
    influence = ((credit[i, j] - seen) * (1 - chance) - (1 - seen) * by_chance) / (1 - chance) ** 2
    error = standard_error(influence, clusters)
    if not error or error < 1e-12:
        return Share(value, None, None)
    reach = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2) * error
    return Share(value, max(value - reach, -1.0), min(value + reach, 1.0))
