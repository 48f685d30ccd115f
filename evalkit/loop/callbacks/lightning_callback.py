"""A callback of Lightning: scores at the end of epochs, logged, so that `ModelCheckpoint(monitor="fid")` works."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from evalkit.loop.callbacks.scores import score
from evalkit.loop.evaluation import Evaluation

if TYPE_CHECKING or "pytorch_lightning" in sys.modules:  # two packages hold the same classes twice
    from pytorch_lightning import Callback
else:
    try:
        from lightning.pytorch import Callback
    except ImportError:
        from pytorch_lightning import Callback


class LightningEvaluation(Callback):  # type: ignore[misc,unused-ignore]
    """Scores what the module makes.

    Args:
        evaluation: built on every rank; a function that builds it is called when ranks have met.
        generate: called as generate(module, indices); see `evalkit.loop.callbacks.scores.Generate`.
        num_samples: over all ranks.
        every: epochs between evaluations.
        batch_size: images that are asked for at a time.
    """

    def __init__(
        self,
        evaluation: Evaluation | Callable[[], Evaluation],
        generate: Callable[[Any, Sequence[int]], Any],
        *,
        num_samples: int,
        every: int = 1,
        batch_size: int = 64,
    ) -> None:
        self._evaluation, self._generate = evaluation, generate
        self._num_samples, self._every, self._batch_size = num_samples, every, batch_size

    @property
    def evaluation(self) -> Evaluation:
        """Built when it is first needed, where a function is given."""
        if not isinstance(self._evaluation, Evaluation):
            self._evaluation = self._evaluation()
        return self._evaluation

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        if (trainer.current_epoch + 1) % self._every:
            return
        scores = score(
            self.evaluation,
            lambda indices: self._generate(pl_module, indices),
            self._num_samples,
            trainer.global_step,
            model=pl_module,
            batch_size=self._batch_size,
        )
        pl_module.log_dict(scores)  # the same on all ranks
