"""Shared by the trainers: options, the time or step budget, batches, EMA, saving."""

from __future__ import annotations

import json
import math
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel

from evalkit.digits import data
from evalkit.utils.files import atomic_path

N_COLOURS = len(data.COLOURS)
FRAME = 36  # pixels a side that digits are kept with: 2 around the image leave room for shifts by index
LOG_SECONDS = 20
SAVE_SECONDS = 90


@dataclass(frozen=True)
class Options:
    """What the command line chose.

    Attributes:
        mnist: folder of the t10k idx files.
        out: folder that takes the result, laid out as ``evalkit/digits/weights``.
        minutes: training time; ignored if ``steps`` is given.
        steps: optimiser steps, for reproducible or very short runs.
        device: torch device.
        resume: start from the weights that lie in ``out``.
        part: of the ldm: ``all``, ``vae`` or ``unet`` (keeps the autoencoder that lies in ``out``).
    """

    mnist: Path
    out: Path
    minutes: float
    steps: int | None
    device: torch.device
    resume: bool = False
    part: str = "all"


class Budget:
    """Counts steps or time until it is ``spent``; reports losses and saves now and then, and at the end."""

    def __init__(self, options: Options, name: str, save: Callable[[], object]) -> None:
        self.steps, self.seconds = options.steps, options.minutes * 60.0
        self.name, self.save = name, save
        self.start = self.saved = self.logged = time.monotonic()
        self.step = 0
        self.spent = False

    @property
    def progress(self) -> float:
        """Share of the budget that is used, 0..1."""
        used = self.step / self.steps if self.steps else (time.monotonic() - self.start) / self.seconds
        return min(1.0, used)

    def tick(self, **losses: Tensor) -> None:
        """Counts one step, which had these losses."""
        self.step += 1
        self.spent = self.progress >= 1.0
        now = time.monotonic()
        if self.spent or now - self.logged > LOG_SECONDS:
            self.logged = now
            shown = " ".join(f"{key}={float(value.detach()):.4f}" for key, value in losses.items())
            print(f"{self.name} step={self.step} {now - self.start:.0f}s {shown}", flush=True)
        if self.spent or now - self.saved > SAVE_SECONDS:
            self.saved = now
            self.save()


def descend(
    loss: Tensor, optimiser: torch.optim.Optimizer, budget: Budget, limit: float | None = None, floor: float = 0.02
) -> None:
    """One optimiser step down a loss [], its gradient cut to the norm ``limit``.

    The rate has a short linear warm-up, then falls along a cosine to ``floor`` of the rate the optimiser was made with.
    """
    warm = min(1.0, (budget.step + 1) / 50)
    cosine = floor + (1.0 - floor) * 0.5 * (1.0 + math.cos(math.pi * budget.progress))
    for group in optimiser.param_groups:
        group["lr"] = group.setdefault("initial_lr", group["lr"]) * warm * cosine
    optimiser.zero_grad()
    torch.autograd.backward(loss)
    if limit is not None:
        nn.utils.clip_grad_norm_([p for group in optimiser.param_groups for p in group["params"]], limit)
    optimiser.step()


def smoothed(module: nn.Module, decay: float = 0.999) -> AveragedModel:
    """An EMA of a module's weights, in its `module`, in eval mode; buffers (running statistics) are copied.

    The decay grows with the number of steps, so that early noise leaves soon.
    """

    def average(mine: Sequence[Tensor], theirs: Sequence[Tensor], count: Tensor | int) -> None:
        torch._foreach_lerp_(list(mine), list(theirs), 1.0 - min(decay, (2 + int(count)) / (11 + int(count))))

    return AveragedModel(module, multi_avg_fn=average).eval().requires_grad_(False)


class Batch(NamedTuple):
    """Coloured digits."""

    images: Tensor  # float [B,3,32,32] in [-1,1]
    digit: Tensor  # int64 [B]
    ink: Tensor  # int64 [B], position in ``data.COLOURS``
    background: Tensor  # likewise, never the ink
    grey: Tensor  # float [B,1,32,32] in [0,1]


