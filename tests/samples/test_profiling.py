"""Where the time of an image goes: parts that add up, FLOPs by hand, batch sizes until memory ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from fake_models import make_cell

from evalkit.errors import ConfigError
from evalkit.models.base import Generated, Model, ModelPart, Request, Sampler, Settings
from evalkit.models.device_images import DeviceImages, Rounded
from evalkit.samples import profiling
from evalkit.samples.model_pool import BuiltCell, ModelPool
from evalkit.samples.profiling import COPIES, PNG, REST, BatchProfile, CellProfile, Profile, Ratio, profile_cell

STEPS = 3


class Steps(Model):
    """An encoder once and a denoiser some times per image; from `ends` images on it asks for more than there is."""

    def __init__(self, ends: int = 99) -> None:
        self.ends, self.asked = ends, [0]
        torch.manual_seed(0)
        self.encoder, self.denoiser = torch.nn.Linear(64, 192), torch.nn.Conv2d(3, 3, 3, padding=1)

    def check(self, *, fetch: bool = True) -> None:
        pass

    def identity(self) -> dict[str, Any]:
        return {}

    def load(self, device: str) -> None:
        pass

    def timed_parts(self) -> list[ModelPart]:
        networks = {"encoder": self.encoder, "denoiser": self.denoiser}
        return [ModelPart(name, net, "forward", "float32") for name, net in networks.items()]

    def generate(self, requests: Sequence[Request], *, sampler: Sampler | None, settings: Settings) -> Generated:
        self.asked.append(len(requests))
        if len(requests) >= self.ends:
            torch.empty(2**52)
        with torch.no_grad():
            x = torch.stack([torch.randn(64, generator=r.generator()) for r in requests])
            y = self.encoder(x).reshape(-1, 3, 8, 8)
            for _ in range(STEPS):
                y = self.denoiser(y)
        pixels = (y.sigmoid() * 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()
        return Generated(DeviceImages(Rounded(pixels, torch.zeros(len(y), dtype=torch.bool)), str), STEPS)


def measured(model: Model, **asked: Any) -> CellProfile:
    cell = make_cell(num_samples=5)
    pool = ModelPool({cell.key: BuiltCell(model, None, None)})
    return profile_cell(cell, pool, "cpu", Profile(**asked))


def test_the_parts_are_all_there_is() -> None:
    model = Steps()
    (batch,) = measured(model, batch_sizes=(2,), repeats=3).batches
    parts = {part.part: part for part in batch.parts}
    assert list(parts) == ["encoder", "denoiser", COPIES, PNG, REST]
    assert [parts[name].calls for name in parts] == [1, STEPS, 2, 2, 1]
    assert batch.whole is not None
    assert sum(part.seconds for part in batch.parts) == pytest.approx(batch.whole, rel=1e-9)
    assert batch.seconds == min(batch.each)
    assert len(batch.each) == 3
    assert parts["denoiser"].seconds * 2 == pytest.approx(sum(parts["denoiser"].each))
    assert len(parts["denoiser"].each) == STEPS
    assert all(part.seconds > 0 for part in batch.parts)
    assert batch.adds_up is not None
    ends = batch.adds_up.low, batch.adds_up.high
    assert 0.2 < batch.adds_up.value < 5, "of a model of microseconds timing costs much: by how much is told"
    assert ends[0] <= batch.adds_up.value <= ends[1]
    assert batch.peak_mb is not None
    assert batch.rest_mb is not None
    assert batch.peak_mb >= batch.rest_mb > 50
    assert "forward" not in vars(model.encoder)


def test_flops_are_those_of_one_image() -> None:
    """By hand: a linear layer 2 x 64 x 192, and per step a convolution 2 x 27 x 3 per pixel."""
    profile = measured(Steps(), batch_sizes=(1, 4), repeats=1)
    assert profile.flops_missing is None
    for batch in profile.batches:
        parts = {part.part: part for part in batch.parts}
        assert parts["encoder"].flops == 2 * 64 * 192
        assert parts["denoiser"].flops == STEPS * 2 * 27 * 3 * 64
        assert parts[PNG].flops is parts[REST].flops is None
        rate = parts["encoder"].rate
        assert rate is not None
        assert rate == pytest.approx(2 * 64 * 192 / parts["encoder"].seconds)
        fastest, side = profiling.matrix_rate("cpu", "float32")
        assert parts["encoder"].of_matrix_rate == pytest.approx(rate / fastest)
        assert 1e8 < fastest < 1e13
        assert side == 1024


def test_samples_come_again_where_a_batch_is_larger_than_the_cell() -> None:
    model = Steps()
    profile = measured(model, batch_sizes=(1, 8), repeats=2)
    assert [batch.batch_size for batch in profile.batches] == [1, 8]
    warm, plain, timed = 1, 2, 2
    assert model.asked[1:] == [1] * (warm + plain + timed) + [8] * (warm + plain + timed) + [1]
    rates = [batch.images_per_second for batch in profile.batches]
    assert rates == [1 / batch.seconds for batch in profile.batches if batch.seconds]


def test_a_batch_is_of_samples_that_share_their_settings() -> None:
    """As in a run: a prompt may set a size for its own samples."""

    class Prompted(BuiltCell):
        def own_settings(self, index: int) -> dict[str, Any]:
            return {"height": 8 + index % 2}

        def request(self, index: int, seed: int) -> Request:
            return Request(index, seed, settings=self.own_settings(index))

    class Told(Steps):
        def generate(self, requests: Sequence[Request], *, sampler: Sampler | None, settings: Settings) -> Generated:
            asked.append(([request.index for request in requests], settings["height"]))
            return super().generate(requests, sampler=sampler, settings=settings)

    asked: list[tuple[list[int], int]] = []
    cell, model = make_cell(num_samples=5), Told()
    pool = ModelPool({cell.key: Prompted(model, None, None)})
    profile_cell(cell, pool, "cpu", Profile((4,), repeats=1))
    assert {(tuple(indices), height) for indices, height in asked} == {((0, 2, 4, 0), 8)}


def test_memory_ends_and_is_named() -> None:
    profile = measured(Steps(ends=4), batch_sizes=(1, 2, 4, 8), repeats=1)
    assert [batch.batch_size for batch in profile.batches] == [1, 2, 4]
    failed = profile.batches[2].failed
    assert failed is not None
    assert failed.startswith("out of memory: ")
    assert "memory" in failed.removeprefix("out of memory: ")
    assert profile.batches[2].images_per_second is profile.batches[2].adds_up is None
    assert all(batch.parts for batch in profile.batches[:2])
    (only,) = measured(Steps(ends=1), repeats=1).batches
    assert only.failed is not None


def test_main_memory_is_not_filled_to_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """There the system ends the process that asks for too much: what would not fit is not tried."""
    monkeypatch.setattr(profiling, "free_mb", lambda: 500.0)
    last = BatchProfile(2, 0.1, (0.1,), peak_mb=300.0, rest_mb=100.0)
    assert profiling._too_large([last], 4, "cpu") is None
    why = profiling._too_large([last], 8, "cpu")
    assert why == "not tried: it would need about 800 MB more, and 500 MB are free"
    assert profiling._too_large([last], 8, "cuda") is None, "a GPU says no, and goes on"
    assert profiling._too_large([], 8, "cpu") is None
    grows = replace(last, peak_mb=90.0)
    assert profiling._too_large([grows], 8, "cpu") is None


def test_other_errors_say_where() -> None:
    class Broken(Steps):
        def generate(self, requests: Sequence[Request], *, sampler: Sampler | None, settings: Settings) -> Generated:
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken") as caught:
        measured(Broken())
    assert caught.value.__notes__ == ["while profiling noise-contrast_200 at batch size 1"]


def test_what_bears_no_look_has_no_flops() -> None:
    class Opaque(Steps):
        def generate(self, requests: Sequence[Request], *, sampler: Sampler | None, settings: Settings) -> Generated:
            from torch.utils._python_dispatch import _get_current_dispatch_mode

            if _get_current_dispatch_mode() is not None:
                raise RuntimeError("not within a mode")
            return super().generate(requests, sampler=sampler, settings=settings)

    profile = measured(Opaque(), repeats=1)
    assert profile.flops_missing == "FLOPs cannot be counted: not within a mode"
    assert all(part.flops is None for part in profile.batches[0].parts)


def test_a_part_without_torch() -> None:
    class Plain(Steps):
        def timed_parts(self) -> list[ModelPart]:
            return [ModelPart("function", self, "made")]

        def made(self, count: int) -> np.ndarray:
            return np.zeros((count, 8, 8, 3), np.uint8)

        def generate(self, requests: Sequence[Request], *, sampler: Sampler | None, settings: Settings) -> Generated:
            return Generated(self.made(len(requests)), None)

    (batch,) = measured(Plain(), repeats=1).batches
    assert [(part.part, part.flops) for part in batch.parts] == [("function", None), (PNG, None), (REST, None)]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("yes", "profile=yes: give true, or batch sizes"),
        ({"batchsizes": [1]}, "profile.batchsizes: there is no such option. Did you mean 'batch_sizes'?"),
        ({"batch_sizes": []}, r"profile.batch_sizes=\[\]: give whole numbers"),
        ({"batch_sizes": [0, 1]}, "profile.batch_sizes=0: give a whole number >= 1"),
        ({"batch_sizes": "8"}, "profile.batch_sizes=8: give whole numbers"),
        ({"repeats": 0}, "profile.repeats=0: give a whole number >= 1"),
    ],
)
def test_the_option_is_looked_at(value: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Profile.read(value)


def test_the_option() -> None:
    assert Profile.read(False) is Profile.read(None) is None
    assert Profile.read(True) == Profile((1,), None)
    assert Profile.read({"batch_sizes": [8, 1, 8], "repeats": 2}) == Profile((1, 8), 2)
    assert Profile.read({"batch_sizes": 4}) == Profile((4,), None)


@pytest.mark.parametrize(
    ("pairs", "seconds", "done"),
    [(4, 99.0, False), (5, 9.9, False), (5, 10.0, True), (99, 9.9, False), (100, 0.1, True)],
)
def test_small_batches_are_made_more_often(pairs: int, seconds: float, done: bool) -> None:
    assert Profile().enough(pairs, seconds) is done
    assert Profile(repeats=3).enough(pairs, seconds), "as many as were asked for"


def test_a_ratio_is_of_pairs() -> None:
    """A machine that is ten times slower for some of the pairs moves nothing; the interval is the sign test's."""
    plain = [0.1 * (10 if i % 3 == 0 else 1) for i in range(30)]
    timed = [1.02 * seconds + 0.0001 * i * seconds for i, seconds in enumerate(plain)]
    ratio = Ratio.of(timed, plain)
    assert ratio.value == pytest.approx(1.02145)
    assert (ratio.low, ratio.high) == pytest.approx((1.0209, 1.0220))  # the 10th and the 21st of 30: 95.7 % between
    assert Ratio.of([2.0, 4.0, 3.0], [1.0, 1.0, 1.0]) == Ratio(3.0, 2.0, 4.0)


def test_the_ratios_interval_holds_the_median() -> None:
    rng = np.random.default_rng(0)
    for pairs in (6, 15, 43):
        draws = [Ratio.of(np.exp(rng.normal(0, 0.1, pairs)).tolist(), [1.0] * pairs) for _ in range(2000)]
        assert np.mean([ratio.low <= 1 <= ratio.high for ratio in draws]) >= 0.945
