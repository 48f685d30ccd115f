"""A callback of Keras: scores among an epoch's logs, so that `ModelCheckpoint(monitor="fid")` after it works."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from keras.callbacks import Callback

from evalkit.loop.callbacks.scores import score
from evalkit.loop.evaluation import Evaluation


class KerasEvaluation(Callback):  # type: ignore[misc,unused-ignore]
    """Scores what the model makes at the end of epochs, whatever Keras' backend is.

    Args:
        evaluation: of this training.
        generate: called as generate(model, indices); gives an array u8 [B,H,W,3], or floats with the evaluation's
            `value_range`; what tells training from inference (`training=False`) is up to it.
        num_samples: how many to score.
        every: epochs between evaluations.
        batch_size: images that are asked for at a time.
    """

    def __init__(
        self,
        evaluation: Evaluation,
        generate: Callable[[Any, Sequence[int]], Any],
        *,
        num_samples: int,
        every: int = 1,
        batch_size: int = 64,
    ) -> None:
        super().__init__()
        self.evaluation, self._generate = evaluation, generate
        self._num_samples, self._every, self._batch_size = num_samples, every, batch_size

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if (epoch + 1) % self._every:
            return

        def generate(indices: Sequence[int]) -> Any:
            return self._generate(self.model, indices)

        scores = score(self.evaluation, generate, self._num_samples, epoch + 1, batch_size=self._batch_size)
        if logs is not None:
            logs.update(scores)
