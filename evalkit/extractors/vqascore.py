"""VQAScore (Lin et al. 2024, arXiv:2404.01291): how probable a model finds "Yes" to a question about image and prompt.

Through the authors' package t2v-metrics (Apache-2.0; API of 1.2 and 3.0). It was not run with the package nor with the
real weights: t2v-metrics pins transformers (4.36.1, or 4.49.0 with torch 2.5.1) and so wants an environment of its own
(`extractor.vqascore.env`, docs/scorers.md); the tests hold a stand-in of its public API.
"""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.errors import ConfigError
from evalkit.extractors.base import DECODER, BatchSize, Extractor
from evalkit.utils.text import one_line

if TYPE_CHECKING:
    from torch import Tensor

    from evalkit.extractors.base import Images
PACKAGE = "t2v_metrics"
QUESTION = 'Does this figure show "{}"? Please answer yes or no.'
ANSWER = "Yes"
CANONICAL = "clip-flant5-xxl"  # the paper's own


@dataclass(eq=False)
class VqaScore(Extractor):
    """Layer score (1), of an image and its prompt: a probability.

    Args:
        name: how scores are labelled.
        model: one that t2v-metrics knows ("clip-flant5-xxl", "clip-flant5-xl"); it fetches the weights itself.
        question: what is asked; {} stands for the prompt.
        answer: the answer whose probability counts.
        cache_dir: where the package keeps its weights; none: where it likes.
        batch_size: pairs handed over at a time.
    """

    joint_layers = frozenset({"score"})

    name: str
    model: str = CANONICAL
    question: str = QUESTION
    answer: str = ANSWER
    cache_dir: str | None = None
    batch_size: BatchSize = 8
    _scorer: Any = field(init=False, default=None)
    _device: str | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        super().__init__(self.name, self.batch_size)
        if "{}" not in self.question:
            raise ConfigError(f"extractor.{self.name}.question: '{self.question}' has no place {{}} for the prompt")

    @property
    def layers(self) -> Mapping[str, int | None]:
        return {"score": 1}

    def check(self, *, fetch: bool = True) -> None:
        if importlib.util.find_spec(PACKAGE) is None:
            raise ConfigError(
                f"{self.where}: t2v-metrics is not installed: it pins transformers, so give it an "
                "environment of its own: extractor.vqascore.env (docs/scorers.md)"
            )

    def identity(self) -> dict[str, Any]:
        try:
            installed = version("t2v-metrics")
        except PackageNotFoundError:
            installed = "unknown"
        return {
            "network": f"t2v-metrics {installed}",
            "model": self.model,
            "weights": "as t2v-metrics fetches them; it pins no revision",
            "question": self.question,
            "answer": self.answer,
            "dtype": "the package's",
            "decoder": DECODER,
        }

    def canonical(self) -> bool:
        return (self.model, self.question, self.answer) == (CANONICAL, QUESTION, ANSWER)

    def label(self) -> str:
        return self.name if self.model == CANONICAL else f"{self.name}:{self.model}"

    def load(self, device: str) -> None:
        if self._device == device:
            return
        self.check()
        t2v_metrics = importlib.import_module(PACKAGE)
        options = {} if self.cache_dir is None else {"cache_dir": self.cache_dir}
        try:
            self._scorer = t2v_metrics.VQAScore(model=self.model, device=device, **options)
        except Exception as error:  # an unknown model (AssertionError), no connection, no memory ...
            reason = one_line(error)
            raise ConfigError(f"{self.where}: t2v-metrics cannot load the model '{self.model}': {reason}") from error
        self._device = device

    def unload(self) -> None:
        self._scorer = None
        self._device = None

    def __call__(self, images: Images, prompts: Sequence[str], layers: Sequence[str]) -> dict[str, Tensor]:
        import torch
        from PIL import Image

        assert self._scorer is not None, "load() comes first"
        with tempfile.TemporaryDirectory(prefix="evalkit-vqascore-") as folder, torch.inference_mode():
            pairs = []
            for i, (image, prompt) in enumerate(zip(images, prompts, strict=True)):
                path = Path(folder) / f"{i:06d}.png"  # the package reads files; PNG keeps every level
                Image.fromarray(image).save(path)
                pairs.append({"images": [str(path)], "texts": [prompt]})
            scores = self._scorer.batch_forward(
                dataset=pairs, batch_size=len(pairs), question_template=self.question, answer_template=self.answer
            )  # [B, images per pair, texts per pair] = [B,1,1]
        return {"score": scores.reshape(len(pairs), 1).float().cpu()}
