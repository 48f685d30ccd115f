"""Models make images: one file or folder per family; `base.py` is what they share."""

from typing import TYPE_CHECKING

from evalkit.utils.lazy import lazy, moved

if TYPE_CHECKING:
    from evalkit.models.base import ExistingImages as ExistingImages
    from evalkit.models.base import Generated as Generated
    from evalkit.models.base import Model as Model
    from evalkit.models.base import Request as Request
    from evalkit.models.base import Sampler as Sampler
else:
    __all__, __getattr__ = lazy(__name__, base="ExistingImages Generated Model Request Sampler")

moved(
    __name__,
    service="services.base",
    openai_images="services.openai_images",
    automatic1111="services.automatic1111",
    comfyui="services.comfyui",
)
