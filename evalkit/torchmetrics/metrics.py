"""The four metrics. Images are torchmetrics' (uint8, or floats 0 to 1 with `normalize`), and so are constants."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

from evalkit.errors import ConfigError, nearest
from evalkit.loop.evaluation import Evaluation

if TYPE_CHECKING:
    from torch import Tensor

    from evalkit.metric import Score

_MODELS = {
    "openai/clip-vit-base-patch16": "clip_vit_b16",
    "openai/clip-vit-base-patch32": "clip_vit_b32",
    "openai/clip-vit-large-patch14": "clip_vit_l14",
    "openai/clip-vit-large-patch14-336": "clip_vit_l14_336",
}


class _Metric:
    """What all of them share.

    Args:
        metric: the option's name.
        settings: by dotted key, as of `Evaluation`.
        normalize: images are floats, 0 to 1, made bytes as torchmetrics does (rounded down).
        device: where features are computed.
        given: further arguments of `Evaluation`, such as `store` and `distributed`.
    """

    def __init__(
        self, metric: str, settings: Mapping[str, Any], normalize: bool, device: str, given: Mapping[str, Any]
    ) -> None:
        self._metric, self._normalize, self._settings = metric, normalize, dict(settings)
        self._device, self._given = device, dict(given)
        self._evaluation = self._new()

    def _new(self) -> Evaluation:
        return Evaluation(None, [self._metric], settings=self._settings, device=self._device, **self._given)

    def _bytes(self, images: Any) -> Any:
        return (images * 255).byte() if self._normalize else images

    def _score(self) -> Score:
        score = self._evaluation.so_far()[self._metric].score
        if score.value is None:
            raise ConfigError(f"{type(self).__name__}: no score: {score.note}")
        return score

    def reset(self) -> None:
        """Forgets all images."""
        self._evaluation.reset()

    def to(self, device: Any) -> Self:
        """Has features computed there from now on; images that were given are forgotten."""
        self._device = str(device)
        self._evaluation = self._new()
        return self

    def sync(self, *given: Any, **more: Any) -> None:
        """Nothing: `compute` brings all ranks' images together, whenever it is called."""

    unsync = sync


class _Distance(_Metric):
    """Of two sets, of which both come by `update`."""

    def __init__(self, *given: Any, reset_real_features: bool) -> None:
        self._keep_real = not reset_real_features
        super().__init__(*given)

    def _new(self) -> Evaluation:
        evaluation = super()._new()
        self._real = evaluation.stream("real images")
        return evaluation

    def update(self, imgs: Any, real: bool) -> None:
        """Takes images.

        Args:
            imgs: u8 [B,3,H,W]; with `normalize` floats 0 to 1.
            real: whether they are the reference's.

        Raises:
            DataError: another shape or dtype (the message names the conversion).
        """
        if real:
            self._evaluation.update_stream(self._real, self._bytes(imgs))
        else:
            self._evaluation.update(self._bytes(imgs))

    def _score(self) -> Score:
        score = self._evaluation.so_far(self._real)[self._metric].score
        if score.value is None:
            raise ConfigError(f"{type(self).__name__}: no score: {score.note}")
        return score

    def reset(self) -> None:
        """Forgets the images; the real ones too, unless reset_real_features=False."""
        super().reset()
        if not self._keep_real:
            self._real.reset()


class FrechetInceptionDistance(_Distance):
    """FID. A float32 tensor.

    Args:
        feature: 2048 alone.
        reset_real_features: whether `reset` forgets the real images.
        normalize: images are floats, 0 to 1.
        feature_extractor_weights_path: the Inception weights, as torch-fidelity publishes them.
        antialias: whether images are resized with antialiasing, as torchmetrics does from 1.8 on.
        device: auto, cpu, cuda, cuda:1 or mps.
        given: further arguments of `evalkit.Evaluation`, such as `store`.
    """

    def __init__(
        self,
        feature: int = 2048,
        reset_real_features: bool = True,
        normalize: bool = False,
        *,
        feature_extractor_weights_path: str | None = None,
        antialias: bool = True,
        device: str = "auto",
        **given: Any,
    ) -> None:
        _only(feature, 2048, "feature")
        metric = "fid_torchmetrics" if antialias else "fid"
        settings = _weights(feature_extractor_weights_path, _extractor(antialias))
        super().__init__(metric, settings, normalize, device, given, reset_real_features=reset_real_features)

    def compute(self) -> Tensor:
        """The distance. ConfigError where one of the sets has fewer than 2 images."""
        return _tensor(self._score().value)


