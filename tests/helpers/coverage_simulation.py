"""Do the stated 95 % intervals of a difference hold what they say? Repeated draws from known populations.

A population is P paired samples of two models (common prompts and seeds): their features, or their CLIP scores. A draw
takes N of the pairs with replacement, as a run takes N prompts and seeds. The truth is the difference's expectation at
that N (its mean over all draws); the difference of the whole populations stands in for the one at infinite N.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from evalkit.metric import Batch, ReferenceMetric, SampleMetric, widest_of
from evalkit.metrics.clip_score import ClipScore
from evalkit.metrics.frechet import FrechetDistance
from evalkit.results.stats import difference


@dataclass(frozen=True)
class Population:
    """Features f32 [P,D] by address of two models on common prompts and seeds, and of a reference."""

    name: str
    first: dict[str, Tensor]
    second: dict[str, Tensor]
    reference: dict[str, Tensor]


@dataclass(frozen=True)
class Coverage:
    """Shares of intervals that hold the truth, paired and as if the cells were independent; stderr over true spread."""

    name: str
    n: int
    dimension: int
    paired: float
    unpaired: float
    ratio: float
    difference: float
    at_infinity: float

    def line(self) -> str:
        return (
            f"{self.name:34s} {self.n:6d} {self.dimension:5d} {self.n / self.dimension:7.1f} {100 * self.paired:8.1f}"
            f" {100 * self.unpaired:9.1f} {self.ratio:8.2f} {self.difference:12.4f} {self.at_infinity:12.4f}"
        )


FRECHET = FrechetDistance("x/y")
CLIP_SCORE = ClipScore("x/image", "x/text")

HEADING = (
    f"{'population':34s} {'N':>6s} {'d':>5s} {'N/d':>7s} {'paired %':>8s} {'unpair. %':>9s} {'se/sd':>8s}"
    f" {'diff. at N':>12s} {'at infinity':>12s}"
)


def batch(features: dict[str, Tensor], rows: Tensor | None = None) -> Batch:
    chosen = {name: value if rows is None else value[rows] for name, value in features.items()}
    n = len(next(iter(chosen.values())))
    return Batch(None, torch.arange(n), n, ["x"] * n, chosen)


def scored(metric: Any, features: Batch, reference: Any) -> tuple[float, float, Tensor]:
    """Value, standard error and influences f64 [N], as the scoring stage forms them."""
    state = metric.observe(features)
    if isinstance(metric, SampleMetric):
        score = metric.score(generated=state)
        assert score.influence is not None
        each = torch.tensor(score.influence, dtype=torch.float64)
    else:
        assert isinstance(metric, ReferenceMetric)
        score = metric.score(generated=state, reference=reference)
        influence = metric.influence(generated=state, reference=reference)
        assert callable(influence), influence
        each = widest_of(influence(features))
    assert score.value is not None
    return score.value, float(each.std(correction=1)) / len(each) ** 0.5, each


def simulate(metric: Any, population: Population, n: int, draws: int, seed: int = 0) -> Coverage:
    """Coverage of the 95 % intervals of (first - second) over repeated draws of N."""
    generator = torch.Generator().manual_seed(seed)
    size = len(next(iter(population.first.values())))
    reference = metric.observe(batch(population.reference)) if population.reference else None
    found = []
    for _ in range(draws):
        rows = torch.randint(size, (n,), generator=generator)
        a, se_a, each_a = scored(metric, batch(population.first, rows), reference)
        b, se_b, each_b = scored(metric, batch(population.second, rows), reference)
        paired = difference((a, se_a), (b, se_b), [each_a.tolist(), each_b.tolist()])
        found.append((paired, difference((a, se_a), (b, se_b))))
    values = torch.tensor([paired.value for paired, _ in found], dtype=torch.float64)
    truth = float(values.mean())
    whole = [scored(metric, batch(side), reference)[0] for side in (population.first, population.second)]
    errors = torch.tensor([paired.stderr for paired, _ in found], dtype=torch.float64)
    return Coverage(
        population.name,
        n,
        len(next(iter(population.first.values()))[0]),
        sum(d.low <= truth <= d.high for d, _ in found) / draws,  # type: ignore[operator]
        sum(d.low <= truth <= d.high for _, d in found) / draws,  # type: ignore[operator]
        float(errors.mean() / values.std(correction=1)),
        truth,
        whole[0] - whole[1],
    )


def synthetic(d: int, size: int = 20_000, seed: int = 3) -> Population:
    """Two generators from one latent: a Gaussian squeezed and moved, and a skewed one."""
    generator = torch.Generator().manual_seed(seed)

    def mix(scale: float) -> Tensor:
        return torch.eye(d) + scale * torch.randn(d, d, generator=generator) / d**0.5

    latent = torch.randn(size, d, generator=generator)
    one, two = mix(0.4), mix(0.4)
    first = latent @ one + 0.2
    second = torch.relu(latent @ (0.7 * one + 0.3 * two)) * 1.5 - 0.4
    reference = torch.randn(size, d, generator=generator) @ mix(0.3)
    return Population(f"synthetic, d = {d}", {"x/y": first}, {"x/y": second}, {"x/y": reference})


def digits_gan(size: int = 4000, real: int = 5000) -> Population:
    """The classifier's features of the embedded DCGAN, of the same samples a little blurred, and of `real` digits."""
    from evalkit.digits.data import reference_images
    from evalkit.digits.nets import load_classifier, load_dcgan

    generator = torch.Generator().manual_seed(5)
    classifier, gan = load_classifier(), load_dcgan()
    reference = torch.from_numpy(reference_images()[0][:real]).float() / 127.5 - 1.0  # [real,3,32,32]
    with torch.inference_mode():
        z = torch.randn(size, 64, generator=generator)
        labels = torch.randint(10, (size,), generator=generator)
        images = torch.cat([gan(*part) for part in zip(z.split(500), labels.split(500), strict=True)])
        blurred = 0.6 * images + 0.4 * torch.nn.functional.avg_pool2d(images, 3, 1, 1)

        def features(x: Tensor) -> dict[str, Tensor]:
            return {"x/y": torch.cat([classifier(part)["features"] for part in x.split(500)])}

        return Population("digits: DCGAN - blurred", features(images), features(blurred), features(reference))


def digits_clip_scores() -> Population:
    """The small CLIP's embeddings of the LDM's 560 samples at guidance 1 and 2, and of their prompts."""
    from diffusers import DDIMScheduler

    from evalkit.digits import check, data
    from evalkit.extractors.clip import Clip

    pipeline = check._quiet_pipeline("StableDiffusionPipeline", "ldm", "cpu")
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    prompts = [prompt.text for prompt in data.PROMPTS]
    clip = Clip(model="pkg://evalkit.digits/weights/clip", name="digits_clip", batch_size=56)
    clip.load("cpu")

    def embed(guidance: float) -> dict[str, Tensor]:
        images = check.generate_ldm(pipeline, prompts, guidance, steps=4).transpose(0, 2, 3, 1)  # u8 [560,32,32,3]
        parts = [clip(list(images[i : i + 56]), prompts[i : i + 56], ["image", "text"]) for i in range(0, 560, 56)]
        return {f"x/{layer}": torch.cat([part[layer] for part in parts]) for layer in ("image", "text")}

    return Population("digits: CLIP score, guidance 1 - 2", embed(1.0), embed(2.0), {})
