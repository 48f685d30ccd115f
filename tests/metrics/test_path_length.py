"""Perceptual path length: by hand, against torch-fidelity's and NVlabs' formula, through a cell's own generator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_stylegan
import torch
from fakes import MemorySource
from golden import RANDOM, SHIPPED, Golden, peer
from lpips_weights import seeded_trunk, torchvision_features
from options import extractor_of, metric_of, option
from torch import Tensor

from evalkit.metric import Score
from evalkit.metrics.path_length import PerceptualPathLength, trimmed
from evalkit.samples.store import Store
from evalkit.scoring import Against, Scored, score_sources

PAIRS = 24


@dataclass
class Linear:
    """G(x) = A x as an image [3,2,2], features its pixels: every distance is |A (b - a)|^2, whatever epsilon is."""

    spaces: tuple[str, ...] = ("z", "w")
    key: str = "linear"
    show: Any = None
    shown: list[tuple[int, int]] = field(default_factory=list)
    asked: list[tuple[list[int], list[int], str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.matrix = torch.randn(12, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def latents(self, indices: Sequence[int], like: Sequence[int], space: str) -> Tensor:
        self.asked.append((list(indices), list(like), space))
        return torch.stack([torch.randn(4, generator=torch.Generator().manual_seed(i)) for i in indices]).double()

    def images(self, latents: Tensor, like: Sequence[int], space: str) -> Tensor:
        assert len(like) == len(latents)
        return (latents @ self.matrix.T).reshape(-1, 3, 2, 2)

    def features(self, images: Tensor, address: str) -> Tensor:
        return images.flatten(1)

    def progress(self, done: int, total: int) -> None:
        self.shown.append((done, total))


def measured(generator: Any, n: int = PAIRS, **changes: Any) -> Score:
    return PerceptualPathLength(**{"discard": 0, "resolution": None, **changes}).measure(generator, n)


@pytest.mark.parametrize("epsilon", [1e-4, 0.1])
def test_a_linear_generator_by_hand(epsilon: float) -> None:
    a, b = (Linear().latents(range(s, s + PAIRS), range(PAIRS), "w") for s in (0, PAIRS))
    each = ((b - a) @ Linear().matrix.T).square().sum(1)
    for sampling in ("end", "full"):
        found = measured(Linear(), epsilon=epsilon, sampling=sampling)
        assert found.value == pytest.approx(float(each.mean()), rel=1e-6)
        assert found.stderr == pytest.approx(float(each.std() / PAIRS**0.5), rel=1e-6)
        assert found.influence == pytest.approx(each.tolist(), rel=1e-6)
    assert found.details == pytest.approx({"pairs": 24, "kept": 24, "std": float(each.std(correction=0))}, rel=1e-6)


def test_batches_change_nothing_and_pairs_keep_their_class() -> None:
    generator = Linear()
    one = measured(generator, sampling="full", interpolation="slerp", batch_size=1)
    many = measured(Linear(), sampling="full", interpolation="slerp", batch_size=7)
    assert many.value == pytest.approx(one.value, rel=1e-9)
    assert many.influence == pytest.approx(one.influence, rel=1e-9)
    assert generator.asked[:2] == [([0], [0], "w"), ([PAIRS], [0], "w")], "the second end has the first one's class"
    assert generator.shown[-2:] == [(PAIRS - 1, PAIRS), (PAIRS, PAIRS)]
    few = measured(Linear(), num_pairs=10)
    assert (few.n, few.influence, few.details["pairs"]) == (PAIRS, None, 10)


def test_trimming_as_the_reference_and_the_error_of_a_trimmed_mean() -> None:
    from scipy.stats.mstats import trimmed_stde

    each = np.random.default_rng(0).lognormal(sigma=2, size=400)
    found = trimmed(each.tolist(), 0.01, 400)
    low, high = np.percentile(each, 1, method="lower"), np.percentile(each, 99, method="higher")
    assert found.value == pytest.approx(np.extract((low <= each) & (each <= high), each).mean())
    assert found.details["kept"] == ((low <= each) & (each <= high)).sum() < 400
    cut = (400 - found.details["kept"]) / 800
    assert found.stderr == pytest.approx(float(trimmed_stde(each, limits=(cut, cut))), rel=0.02)
    means = [trimmed(np.random.default_rng(s).lognormal(sigma=1, size=400).tolist(), 0.01, 400) for s in range(200)]
    spread = np.std([m.value for m in means])
    assert np.mean([m.stderr for m in means]) == pytest.approx(spread, rel=0.15)


def test_crop_and_resolution() -> None:
    seen: list[tuple[int, ...]] = []

    class Large(Linear):
        def images(self, latents: Tensor, like: Sequence[int], space: str) -> Tensor:
            ramp = torch.arange(64.0).repeat(64, 1).expand(len(latents), 3, 64, 64)
            return ramp * latents[:, :1, None, None]

        def features(self, images: Tensor, address: str) -> Tensor:
            seen.append(tuple(images.shape[1:]))
            return images.flatten(1)

    measured(Large(), 2, resolution=30)
    measured(Large(), 2, resolution=32, crop=True)
    assert seen == [(3, 32, 32), (3, 32, 32)]
    assert measured(Large(), 2, resolution=16).value < measured(Large(), 2).value


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"space": "x"}, "give one of w, z"),
        ({"sampling": "ends"}, "give one of end, full"),
        ({"epsilon": 0.0}, "give 0 < epsilon < 1"),
        ({"discard": 0.5}, "0 <= discard < 0.5"),
        ({"num_pairs": 1}, "at least 1 and 2"),
    ],
)
def test_refusals(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PerceptualPathLength(**changes)


def test_a_model_without_such_latents_has_no_score_and_a_note() -> None:
    assert measured(Linear(spaces=("z",))).note == "the model has no latents w (it has z)"
    assert measured(Linear(spaces=())).note == "the model has no latents w (it shows none)"


# --- peers ---


@pytest.fixture(scope="module")
def vgg(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("vgg") / "vgg16.pth"
    torch.save(seeded_trunk("vgg"), file)
    return file


@pytest.fixture
def lpips_of_torch_fidelity(vgg: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """torch-fidelity's own LPIPS, on the seeded trunk and the published heads, from torchmetrics' file."""
    import importlib.util
    from types import SimpleNamespace

    from torch_fidelity import sample_similarity_lpips as theirs

    spec = importlib.util.find_spec("torchmetrics")
    assert spec is not None
    assert spec.origin is not None
    heads = torch.load(
        Path(spec.origin).parent / "functional/image/lpips_models/vgg.pth", map_location="cpu", weights_only=True
    )
    monkeypatch.setattr(theirs, "load_state_dict_from_url", lambda *args, **options: heads)
    trunk = SimpleNamespace(features=torchvision_features("vgg"))
    monkeypatch.setattr(theirs, "torchvision_load_pretrained_vgg16", lambda: trunk)
    return theirs.SampleSimilarityLPIPS


class Given:
    """Latents that a peer drew, through the small StyleGAN, and our LPIPS."""

    spaces = ("z", "w")

    def __init__(self, net: tiny_stylegan.Generator, z: Tensor, vgg: Path) -> None:
        self.net, self.z = net, z
        self.lpips = extractor_of("lpips_vgg", weights=str(vgg))

    def latents(self, indices: Sequence[int], like: Sequence[int], space: str) -> Tensor:
        z = self.z[list(indices)]
        return z if space == "z" else self.net.mapping(z, torch.zeros(len(z), 0)).detach()

    def images(self, latents: Tensor, like: Sequence[int], space: str) -> Tensor:
        with torch.no_grad():
            w = latents if space == "w" else self.net.mapping(latents, torch.zeros(len(latents), 0))
            image: Tensor = (self.net.synthesis(w, noise_mode="const") + 1) * 127.5
            return image

    def features(self, images: Tensor, address: str) -> Tensor:
        return self.lpips.embed(images, address.partition("/")[2])

    def progress(self, done: int, total: int) -> None: ...


@pytest.fixture
def percentile_of_numpy_1(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch-fidelity 0.4.0 gives `interpolation`, which NumPy 2.4 calls `method` alone."""
    percentile = np.percentile
    monkeypatch.setattr(np, "percentile", lambda x, q, interpolation: percentile(x, q, method=interpolation))


