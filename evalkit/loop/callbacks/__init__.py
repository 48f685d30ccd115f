"""Evaluation as the callback of a trainer: Lightning, transformers, Keras; and `score` for loops of one's own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evalkit.utils.lazy import lazy

if TYPE_CHECKING:
    from evalkit.loop.callbacks.keras_callback import KerasEvaluation
    from evalkit.loop.callbacks.lightning_callback import LightningEvaluation
    from evalkit.loop.callbacks.scores import AccelerateEvaluation, score
    from evalkit.loop.callbacks.transformers_callback import TransformersEvaluation
else:
    _, __getattr__ = lazy(
        __name__,
        keras_callback="KerasEvaluation",
        lightning_callback="LightningEvaluation",
        scores="AccelerateEvaluation score",
        transformers_callback="TransformersEvaluation",
    )

__all__ = ["AccelerateEvaluation", "KerasEvaluation", "LightningEvaluation", "TransformersEvaluation", "score"]
