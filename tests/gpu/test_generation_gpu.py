"""Samples made on the device: the same bits again, whatever happens in between; honest times; nothing left behind."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from evalkit.cell import Cell
from evalkit.config.compose import compose, resolve
from evalkit.errors import ConfigError, DataError
from evalkit.models.base import Generated, Model, Request, Sampler
from evalkit.models.device_images import DeviceImages, Rounded, rounded
from evalkit.models.latent import to_pixels
from evalkit.plan.grid import make_grid
from evalkit.samples.generate import generate_cells
from evalkit.samples.model_pool import BuiltCell, ModelPool
from evalkit.samples.store import SampleSet, Store
from evalkit.utils import devices

pytestmark = pytest.mark.gpu


@pytest.fixture
def device() -> str:
    """The device under test; skips where there is none. EVALKIT_TEST_DEVICE=cpu looks at the lines without one."""
    chosen = os.environ.get("EVALKIT_TEST_DEVICE", "cuda")
    if chosen.startswith("cuda") and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return chosen


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evalkit.samples.cells.SHARD_SAMPLES", 64)
    # TF32 convolutions round by 5e-4, which depends on the kernel: what is tested is the order of the sums.
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def digits(model: str, count: int, *more: str) -> Cell:
    overrides = ["experiment=digits", f"model=[{model}]", "exclude=[]", f"num_samples={count}", *more]
    if model == "digits_ldm":
        overrides += ["sampler=[ddim]", "sampler.ddim.num_inference_steps=4"]
    return make_grid(resolve(compose(overrides))).cells[0]


def make(cell: Cell, root: Path, device: str, batch_size: int, pool: ModelPool | None = None) -> SampleSet:
    store = Store(root)
    generate_cells([cell], store, batch_size=batch_size, device=device, pool=pool)
    assert not list(root.rglob(".tmp-*"))
    return SampleSet.open(store, cell)


def pixels(samples: SampleSet) -> np.ndarray:
    return np.stack(samples.read(range(len(samples)))).astype(np.int16)


@pytest.mark.parametrize("model", ["digits_ldm", "digits_dcgan"])
def test_the_same_bits_twice_and_a_level_between_batches(model: str, tmp_path: Path, device: str) -> None:
    cell = digits(model, 150)
    one = make(cell, tmp_path / "one", device, 64)
    two = make(cell, tmp_path / "two", device, 64)
    other = make(cell, tmp_path / "other", device, 17)
    assert one.digest == two.digest
    assert [f.read_bytes() for f in one.files] == [f.read_bytes() for f in two.files]
    assert np.abs(pixels(one) - pixels(other)).max() <= 1
    assert all(row["device"] == devices.label(device) for row in one.rows)
    assert [row["warmup"] for row in one.rows] == [True] * 64 + [False] * 86


def test_the_device_and_the_cpu_make_the_same_images(tmp_path: Path, device: str) -> None:
    """A few roundings apart: 4 steps of a float32 UNet."""
    cell = digits("digits_ldm", 32)
    there, here = (pixels(make(cell, tmp_path / str(k), d, 32)) for k, d in enumerate((device, "cpu")))
    assert np.abs(there - here).max() <= 2
    assert (np.abs(there - here) > 1).mean() < 1e-4


def test_stopped_and_resumed(tmp_path: Path, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cell = digits("digits_ldm", 150)
    whole = make(cell, tmp_path / "whole", device, 32)
    pool = ModelPool()
    model = pool.built(cell).model
    real, calls = model.generate, [0]

    def generate(*args: Any, **kwargs: Any) -> Generated:
        calls[0] += 1
        if calls[0] == 4:  # in the second shard, while the first is being written
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(model, "generate", generate)
    with pytest.raises(KeyboardInterrupt):
        make(cell, tmp_path / "part", device, 32, pool)
    assert SampleSet.missing(Store(tmp_path / "part"), cell) == [(64, 128), (128, 150)]
    assert not list((tmp_path / "part").rglob(".tmp-*"))
    assert make(cell, tmp_path / "part", device, 32, pool).digest == whole.digest


def test_running_out_of_memory_halves_and_keeps_what_was_made(
    tmp_path: Path, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = digits("digits_ldm", 128)
    whole = make(cell, tmp_path / "whole", device, 32)
    pool = ModelPool()
    model = pool.built(cell).model
    real, asked = model.generate, []

    def generate(requests: Sequence[Request], **kwargs: Any) -> Generated:
        asked.append((requests[0].index, len(requests)))
        if len(asked) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return real(requests, **kwargs)

    monkeypatch.setattr(model, "generate", generate)
    made = make(cell, tmp_path / "part", device, 32, pool)
    assert asked[:4] == [(0, 32), (32, 32), (32, 16), (48, 16)]
    assert [row["batch"] for row in made.rows] == [32] * 32 + [16] * 96
    assert np.abs(pixels(made) - pixels(whole)).max() <= 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_rounding_on_the_device_gives_the_bits_of_numpy(dtype: torch.dtype, device: str) -> None:
    drawn = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 0.4 + 0.5
    halves = ((torch.arange(4 * 3 * 4096) % 256 + 0.5) / 255).reshape(4, 3, 64, 64)
    for images in (drawn.to(dtype), halves.to(dtype)):
        array = images.permute(0, 2, 3, 1).float().numpy()
        wanted = (array * 255).round().clip(0, 255).astype(np.uint8)
        there = images.to(device)
        sent = DeviceImages(rounded(there), lambda bad, total: f"{bad} of {total}")
        np.testing.assert_array_equal(sent.fetch(), wanted)
        level = images * 127.5 + 127.5
        np.testing.assert_array_equal(to_pixels(level.to(device)), to_pixels(level))


def test_gans_have_the_same_numbers_on_the_device(device: str) -> None:
    model: Any = ModelPool().built(digits("digits_dcgan", 4)).model
    model.output_range = (0.0, 0.3)  # a span without an exact reciprocal
    output = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    there, _ = model._scaled(output.to(device), 4)
    here, _ = model._scaled(output, 4)
    assert torch.equal(there.cpu(), here)


def test_a_nan_on_the_device_is_an_error_of_the_run(tmp_path: Path, device: str) -> None:
    cell = digits("digits_ldm", 70)
    pool = ModelPool()
    model: Any = pool.load(cell, device).model
    with torch.no_grad():
        model._pipe.vae.decoder.conv_out.bias.fill_(float("inf"))
    with pytest.raises(DataError, match="images hold NaN or infinite"):
        make(cell, tmp_path, device, 32, pool)
    assert SampleSet.missing(Store(tmp_path), cell) == [(0, 64), (64, 70)]


class Sleeper(Model):
    """Black images, after the device has slept; the call returns at once."""

    cycles = 100_000_000

    def check(self, *, fetch: bool = True) -> None: ...

    def identity(self) -> dict[str, Any]:
        return {}

    def load(self, device: str) -> None:
        self.device = device

    def generate(
        self, requests: Sequence[Request], *, sampler: Sampler | None, settings: Mapping[str, Any]
    ) -> Generated:
        if self.device != "cpu":
            torch.cuda._sleep(self.cycles)
        black = torch.zeros(len(requests), 8, 8, 3, dtype=torch.uint8, device=self.device)
        good = torch.zeros(len(requests), dtype=torch.bool, device=self.device)
        return Generated(DeviceImages(Rounded(black, good), lambda bad, total: ""), 1.0)


def test_latencies_are_the_devices_own(tmp_path: Path, device: str) -> None:
    """Calls return at once and queue up: a clock around them would show nothing, one until the end all of the queue."""
    if not device.startswith("cuda"):
        pytest.skip("no CUDA device")
    torch.cuda._sleep(Sleeper.cycles)
    torch.cuda.synchronize()
    start = time.perf_counter()
    torch.cuda._sleep(Sleeper.cycles)
    torch.cuda.synchronize()
    one = time.perf_counter() - start
    cell = digits("digits_dcgan", 128)
    pool = ModelPool({cell.key: BuiltCell(Sleeper(), None, None)})
    start = time.perf_counter()
    made = make(cell, tmp_path, device, 16, pool)
    whole = time.perf_counter() - start
    batches = [16 * made.rows[i]["latency_s"] for i in range(0, 128, 16)]
    assert len(batches) == 8
    assert one / 2 < np.median(batches) < 2 * one  # other processes may be at work on the GPU
    assert sum(batches) <= 1.01 * whole


def test_processes_that_encode_end_with_the_run(tmp_path: Path, device: str) -> None:
    import psutil

    before = set(psutil.Process().children())
    make(digits("digits_dcgan", 70), tmp_path, device, 32)
    assert set(psutil.Process().children()) <= before


def test_a_second_device_is_refused_or_right(tmp_path: Path, device: str) -> None:
    if not device.startswith("cuda"):
        pytest.skip("no CUDA device")
    if torch.cuda.device_count() == 1:
        with pytest.raises(ConfigError, match=r"device=cuda:1: torch .* finds no such device"):
            make(digits("digits_dcgan", 8), tmp_path, "cuda:1", 8)
        return
    cell = digits("digits_ldm", 32)
    first, second = (make(cell, tmp_path / d.replace(":", ""), d, 32) for d in ("cuda:0", "cuda:1"))
    assert np.abs(pixels(first) - pixels(second)).max() <= 1
    assert torch.cuda.current_device() == 0
