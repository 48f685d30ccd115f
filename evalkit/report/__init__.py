"""A finished run's folder -> one self-contained page: no network, no server, no GPU, no torch."""

from typing import TYPE_CHECKING

from evalkit.utils.lazy import lazy

if TYPE_CHECKING:
    from evalkit.report.write import write_page as write_page
    from evalkit.report.write import write_report as write_report
else:
    __all__, __getattr__ = lazy(__name__, write="write_report write_page")