class Digits:
    """The training digits on the device, drawn in random batches.

    Attributes:
        grey: float32 [N,1,36,36] in [0,1].
        labels: int64 [N].
    """

    def __init__(self, options: Options, style: str | None = None) -> None:
        images, labels = data.load_mnist(options.mnist)
        if style is not None:
            images = data.styled(images, style)
        grey = torch.tensor(images, device=options.device).float().div_(255.0)  # [N,28,28], with a style [N,32,32]
        self.grey = F.pad(grey[:, None], ((FRAME - images.shape[-1]) // 2,) * 4)
        self.labels = torch.tensor(labels, device=options.device).long()

    def batch(self, size: int, shift: int = 2) -> tuple[Tensor, Tensor]:
        """Random digits, each moved by at most ``shift`` pixels a side: grey [B,1,32,32] in [0,1], labels int64 [B]."""
        device = self.grey.device
        index = torch.randint(len(self.labels), (size,), device=device)
        offset = 2 + torch.randint(-shift, shift + 1, (2, size, 1), device=device)
        span = torch.arange(data.IMAGE_SIZE, device=device)
        rows, columns = offset[0] + span, offset[1] + span  # [B,32] each
        grey = self.grey[index[:, None, None], 0, rows[:, :, None], columns[:, None, :]]
        return grey[:, None], self.labels[index]


def random_colours(size: int, device: torch.device, pairs: int = 0) -> tuple[Tensor, Tensor]:
    """Ink and background indices, int64 [B] each, never equal.

    With ``pairs`` three quarters of the batch share that many colour pairs: then captions of a batch
    often differ in the digit alone.
    """
    ink = torch.randint(N_COLOURS, (size,), device=device)
    background = (ink + torch.randint(1, N_COLOURS, (size,), device=device)) % N_COLOURS
    if pairs:
        shared = size * 3 // 4
        source = torch.randint(min(pairs, size), (shared,), device=device)
        ink[:shared], background[:shared] = ink[source], background[source]
    return ink, background


def colour(grey: Tensor, ink: Tensor, background: Tensor) -> Tensor:
    """Torch twin of ``data.colourise``: grey [B,1,32,32] in [0,1] -> float [B,3,32,32] in [-1,1]."""
    palette = torch.from_numpy(data.PALETTE_RGB).to(grey.device).float() / 127.5 - 1.0  # [8,3]
    back, front = palette[background][:, :, None, None], palette[ink][:, :, None, None]
    return torch.lerp(back, front, grey)


def coloured_batch(digits: Digits, size: int, shift: int = 2) -> Batch:
    """Random digits in random colours."""
    grey, digit = digits.batch(size, shift)
    ink, background = random_colours(size, grey.device)
    return Batch(colour(grey, ink, background), digit, ink, background, grey)


def warp(grey: Tensor) -> Tensor:
    """Random rotation (15 degrees), scaling (15 %) and shearing (0.2) of grey [B,1,32,32]."""
    size, device = len(grey), grey.device

    def uniform(limit: float) -> Tensor:
        return (torch.rand(size, device=device) * 2.0 - 1.0) * limit

    angle = uniform(math.radians(15.0))
    zoom_x, zoom_y, slant = 1.0 + uniform(0.15), 1.0 + uniform(0.15), uniform(0.2)
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    rows = [cos * zoom_x, (slant - sin) * zoom_x, zero, sin * zoom_y, cos * zoom_y, zero]
    theta = torch.stack(rows, dim=1).view(-1, 2, 3)
    grid = F.affine_grid(theta, list(grey.shape), align_corners=False)
    return F.grid_sample(grey, grid, align_corners=False)


def augmented_batch(digits: Digits, size: int, pairs: int = 0) -> Batch:
    """Like ``coloured_batch`` but warped, partly blurred and noisy: for the models that judge images.

    ``pairs`` as in ``random_colours``.
    """
    grey, digit = digits.batch(size)
    grey = warp(grey)
    part = size // 4
    grey[:part] = F.avg_pool2d(F.pad(grey[:part], (1, 1, 1, 1)), 3, 1)
    ink, background = random_colours(size, grey.device, pairs)
    images = colour(grey, ink, background)
    strength = 0.1 * torch.rand(size, 1, 1, 1, device=grey.device)
    images = (images + strength * torch.randn_like(images)).clamp(-1.0, 1.0)
    return Batch(images, digit, ink, background, grey)


def half_copy(module: nn.Module) -> Any:
    """A copy in half precision on the CPU, laid out as files hold it."""
    return deepcopy(module).cpu().half().to(memory_format=torch.contiguous_format)


def replace_folder(target: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a new folder, then move its files over ``target`` so that readers see whole files."""
    target.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        write(fresh)
        for config in fresh.rglob("config.json"):  # diffusers notes the folder a model came from; ship no such path
            content = json.loads(config.read_text(encoding="utf-8"))
            content.pop("_name_or_path", None)
            config.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        for file in sorted(path for path in fresh.rglob("*") if path.is_file()):
            place = target / file.relative_to(fresh)
            place.parent.mkdir(parents=True, exist_ok=True)
            file.chmod(0o644)
            file.replace(place)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def save_state(module: nn.Module, target: Path) -> None:
    """Write a module's state as half-precision safetensors (integer buffers stay as they are)."""
    from safetensors.torch import save_file

    with atomic_path(target) as fresh:
        save_file(half_copy(module).state_dict(), fresh)
