"""What all callbacks do: have the model make samples, by index, and score them; the helper of accelerate's loops."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from evalkit.errors import whole_number
from evalkit.loop.evaluation import Evaluation

if TYPE_CHECKING:
    from torch.nn import Module

Generate = Callable[[Sequence[int]], Any]
"""Images of some samples, by their indices: a batch as `Evaluation.update` takes it, or (batch, prompts)."""


def score(
    evaluation: Evaluation,
    generate: Generate,
    num_samples: int,
    step: int,
    *,
    model: Module | None = None,
    batch_size: int = 64,
) -> dict[str, float]:
    """Scores of `num_samples` samples, by metric; of several ranks each makes some, and all get the same scores.

    Random states are as they were before, and so is the model's mode, which is `eval()` meanwhile.

    Args:
        evaluation: of this training.
        generate: makes images. Where it seeds by index, scores do not depend on the number of ranks.
        num_samples: over all ranks.
        step: of the training.
        model: whose mode is changed; none: no mode is.
        batch_size: images that are asked for at a time.

    Raises:
        EvalkitError: as of `Evaluation.update` and `compute`.
    """
    own = evaluation.indices(whole_number(num_samples, "num_samples"))
    evaluation.reset()
    with evaluating(model):
        for start in range(0, len(own), batch_size):
            index = own[start : start + batch_size]
            made = generate(index)
            images, prompts = made if isinstance(made, tuple) else (made, None)
            evaluation.update(images, prompts, index)
    table = evaluation.compute(step)
    return {row.metric: row.value for row in table.rows if row.metric in evaluation.metrics and row.value is not None}


@contextmanager
def evaluating(model: Module | None) -> Iterator[None]:
    """A model in `eval()`, without gradients; each part's mode and the random states are put back."""
    import torch

    modes = [(part, part.training) for part in model.modules()] if model is not None else []
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    try:
        with torch.random.fork_rng(devices=devices), torch.no_grad():
            if model is not None:
                model.eval()
            yield
    finally:
        for part, training in modes:
            part.training = training


class AccelerateEvaluation:
    """For a loop with accelerate, as diffusers' training scripts are: `step` after each step.

    Args:
        accelerator: logs the scores with its trackers.
        evaluation: built on every rank.
        generate, num_samples, model, batch_size: as of `score`.
        every: how many steps lie between evaluations.
    """

    def __init__(
        self,
        accelerator: Any,
        evaluation: Evaluation,
        generate: Generate,
        *,
        every: int,
        num_samples: int,
        model: Module | None = None,
        batch_size: int = 64,
    ) -> None:
        self.accelerator, self.evaluation, self.generate = accelerator, evaluation, generate
        self.every, self.num_samples = whole_number(every, "every"), num_samples
        self.model, self.batch_size = model, batch_size

    def step(self, step: int) -> dict[str, float]:
        """The scores after this step, which are logged; empty where it is none to evaluate at."""
        if step % self.every:
            return {}
        scores = score(
            self.evaluation, self.generate, self.num_samples, step, model=self.model, batch_size=self.batch_size
        )
        self.accelerator.log(scores, step=step)
        return scores
