"""A callback of transformers' Trainer: scores at each evaluation, so that `metric_for_best_model="eval_fid"` works."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from transformers import TrainerCallback

from evalkit.loop.callbacks.scores import score
from evalkit.loop.evaluation import Evaluation


class TransformersEvaluation(TrainerCallback):  # type: ignore[misc,unused-ignore]
    """Scores what the model makes, whenever the Trainer evaluates.

    Args:
        evaluation: built on every rank.
        generate: called as generate(model, indices); see `evalkit.loop.callbacks.scores.Generate`.
        num_samples: over all ranks.
        batch_size: images that are asked for at a time.
    """

    def __init__(
        self,
        evaluation: Evaluation,
        generate: Callable[[Any, Sequence[int]], Any],
        *,
        num_samples: int,
        batch_size: int = 64,
    ) -> None:
        self.evaluation, self._generate = evaluation, generate
        self._num_samples, self._batch_size = num_samples, batch_size

    def on_evaluate(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        model = given["model"]
        scores = score(
            self.evaluation,
            lambda indices: self._generate(model, indices),
            self._num_samples,
            state.global_step,
            model=model,
            batch_size=self._batch_size,
        )
        named = {f"eval_{name}": value for name, value in scores.items()}
        given.get("metrics", {}).update(named)  # by which the Trainer finds its best model
        state.log_history.append({**named, "step": state.global_step, "epoch": state.epoch})
