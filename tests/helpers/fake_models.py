"""Small models that really make images, for the tests of generation: named by `_target_`, as people's own are."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evalkit.models.base import Conditioning, Generated, Model, Request, Sampler


class Noise(Model):
    """Random pixels that depend on seed, index, prompt and settings alone. No torch.

    Args:
        size: height and width.
        version: stands for the weights.
        delay: seconds a batch.
        holds: images that fit into memory; a larger batch runs out of it.
        log: a file that gets a line for each load and each batch.
        interrupt_at: the sample at which somebody presses Ctrl-C.
    """

    conditioning: Conditioning = "text"
    call_settings = frozenset({"contrast"})

    def __init__(
        self,
        size: int = 8,
        version: int = 1,
        delay: float = 0.0,
        holds: int | None = None,
        log: str | None = None,
        interrupt_at: int | None = None,
    ) -> None:
        self.size, self.version, self.delay, self.holds = size, version, delay, holds
        self.log, self.interrupt_at = log, interrupt_at

    def check(self, *, fetch: bool = True) -> None:
        pass

    def identity(self) -> dict[str, Any]:
        return {"size": self.size, "version": self.version}

    def load(self, device: str) -> None:
        self._say("load")

    def unload(self) -> None:
        self._say("unload")

    def generate(
        self, requests: Sequence[Request], *, sampler: Sampler | None, settings: Mapping[str, Any]
    ) -> Generated:
        self._say(f"{requests[0].index} {len(requests)}")
        if self.holds is not None and len(requests) > self.holds:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        if self.interrupt_at is not None and any(r.index >= self.interrupt_at for r in requests):
            raise KeyboardInterrupt
        time.sleep(self.delay)
        images = [self._image(r, settings) for r in requests]
        return Generated(np.stack(images), nfe=3.0, warnings=[["blanked"] if r.index == 5 else [] for r in requests])

    def _image(self, request: Request, settings: Mapping[str, Any]) -> np.ndarray:
        text = list((request.prompt or "").encode())
        rng = np.random.default_rng([request.seed, request.index, self.version, *text])
        top = int(settings.get("contrast", 255))
        return rng.integers(0, top + 1, (self.size, self.size, 3), dtype=np.uint8)

    def _say(self, line: str) -> None:
        if self.log:
            with Path(self.log).open("a") as file:
                file.write(line + "\n")


class Floats(Noise):
    """Returns what it must not."""

    def generate(
        self, requests: Sequence[Request], *, sampler: Sampler | None, settings: Mapping[str, Any]
    ) -> Generated:
        return Generated(np.zeros((len(requests), 8, 8, 3), np.float32), nfe=None)  # type: ignore[arg-type]


def make_cell(num_samples: int = 20, seed: int = 0, name: str = "noise", **model: Any) -> Any:
    """A cell of `Noise` (or of the `_target_` that is given) with three prompts."""
    from evalkit.config.schema import RunConfig
    from evalkit.plan.grid import make_grid

    option = {"_target_": "fake_models.Noise", "contrast": 200, **model}
    prompts = {
        "_target_": "evalkit.prompts.sets.InlinePrompts",
        "prompts": ["a red fox", {"text": "zwei Füchse"}, "drei"],
    }
    config = RunConfig(model={name: option}, prompts={"inline": prompts}, num_samples=num_samples, seed=seed)
    return make_grid(config).cells[0]


def make_noise(root: Path, log: Path, count: int, delay: float, ready: Any) -> None:
    """What the processes of the tests do: makes a cell in shards of 8 and batches of 3."""
    from evalkit.samples import cells, store
    from evalkit.samples.generate import generate_cells

    cells.SHARD_SAMPLES = 8
    cell = make_cell(count, delay=delay, log=str(log))
    ready.set()
    generate_cells([cell], store.Store(root), batch_size=3, device="cpu")


class Uneven(Noise):
    """Its images depend on how it is called: made one by one they are one level brighter in red.

    Args:
        shift: what is one level brighter in all images: "nothing", "pixel" (one), "all".
        log: as of Noise; a batch's line has torch's number of threads and whether its plain attention is forced.
    """

    remakes = (*Model.remakes, "attention")

    def __init__(self, shift: str = "nothing", size: int = 8, log: str | None = None, mode: str | None = None) -> None:
        super().__init__(size=size, log=log)
        self.shift, self.mode = shift, mode

    def identity(self) -> dict[str, Any]:
        return {**super().identity(), "shift": self.shift, "mode": self.mode}

    def load(self, device: str) -> None:
        self._say(f"load on {device}")

    def generate(
        self, requests: Sequence[Request], *, sampler: Sampler | None, settings: Mapping[str, Any]
    ) -> Generated:
        import torch

        flash = torch.backends.cuda.flash_sdp_enabled()
        self._say(f"{len(requests)} by {torch.get_num_threads()}{'' if flash else ', math'}, {self.mode}")
        images = np.stack([self._image(r, {"contrast": 200}) for r in requests])
        images[..., 0] += len(requests) == 1
        if self.shift == "all":
            images += 1
        if self.shift == "pixel":
            images[:, 0, 0, 1] += 1
        return Generated(images, nfe=1.0)
