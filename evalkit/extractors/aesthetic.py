"""LAION's aesthetic predictor v2: five linear layers on the unit-length CLIP ViT-L/14 embedding of an image.

Source: christophschuhmann/improved-aesthetic-predictor (Apache-2.0), `sac+logos+ava1-l14-linearMSE.pth`, and its
`simple_inference.py`; there is no activation between the layers. It was not run here with the real weights: the tests
compare it with the predictor's own layers on small random ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from evalkit.errors import ConfigError
from evalkit.extractors.base import exact_float32
from evalkit.extractors.clip import Clip
from evalkit.utils.state_dict import read_state
from evalkit.utils.weights import Published, Weights

if TYPE_CHECKING:
    from torch import Tensor

    from evalkit.extractors.base import Images
HEAD = Published(
    "the aesthetic predictor's",
    "https://github.com/christophschuhmann/improved-aesthetic-predictor/raw/main/sac%2Blogos%2Bava1-l14-linearMSE.pth",
    "sac+logos+ava1-l14-linearMSE.pth",
    "21dd590f3ccdc646f0d53120778b296013b096a035a2718c9cb0d511bff0f1e0",
)
LINEAR = (0, 2, 4, 6, 7)  # the linear layers' places among the dropouts


class Aesthetic(Clip):
    """Layer score (1), about 1 to 10, besides Clip's own.

    Args:
        name: how scores are labelled.
        model: see Clip, as are all further options.
        head: a .pth or .safetensors file of the five layers; none: the published file in torch's hub cache.
        head_sha256: what the head's sha256 must begin with; none: of a given file anything.
        clip: further options of Clip.
    """

    def __init__(
        self, name: str, model: str, head: str | None = None, head_sha256: str | None = None, **clip: Any
    ) -> None:
        super().__init__(name, model, **clip)
        self.head = Weights(
            f"extractor.{name}", "head", head, HEAD, head_sha256, clip.get("download", True), "head_sha256"
        )
        self._layers: list[tuple[Tensor, Tensor]] = []

    @property
    def layers(self) -> Mapping[str, int | None]:
        return {**super().layers, "score": 1}

    def check(self, *, fetch: bool = True) -> None:
        super().check(fetch=fetch)
        self.head.find(fetch=fetch)

    def identity(self) -> dict[str, Any]:
        return super().identity() | {"head": self.head.digest()}

    def canonical(self) -> bool:
        return super().canonical() and self.head.is_published()

    def label(self) -> str:
        return "+".join(filter(None, (super().label(), self.head.tag())))

    def load(self, device: str) -> None:
        super().load(device)
        if self._layers:
            self._layers = on_device(self._layers, device)
        else:
            file = self.head.find()
            self._layers = mlp_layers(read_state(file, self.where), "layers.", f"{self.where}: {file}")
            takes, width = self._layers[0][0].shape[1], self.layers["image"]
            if takes != width:
                raise ConfigError(
                    f"{self.where}: {file} takes embeddings of {takes} values, but {self.model} gives {width}: "
                    "use CLIP ViT-L/14"
                )
            self._layers = on_device(self._layers, device)

    def unload(self) -> None:
        super().unload()
        self._layers = []

    def __call__(self, images: Images, prompts: Sequence[str], layers: Sequence[str]) -> dict[str, Tensor]:
        of_clip = [layer for layer in layers if layer != "score"]
        if "score" not in layers:
            return super().__call__(images, prompts, of_clip)
        features = super().__call__(images, prompts, [*of_clip, "image_unit"])
        with exact_float32():
            score = mlp(self._layers, features["image_unit"])  # f32 [B,D] -> [B,1]
        return {layer: features.get(layer, score) for layer in layers}


def mlp_layers(state: Mapping[str, Tensor], start: str, where: str) -> list[tuple[Tensor, Tensor]]:
    """Weights and biases f32 of the predictor's five linear layers (ImageReward's last part is the same)."""
    pairs = [(f"{start}{i}.weight", f"{start}{i}.bias") for i in LINEAR]
    lacking = [name for pair in pairs for name in pair if name not in state]
    if lacking:
        raise ConfigError(f"{where} is not the file of this model: it lacks '{lacking[0]}'")
    return [(state[weight].float(), state[bias].float()) for weight, bias in pairs]


def on_device(layers: Sequence[tuple[Tensor, Tensor]], device: str) -> list[tuple[Tensor, Tensor]]:
    """`mlp_layers`, moved."""
    return [(weight.to(device), bias.to(device)) for weight, bias in layers]


def mlp(layers: Sequence[tuple[Tensor, Tensor]], x: Tensor) -> Tensor:
    """One linear layer after the other, with nothing between: f32 [B,D] -> [B,1]."""
    from torch.nn.functional import linear

    for weight, bias in layers:
        x = linear(x, weight, bias)
    return x
