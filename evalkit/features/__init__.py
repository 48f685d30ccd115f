"""One pass of the extractors over images, and the store of what they gave."""

from typing import TYPE_CHECKING

from evalkit.utils.lazy import lazy

if TYPE_CHECKING:
    from evalkit.features.feature_pass import FeaturePass as FeaturePass
else:
    __all__, __getattr__ = lazy(__name__, feature_pass="FeaturePass")
