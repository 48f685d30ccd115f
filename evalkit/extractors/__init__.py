"""Feature extractors: pinned weights, their own resize, a declared dtype."""

from typing import TYPE_CHECKING

from evalkit.utils.lazy import lazy

if TYPE_CHECKING:
    from evalkit.extractors.base import Extractor as Extractor
    from evalkit.extractors.base import NetworkExtractor as NetworkExtractor
else:
    __all__, __getattr__ = lazy(__name__, base="Extractor NetworkExtractor")
