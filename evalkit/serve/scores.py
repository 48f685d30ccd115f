"""Metrics of single images, applied to images in memory: the values that a run's samples would have."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from evalkit.errors import ConfigError, UnsuitedError
from evalkit.extractors.base import exact_float32
from evalkit.features.feature_pass import parse, unique_prompts
from evalkit.features.run import ChunkRun, check_finite, run_texts
from evalkit.metric import Batch, Rows, SampleMetric
from evalkit.numerics.threads import one_thread, settle
from evalkit.plan.grid import Missing
from evalkit.plan.plugins import build_extractors, build_metrics
from evalkit.scoring.protocol import Against, column_label, make_protocol
from evalkit.scoring.scoring import HASH_DIGITS
from evalkit.utils import devices
from evalkit.utils.files import sha256_json

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from evalkit.config.schema import RunConfig


class ImageScores:
    """Values of images, by metric.

    Args:
        config: its metrics, extractors and device.

    Raises:
        ConfigError: a metric is none of single images, or weights are missing.
    """

    def __init__(self, config: RunConfig) -> None:
        if not config.metric:
            raise ConfigError("metric=[]: give the metrics to serve, such as metric=[clip_score,aesthetic]")
        built = build_metrics(config)
        for name, metric in built.items():
            if not isinstance(metric, SampleMetric) or not metric.per_sample:
                raise ConfigError(f"metric '{name}' ({metric.title}) has no value of a single image: it is not served")
        self.metrics: Mapping[str, SampleMetric[Rows]] = {n: m for n, m in built.items() if isinstance(m, SampleMetric)}
        self._extractors = build_extractors(config, built, Missing(False))
        self._lock = threading.Lock()
        self.device = config.device

    def load(self) -> None:
        """Brings all networks to the device, so that the first request does not wait for them."""
        self.device = devices.pick_device(self.device)
        for extractor in self._extractors.values():
            extractor.load(self.device)

    def unload(self) -> None:
        for extractor in self._extractors.values():
            extractor.unload()

    def describe(self) -> dict[str, dict[str, Any]]:
        """By metric what its values are, and the protocol of a run of one sample (JSON)."""
        found = {}
        for name, metric in self.metrics.items():
            protocol = make_protocol(metric, self._extractors, 1, Against(), {})
            found[name] = {
                "label": column_label(metric, self._extractors),
                "better": metric.better,
                "needs_prompts": self.needs_prompts(name),
                "protocol": protocol,
                "protocol_hash": sha256_json(protocol)[:HASH_DIGITS],
            }
        return found

    def needs_prompts(self, name: str) -> bool:
        """Whether a metric wants each image's prompt: by itself, or since its extractor does."""
        metric = self.metrics[name]
        layers = (parse(address, self._extractors, name) for address in metric.needs)
        of_texts = any(
            layer in self._extractors[e].text_layers or layer in self._extractors[e].joint_layers for e, layer in layers
        )
        return metric.needs_prompts or of_texts

    def __call__(
        self, names: Sequence[str], images: Sequence[NDArray[np.uint8]], prompts: Sequence[str] | None
    ) -> dict[str, list[float]]:
        """Values of images, after `load`; one call at a time.

        Args:
            names: of the metrics.
            images: u8 [H,W,3] each, of any sizes.
            prompts: one per image; none where no metric needs them.

        Raises:
            UnsuitedError: a metric or a network cannot take these images.
        """
        addresses = list(dict.fromkeys(a for name in names for a in self.metrics[name].needs))
        with self._lock, one_thread():
            features = self._features(images, prompts, addresses)
            values: dict[str, list[float]] = {}
            for name in names:
                needed = {address: features[address] for address in self.metrics[name].needs}
                values[name] = self._values(name, images, prompts, needed)
        return values

    def _values(
        self,
        name: str,
        images: Sequence[NDArray[np.uint8]],
        prompts: Sequence[str] | None,
        features: Mapping[str, Tensor],
    ) -> list[float]:
        """One metric's value of each image; one of bare pixels is given those of one size together."""
        import numpy as np
        import torch

        metric = self.metrics[name]
        groups: dict[tuple[int, ...], list[int]] = {}
        for i, image in enumerate(images):
            groups.setdefault(() if features else image.shape, []).append(i)
        values = [0.0] * len(images)
        for places in groups.values():
            pixels = None if features else torch.from_numpy(np.stack([images[i] for i in places])).permute(0, 3, 1, 2)
            texts: list[str | None] = [prompts[i] if prompts is not None else None for i in places]
            index = torch.arange(len(places))
            batch = Batch(pixels, index, len(places), texts, {a: value[places] for a, value in features.items()})
            try:
                score = metric.score(generated=metric.observe(batch))
            except Exception as error:  # a plugin's own
                raise UnsuitedError(f"metric '{name}': {error}") from error
            if score.influence is None or len(score.influence) != len(places):
                raise UnsuitedError(f"metric '{name}' gives no value per image: {score.note or 'no influence'}")
            for place, value in zip(places, score.influence, strict=True):
                values[place] = value
        return values

    def _features(
        self, images: Sequence[NDArray[np.uint8]], prompts: Sequence[str] | None, addresses: Sequence[str]
    ) -> dict[str, Tensor]:
        """By address f32 [B,D] on the CPU, in the extractors' own batches."""
        by_extractor: dict[str, list[str]] = {}
        for address in addresses:
            name, layer = parse(address, self._extractors, "a metric")
            by_extractor.setdefault(name, []).append(layer)
        found: dict[str, Tensor] = {}
        texts = unique_prompts(prompts or [])
        rows = {text: row for row, text in enumerate(texts)}
        with exact_float32():
            try:
                for name, layers in by_extractor.items():
                    extractor = self._extractors[name]
                    size = extractor.batch_on(self.device)
                    of_texts = [layer for layer in layers if layer in extractor.text_layers]
                    for layer in of_texts:
                        table = run_texts(extractor, size, self.device, texts, layer)
                        found[f"{name}/{layer}"] = table[[rows[text] for text in prompts or []]]
                    of_images = [layer for layer in layers if layer not in of_texts]
                    if of_images:
                        run = ChunkRun(extractor, size, self.device, of_images, prompts or [])
                        run.add([extractor.prepare(image) for image in images])
                        run.end()
                        found |= {f"{name}/{layer}": value for layer, value in run.features().items()}
            except BaseException:
                settle(cancel=True)
                raise
            settle()
        for address, value in found.items():
            name, _, layer = address.partition("/")
            check_finite(name, "these images", layer, bool(value.isfinite().all()))
        return {address: value.cpu() for address, value in found.items()}
