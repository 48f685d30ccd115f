"""Images that exist, however they are stored: sources, what lies next to the images, references."""

from typing import TYPE_CHECKING

from evalkit.utils.lazy import lazy

if TYPE_CHECKING:
    from evalkit.data.arrays import ArrayImages as ArrayImages
    from evalkit.data.moments import Moments as Moments
    from evalkit.data.moments import read_moments as read_moments
    from evalkit.data.moments import write_moments as write_moments
    from evalkit.data.reference import Reference as Reference
    from evalkit.data.source import Source as Source
else:
    __all__, __getattr__ = lazy(
        __name__,
        arrays="ArrayImages",
        moments="Moments read_moments write_moments",
        reference="Reference",
        source="Source",
    )
