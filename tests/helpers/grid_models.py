"""Models that make nothing, for tests of the grid: named by `_target_`, as people's own are."""

from collections.abc import Mapping, Sequence
from typing import Any

from evalkit.models.base import Conditioning, Generated, Model, Request, Sampler
from evalkit.prompts.sets import Prompt, PromptSet


class Bare(Model):
    """No sampler, no prompts, no call settings."""

    def __init__(self, path: str = "weights", width: int = 8) -> None:
        self.path, self.width = path, width

    def check(self, *, fetch: bool = True) -> None:
        pass

    def identity(self) -> dict[str, Any]:
        return {"path": self.path, "width": self.width}

    def load(self, device: str) -> None:
        raise AssertionError("the grid loads nothing")

    def generate(
        self, requests: Sequence[Request], *, sampler: Sampler | None, settings: Mapping[str, Any]
    ) -> Generated:
        raise AssertionError("the grid generates nothing")


class TextModel(Bare):
    conditioning: Conditioning = "text"
    takes_sampler = True
    call_settings = frozenset({"guidance_scale", "num_inference_steps"})


class ClassModel(Bare):
    conditioning: Conditioning = "class"


class Prompts(PromptSet):
    """A prompt set of `count` prompts."""

    def __init__(self, count: int = 6) -> None:
        super().__init__(tuple(Prompt(f"prompt {number}") for number in range(count)))

    def identity(self) -> dict[str, Any]:
        return {"count": len(self.prompts)}
