"""Prompt sets, and the images that prompts name."""

from typing import TYPE_CHECKING

from evalkit.utils.lazy import lazy

if TYPE_CHECKING:
    from evalkit.prompts.benchmark import BenchmarkPrompts as BenchmarkPrompts
    from evalkit.prompts.sets import ClassPrompts as ClassPrompts
    from evalkit.prompts.sets import DatasetPrompts as DatasetPrompts
    from evalkit.prompts.sets import DigitsPrompts as DigitsPrompts
    from evalkit.prompts.sets import InlinePrompts as InlinePrompts
    from evalkit.prompts.sets import Prompt as Prompt
    from evalkit.prompts.sets import PromptSet as PromptSet
    from evalkit.prompts.sets import TablePrompts as TablePrompts
    from evalkit.prompts.sets import TextPrompts as TextPrompts
else:
    __all__, __getattr__ = lazy(
        __name__,
        benchmark="BenchmarkPrompts",
        sets="ClassPrompts DatasetPrompts DigitsPrompts InlinePrompts Prompt PromptSet TablePrompts TextPrompts",
    )
