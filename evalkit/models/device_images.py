"""Images on their way from the device: rounded to u8 where they were made, copied while the next are made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from evalkit.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Rounded:
    """Images as they lie on the device.

    Attributes:
        pixels: u8 [B,H,W,3].
        bad: bool [B]: an image's values were not all finite (its pixels then mean nothing).
    """

    pixels: torch.Tensor
    bad: torch.Tensor

    @property
    def shape(self) -> torch.Size:
        return self.pixels.shape


def rounded(images: torch.Tensor) -> Rounded:
    """Images [B,C,H,W] in [0,1] as u8, with the bits of `(array * 255).round().clip(0, 255)` in NumPy's float32.

    Halves go to the even level, as in diffusers' PIL output; grey is repeated. Nothing waits for the device.

    Args:
        images: f32, f16 or bf16.
    """
    import torch

    bad = ~images.isfinite().flatten(1).all(1)
    levels = images.float().mul(255).round_().clamp_(0, 255).to(torch.uint8)
    return Rounded(levels.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).contiguous(), bad)


def joined(parts: Sequence[Rounded], order: Sequence[int]) -> Rounded:
    """The images of several parts in one; those of the parts one after another are numbers `order` of the whole."""
    import torch

    if len(parts) == 1:
        return parts[0]
    places = torch.argsort(torch.tensor(order)).to(parts[0].pixels.device)
    pixels, bad = (torch.cat(each) for each in ([p.pixels for p in parts], [p.bad for p in parts]))
    return Rounded(pixels[places], bad[places])


class DeviceImages:
    """A batch whose copy to the host is under way.

    Args:
        images: the batch; the copy begins when all that the device was given before is done.
        complaint: what is wrong where so many images of so many are not finite.

    Raises:
        DataError: some are not; of images on a GPU it is `fetch` that says so.
    """

    def __init__(self, images: Rounded, complaint: Callable[[int, int], str]) -> None:
        import torch

        self._complaint = complaint
        self.done: torch.cuda.Event | None = None
        if images.pixels.is_cuda:
            with torch.cuda.device(images.pixels.device):  # else memory is pinned by way of the first GPU
                self._pixels, self._bad = _sent(images.pixels), _sent(images.bad)
                self.done = torch.cuda.Event(enable_timing=True, blocking=True)  # type: ignore[no-untyped-call]
                self.done.record()
        else:
            self._pixels, self._bad = images.pixels.cpu(), images.bad.cpu()
            self._check()

    def fetch(self) -> NDArray[np.uint8]:
        """Waits for the copy. u8 [B,H,W,3] on the host, in pinned memory where it comes from a GPU.

        Raises:
            DataError: a value was NaN or infinite.
        """
        if self.done is not None:
            self.done.synchronize()
            self._check()
        pixels: NDArray[np.uint8] = self._pixels.numpy()
        return pixels

    def _check(self) -> None:
        bad = int(self._bad.sum())
        if bad:
            raise DataError(self._complaint(bad, len(self._bad)))


def _sent(x: torch.Tensor) -> torch.Tensor:
    """A pinned tensor on the host that `x` is being copied to."""
    import torch

    return torch.empty(x.shape, dtype=x.dtype, pin_memory=True).copy_(x, non_blocking=True)
