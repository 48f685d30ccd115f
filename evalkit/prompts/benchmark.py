"""The prompts of a benchmark, from its own file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evalkit.judges.benchmark_file import read_benchmark
from evalkit.prompts.prompt import Prompt
from evalkit.prompts.sets import PromptSet


class BenchmarkPrompts(PromptSet):
    """The prompts of the run's `benchmark`, with their categories, and the pictures to be edited where it has any.

    Args:
        benchmark: the keys of `benchmark`, `evalkit.judges.benchmark_file.BenchmarkFile`.
        samples_per_prompt, limit, exhaustive: as of `PromptSet`.
    """

    def __init__(
        self,
        benchmark: Mapping[str, Any],
        samples_per_prompt: int = 1,
        limit: int | None = None,
        exhaustive: bool = False,
    ) -> None:
        made = tuple(
            Prompt(
                text=task.prompt,
                category=task.category,
                class_id=task.class_id,
                source=str(task.image) if task.image else None,
            )
            for task in read_benchmark(benchmark)
        )
        super().__init__(made, samples_per_prompt, limit, exhaustive)