class KernelInceptionDistance(_Distance):
    """KID: (mean, standard deviation) over subsets, which are drawn by a fixed seed.

    Args:
        subsets, subset_size: as of torchmetrics; its degree, gamma and coef are 3, none and 1.
        feature, reset_real_features, normalize, feature_extractor_weights_path, antialias, device, given: as of
            `FrechetInceptionDistance`.
    """

    def __init__(
        self,
        feature: int = 2048,
        subsets: int = 100,
        subset_size: int = 1000,
        reset_real_features: bool = True,
        normalize: bool = False,
        *,
        feature_extractor_weights_path: str | None = None,
        antialias: bool = True,
        device: str = "auto",
        **given: Any,
    ) -> None:
        _only(feature, 2048, "feature")
        name = _extractor(antialias)
        settings = {"metric.kid.features": f"{name}/pool3", "metric.kid.subsets": subsets}
        settings |= {"metric.kid.subset_size": subset_size} | _weights(feature_extractor_weights_path, name)
        super().__init__("kid", settings, normalize, device, given, reset_real_features=reset_real_features)

    def compute(self) -> tuple[Tensor, Tensor]:
        """The mean and its spread. ConfigError where one of the sets has fewer than `subset_size` images."""
        score = self._score()
        return _tensor(score.value), _tensor(score.details["std"])


class InceptionScore(_Metric):
    """IS: (mean, standard deviation) over splits of images shuffled by a fixed seed.

    Args:
        feature: "logits_unbiased" alone.
        splits: as of torchmetrics.
        normalize, feature_extractor_weights_path, antialias, device, given: as of `FrechetInceptionDistance`.
    """

    def __init__(
        self,
        feature: str = "logits_unbiased",
        splits: int = 10,
        normalize: bool = False,
        *,
        feature_extractor_weights_path: str | None = None,
        antialias: bool = True,
        device: str = "auto",
        **given: Any,
    ) -> None:
        _only(feature, "logits_unbiased", "feature")
        name = _extractor(antialias)
        settings = {"metric.is.features": f"{name}/logits_unbiased", "metric.is.splits": splits}
        super().__init__("is", settings | _weights(feature_extractor_weights_path, name), normalize, device, given)

    def update(self, imgs: Any) -> None:
        """Takes images, u8 [B,3,H,W]; with `normalize` floats 0 to 1. DataError for others."""
        self._evaluation.update(self._bytes(imgs))

    def compute(self) -> tuple[Tensor, Tensor]:
        """The mean and its spread over the splits."""
        score = self._score()
        return _tensor(score.value), _tensor(score.details["std"])


class CLIPScore(_Metric):
    """100 times the mean cosine of images and their texts, 0 at least.

    Args:
        model_name_or_path: one of OpenAI's four, by its name on the hub.
        device, given: as of `FrechetInceptionDistance`.
    """

    def __init__(
        self, model_name_or_path: str = "openai/clip-vit-large-patch14", *, device: str = "auto", **given: Any
    ) -> None:
        if model_name_or_path not in _MODELS:
            raise ConfigError(
                f"model_name_or_path={model_name_or_path}: no such model. {nearest(model_name_or_path, _MODELS)}"
            )
        name = _MODELS[model_name_or_path]
        settings: dict[str, Any] = {
            "metric.clip_score.image": f"{name}/image",
            "metric.clip_score.text": f"{name}/text",
        }
        settings |= {f"extractor.{name}.download": True, **given.pop("settings", {})}  # which chooses the extractor
        super().__init__("clip_score", settings, False, device, given)

    def update(self, source: Any, target: str | Sequence[str]) -> None:
        """Takes images, u8 [B,3,H,W], and a text for each. DataError for others."""
        self._evaluation.update(source, prompts=[target] if isinstance(target, str) else list(target))

    def compute(self) -> Tensor:
        """The score."""
        return _tensor(max(self._score().value or 0.0, 0.0))


def _only(given: Any, known: Any, name: str) -> None:
    if given != known:
        raise ConfigError(f"{name}={given!r}: evalkit has {known!r} alone: use torchmetrics' own for others")


def _extractor(antialias: bool) -> str:
    return "inception_torchmetrics" if antialias else "inception"


def _weights(path: str | None, extractor: str) -> dict[str, Any]:
    return {} if path is None else {f"extractor.{extractor}.weights": path}


def _tensor(value: float | None) -> Tensor:
    import torch

    return torch.tensor(value, dtype=torch.float32)
