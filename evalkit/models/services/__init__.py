"""Models behind HTTP, one file per API: `base.py` has concurrency, `cache.py` fetched images."""

from typing import TYPE_CHECKING

from evalkit.utils.lazy import lazy

if TYPE_CHECKING:
    from evalkit.models.services.automatic1111 import Automatic1111 as Automatic1111
    from evalkit.models.services.base import Service as Service
    from evalkit.models.services.comfyui import ComfyUI as ComfyUI
    from evalkit.models.services.openai_images import OpenAIImages as OpenAIImages
else:
    __all__, __getattr__ = lazy(
        __name__, base="Service", openai_images="OpenAIImages", automatic1111="Automatic1111", comfyui="ComfyUI"
    )
