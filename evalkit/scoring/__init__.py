"""Sources x metrics -> scores with their protocols, through the caches."""

from typing import TYPE_CHECKING

from evalkit.utils.lazy import lazy

if TYPE_CHECKING:
    from evalkit.scoring.protocol import Against as Against
    from evalkit.scoring.scoring import Scored as Scored
    from evalkit.scoring.sources import Scoring as Scoring
    from evalkit.scoring.sources import reference_statistics as reference_statistics
    from evalkit.scoring.sources import score_sources as score_sources
else:
    __all__, __getattr__ = lazy(
        __name__, protocol="Against", scoring="Scored", sources="Scoring reference_statistics score_sources"
    )