@pytest.mark.parametrize(("epsilon", "rel"), [(1e-2, 1e-4), (1e-4, 2e-2)])
def test_z_against_torch_fidelity(
    lpips_of_torch_fidelity: Any,
    percentile_of_numpy_1: None,
    monkeypatch: pytest.MonkeyPatch,
    vgg: Path,
    tmp_path: Path,
    golden: Golden,
    epsilon: float,
    rel: float,
) -> None:
    """The same latents, straight lines; at 1e-4 float32's rounding is a tenth of so smooth a generator's length."""
    from torch_fidelity import GenerativeModelModuleWrapper, calculate_metrics, register_sample_similarity
    from torch_fidelity.registry import SAMPLE_SIMILARITY_REGISTRY

    SAMPLE_SIMILARITY_REGISTRY.pop("seeded", None)
    register_sample_similarity("seeded", lpips_of_torch_fidelity)
    net = tiny_stylegan.save(tmp_path / "g.safetensors")

    class Pixels(torch.nn.Module):
        def forward(self, z: Tensor) -> Tensor:
            image: Tensor = (net(z, torch.zeros(len(z), 0)) + 1) * 127.5
            return image

    theirs = calculate_metrics(
        input1=GenerativeModelModuleWrapper(Pixels(), 16, "normal", 0),
        input1_model_num_samples=PAIRS,
        ppl=True,
        ppl_epsilon=epsilon,
        ppl_sample_similarity="seeded",
        ppl_sample_similarity_resize=None,
        ppl_sample_similarity_dtype="float32",
        rng_seed=2020,
        batch_size=8,
        cuda=False,
        verbose=False,
    )
    rng = np.random.RandomState(2020)
    z = torch.cat([torch.from_numpy(rng.randn(PAIRS, 16)).float() for _ in range(2)])
    monkeypatch.undo()
    metric = metric_of("ppl_z", epsilon=epsilon, interpolation="lerp")
    found = metric.measure(Given(net, z, vgg), PAIRS)
    source = f"{peer('torch-fidelity')}, its own LPIPS, epsilon {epsilon:g}, lerp"
    golden("ppl_z", found.value, theirs["perceptual_path_length_mean"], rel=rel, source=source, weights=RANDOM)
    std = theirs["perceptual_path_length_std"]
    golden("ppl_z, std", found.details["std"], std, rel=rel, source=source, weights=RANDOM)


