"""Any image classifier of transformers from a folder of its own: logits, probabilities, and one of what is flagged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from evalkit.errors import ConfigError, nearest
from evalkit.extractors.base import DECODER, BatchSize, NetworkExtractor
from evalkit.extractors.pretrained import PretrainedNetwork

if TYPE_CHECKING:
    from torch import Tensor

    from evalkit.extractors.base import Images


class ImageClassifier(NetworkExtractor):
    """Layers logits and probabilities (one value per class), and flagged (1) where labels are flagged.

    Probabilities are those of a softmax, or of a sigmoid each where classes do not exclude one another. flagged is the
    probability that an image is of a flagged class: their sum; with sigmoids the largest.

    Args:
        name: how scores are labelled.
        model: a folder (config.json with id2label, *.safetensors, preprocessor_config.json), a hub id, or
            {path: owner/name, revision: main}.
        flags: names of the flagged classes, as id2label has them; none: there is no layer flagged.
        multi_label: whether classes do not exclude one another; none: as config.json says (problem_type), else they do.
        batch_size: images in one forward pass.
        precision: float32, tf32, bfloat16 (bf16) or float16 (fp16); see `NetworkExtractor`.
    """

    def __init__(
        self,
        name: str,
        model: str | Mapping[str, str] | None = None,
        flags: Sequence[str] | None = None,
        multi_label: bool | None = None,
        batch_size: BatchSize = 16,
        precision: str = "float32",
    ) -> None:
        super().__init__(name, batch_size, precision)
        self.classifier = PretrainedNetwork.read(name, model)
        self.flags, self.given = tuple(flags or ()), multi_label
        self._processor: Any = None

    @property
    def layers(self) -> Mapping[str, int | None]:
        classes = len(self.classifier.label_names()) if self.classifier.config_file() else None
        return {"logits": classes, "probabilities": classes} | ({"flagged": 1} if self.flags else {})

    @property
    def multi_label(self) -> bool:
        """Whether probabilities are sigmoids."""
        if self.given is not None:
            return self.given
        return self.classifier.config.get("problem_type") == "multi_label_classification"

    def check(self, *, fetch: bool = True) -> None:
        self.classifier.check(fetch=fetch)
        if not self.classifier.architecture.endswith("ForImageClassification"):
            is_a = f"{self.classifier.files.location.path} is a '{self.classifier.architecture}'"
            raise ConfigError(f"{self.where}: {is_a}: give a model whose class ends in ForImageClassification")
        names = self.classifier.label_names()
        for flag in self.flags:
            if flag not in names:
                raise ConfigError(
                    f"extractor.{self.name}.flags: the model has no class '{flag}'. {nearest(flag, names)}"
                )

    def identity(self) -> dict[str, Any]:
        flagged = {"flags": sorted(self.flags)} if self.flags else {}
        return (
            self.classifier.identity()
            | flagged
            | {
                "probabilities": "sigmoid" if self.multi_label else "softmax",
                "resize": "the folder's own image processor",
                "dtype": self.dtype,
                "decoder": DECODER,
            }
        )

    def label(self) -> str:
        return f"{self.name}:{self.classifier.tag()}"

    def _load(self) -> Any:
        self._processor = self.classifier.processor()
        return self.classifier.load("AutoModelForImageClassification")

    def __call__(self, images: Images, prompts: Sequence[str], layers: Sequence[str]) -> dict[str, Tensor]:
        import torch

        # one by one: a processor that pads would give an image what its neighbours' sizes make of it
        pixels = [self._processor(images=[image], return_tensors="pt")["pixel_values"] for image in images]
        with self.arithmetic():
            logits = self.network(pixel_values=torch.cat(pixels).to(self._device)).logits.float()  # [B,C]
        probabilities = logits.sigmoid() if self.multi_label else logits.softmax(1)
        found = {"logits": logits, "probabilities": probabilities}
        if self.flags:
            names = self.classifier.label_names()
            flagged = probabilities[:, [i for i, name in enumerate(names) if name in self.flags]]
            found["flagged"] = flagged.amax(1, keepdim=True) if self.multi_label else flagged.sum(1, keepdim=True)
        return {layer: found[layer] for layer in layers}
