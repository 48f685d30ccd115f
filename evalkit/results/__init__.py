"""Rows, the table, comparisons, and the files and sheets that a run leaves."""

from typing import TYPE_CHECKING

from evalkit.utils.lazy import lazy

if TYPE_CHECKING:
    from evalkit.results.table import Comparison as Comparison
    from evalkit.results.table import ResultTable as ResultTable
    from evalkit.results.table import Row as Row
else:
    __all__, __getattr__ = lazy(__name__, table="Comparison ResultTable Row")