def test_w_and_z_against_nvlabs_formula(
    lpips_of_torch_fidelity: Any, vgg: Path, tmp_path: Path, golden: Golden
) -> None:
    """compute_ppl and PPLSampler of NVlabs/stylegan3 written out, with torch-fidelity's LPIPS."""
    net, epsilon = tiny_stylegan.save(tmp_path / "g.safetensors"), 1e-2
    lpips = lpips_of_torch_fidelity("lpips", sample_similarity_dtype="float32")
    generator = Given(net, torch.randn(2 * PAIRS, 16, generator=torch.Generator().manual_seed(3)), vgg)
    z0, z1 = generator.z.chunk(2)
    unit = [z / z.norm(dim=-1, keepdim=True) for z in (z0, z1)]
    angle = epsilon * torch.acos((unit[0] * unit[1]).sum(-1, keepdim=True))
    across = unit[1] - (unit[0] * unit[1]).sum(-1, keepdim=True) * unit[0]
    turned = unit[0] * angle.cos() + across / across.norm(dim=-1, keepdim=True) * angle.sin()
    w0, w1 = generator.latents(range(PAIRS), [], "w"), generator.latents(range(PAIRS, 2 * PAIRS), [], "w")
    ends = {
        "ppl": (w0, w0.lerp(w1, epsilon)),
        "ppl_z": tuple(net.mapping(z, torch.zeros(PAIRS, 0)) for z in (unit[0], turned)),
    }
    for name, (near, far) in ends.items():
        images = [generator.images(w.detach(), [], "w") for w in (near, far)]
        each = lpips(*images).flatten().numpy() / epsilon**2
        lo, hi = np.percentile(each, 1, method="lower"), np.percentile(each, 99, method="higher")
        expected = float(np.extract(np.logical_and(each >= lo, each <= hi), each).mean())
        found = metric_of(name, epsilon=epsilon).measure(generator, PAIRS)
        source = f"NVlabs' PPLSampler written out, LPIPS of {peer('torch-fidelity')}, epsilon 0.01"
        golden(name, found.value, expected, rel=1e-3, source=source, weights=RANDOM)
        assert found.value == pytest.approx(metric_of(name).measure(generator, PAIRS).value, rel=0.2)


