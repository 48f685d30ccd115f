""".onnx models by ONNX Runtime, and how they are made."""

from typing import TYPE_CHECKING

from evalkit.utils.lazy import lazy

if TYPE_CHECKING:
    from evalkit.models.onnx.model import OnnxDenoiser as OnnxDenoiser
    from evalkit.models.onnx.model import OnnxModel as OnnxModel
    from evalkit.models.onnx.pipeline import OnnxPipeline as OnnxPipeline
else:
    __all__, __getattr__ = lazy(__name__, model="OnnxDenoiser OnnxModel", pipeline="OnnxPipeline")