# --- a cell's own generator ---


def digits_cell(**overrides: Any) -> Any:
    from evalkit.config.compose import compose, resolve
    from evalkit.plan.grid import make_grid

    overrides = {"model": "[digits_dcgan]", "prompts": "[digits]", "sampler": "[]", "num_samples": PAIRS} | overrides
    return make_grid(resolve(compose([f"{key}={value}" for key, value in overrides.items()]))).cells[0]


def scored(folder: Path, generators: Any, name: str = "ppl_digits") -> Scored:
    source = MemorySource([np.zeros((32, 32, 3), np.uint8)] * PAIRS)
    found = score_sources(
        {"cell": source},
        metrics={name: (option("metric", name), metric_of(name))},
        extractors={"digits": extractor_of("digits")},
        against=Against(),
        store=Store(folder),
        generators=generators,
        device="cpu",
        progress=lambda name, done, total: None,
    )
    return found["cell", name]


def test_the_digits_gan_from_the_cell_to_the_cached_score(tmp_path: Path, golden: Golden) -> None:
    from evalkit.digits.nets import load_classifier, load_dcgan
    from evalkit.models.base import Request
    from evalkit.samples.cell_generator import CellGenerator
    from evalkit.samples.model_pool import ModelPool

    cell, extractors = digits_cell(), {"digits": extractor_of("digits")}
    with ModelPool() as pool:
        found = scored(tmp_path, {"cell": CellGenerator(cell, pool, "cpu", extractors)})
        again = scored(tmp_path, {"cell": CellGenerator(cell, pool, "cpu", extractors)})
    assert (found.cached, again.cached) == (False, True)
    assert again.score.value == found.score.value
    assert found.label == "PPL z end [digits]"
    from evalkit.config.build import build

    prompts = build(cell.options["prompts"])
    net, eye = load_dcgan(), load_classifier()
    labels = torch.tensor([prompts[i].class_id for i in range(PAIRS)])
    a, b = (
        torch.stack([torch.randn(64, generator=Request(i + s, 0).generator()) for i in range(PAIRS)]).double()
        for s in (0, PAIRS)
    )
    lengths = [x.norm(dim=1, keepdim=True) for x in (a, b)]
    angle = ((a / lengths[0]) * (b / lengths[1])).sum(1, keepdim=True).acos()
    t = 1e-4
    way = (((1 - t) * angle).sin() * a / lengths[0] + (t * angle).sin() * b / lengths[1]) / angle.sin()
    ends = [a.float(), (way * (lengths[0] * (1 - t) + lengths[1] * t)).float()]
    near, far = (eye(net(z, labels))["features"] for z in ends)
    each = ((near - far).square().double().sum(1) / t**2).numpy()
    lo, hi = np.percentile(each, 1, method="lower"), np.percentile(each, 99, method="higher")
    expected = each[(each >= lo) & (each <= hi)].mean()
    source = "formula written out on the embedded DCGAN and classifier"
    golden("ppl_digits", found.score.value, expected, rel=5e-4, source=source, weights=SHIPPED)  # t eats 4 of 7 digits


def test_images_that_exist_and_other_models_have_a_note(tmp_path: Path) -> None:
    from evalkit.samples.cell_generator import CellGenerator
    from evalkit.samples.model_pool import ModelPool

    assert scored(tmp_path, None).score.note == ("these images were not made by evalkit: there is no model to measure")
    cell = digits_cell(model="[digits_ldm]", sampler="[ddim]")
    found = scored(tmp_path, {"cell": CellGenerator(cell, ModelPool(), "cpu")})
    assert found.score.note == "the model has no latents z (it has noise)"


def test_extractors_of_rounded_images_alone_are_refused() -> None:
    from evalkit.errors import ConfigError
    from evalkit.scoring.checks import check_models

    metric = metric_of("ppl", features="inception/pool3")
    from evalkit.config.build import build

    inception = build(option("extractor", "inception"))
    with pytest.raises(ConfigError, match="8-bit images alone: use lpips_vgg/phi"):
        check_models({"ppl": metric}, {"inception": inception})
