"""Images that are in memory, of whatever type: a tensor, an array, pictures of Pillow, batches, a dataset, a function.

All of them become u8 [N,H,W,3]. Nothing is guessed: floats are taken with a declared range alone, and a wrong shape,
dtype or range is one line that names the conversion.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from evalkit.data.arrays import ArrayImages
from evalkit.errors import ConfigError, DataError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Range = tuple[float, float]
ASKED = 64  # images that a function is asked for at a time
OUTSIDE = 0.1  # part of the values that may lie outside the declared range (a decoder overshoots) before it is doubted
IMAGE_KEYS = ("image", "images", "img", "pixel_values")  # of a dataset's items and of batches; the first that is there
PROMPT_KEYS = ("prompt", "prompts", "text", "caption")

KINDS = (
    "a tensor uint8 [N,3,H,W], an array uint8 [N,H,W,3], a list of PIL images, an iterable of batches of these, "
    "a dataset, or a function n -> batch"
)


def is_place(given: Any) -> bool:
    """Whether it is a path or a URL, not images in memory."""
    return isinstance(given, str | os.PathLike)


def as_pixels(batch: Any, where: str, value_range: Range | None = None) -> NDArray[np.uint8]:
    """A batch of images as u8 [B,H,W,3]; nothing is copied where it is so already.

    Args:
        batch: a torch tensor u8 [B,3,H,W]; an array u8 [B,H,W,3]; PIL images, or tensors or arrays of one image each,
            of one size. One image alone ([3,H,W], [H,W,3], a PIL image) is a batch of one.
        where: what messages call it.
        value_range: (lowest, highest), (0, 1) or (-1, 1) say, of floats, which are rounded as diffusers does; uint8 is
            0 to 255 whatever it says.

    Raises:
        DataError: another shape, dtype or range; the message names the conversion.
    """
    import numpy as np

    if _is_tensor(batch):
        return _of_tensor(batch, where, value_range)
    if isinstance(batch, np.ndarray):
        return _of_array(batch, where, value_range)
    if _is_picture(batch):
        return _picture(batch)[None]
    if isinstance(batch, Sequence) and not isinstance(batch, str | bytes):
        if not batch:
            raise DataError(f"{where}: no images")
        parts = [as_pixels(image, f"{where}[{i}]", value_range) for i, image in enumerate(batch)]
        sizes = sorted({part.shape[1:3] for part in parts})
        if len(sizes) > 1:
            shown = " and ".join(f"{height}x{width}" for height, width in sizes[:2])
            raise DataError(f"{where}: images of {shown} (height x width): resize them to one size first")
        return np.concatenate(parts) if len(parts) > 1 else parts[0]
    raise DataError(f"{where}: {type(batch).__name__} is no batch of images: give {KINDS}")


def take(
    given: Any, name: str, num_samples: int | None = None, *, value_range: Range | None = None, batch_size: int = ASKED
) -> ArrayImages:
    """Images in memory as a set.

    Args:
        given: see `KINDS`. Items of a dataset, and batches, may be mappings with an "image" (and a "prompt"), or
            tuples that begin with the image.
        name: what messages call it.
        num_samples: the first images alone; none: all. A function has no end of its own, and needs it.
        value_range: of floats, see `as_pixels`.
        batch_size: images that a function is asked for at a time.

    Raises:
        ConfigError: there are fewer images, or a function comes without `num_samples`.
        DataError: as of `as_pixels`.
    """
    import numpy as np

    if num_samples is not None and num_samples < 1:
        raise ConfigError(f"num_samples={num_samples}: must be 1 or more")
    parts: list[NDArray[np.uint8]] = []
    prompts: list[str | None] = []
    for images, texts in batches(given, name, num_samples, value_range=value_range, batch_size=batch_size):
        if parts and images.shape[1:] != parts[0].shape[1:]:
            sizes = " and ".join(f"{each.shape[1]}x{each.shape[2]}" for each in (parts[0], images))
            raise DataError(f"{name}: images of {sizes} (height x width): resize them to one size first")
        parts.append(images)
        prompts += texts
    if not parts:
        raise DataError(f"{name}: no images")
    pixels = np.concatenate(parts) if len(parts) > 1 else parts[0]
    known = tuple(prompts) if any(text is not None for text in prompts) else ()
    return ArrayImages(name, pixels, known).head(num_samples)


def batches(
    given: Any, name: str, num_samples: int | None = None, *, value_range: Range | None = None, batch_size: int = ASKED
) -> Iterator[tuple[NDArray[np.uint8], list[str | None]]]:
    """Images u8 [B,H,W,3] with their prompts, batch by batch, `num_samples` at most; arguments as of `take`."""
    left = num_samples
    for number, batch in enumerate(_pieces(given, name, num_samples, batch_size)):
        images, texts = _parted(batch, f"{name}, batch {number}")
        pixels = as_pixels(images, f"{name}, batch {number}" if number else name, value_range)
        known = list(texts) if texts is not None else [None] * len(pixels)
        if len(known) != len(pixels):
            raise DataError(f"{name}, batch {number}: {len(known)} prompts for {len(pixels)} images")
        if left is not None:
            pixels, known = pixels[:left], known[:left]
            left -= len(pixels)
        yield pixels, known
        if left == 0:
            return


def _pieces(given: Any, name: str, num_samples: int | None, batch_size: int) -> Iterator[Any]:
    """What is given, in batches, as it comes."""
    import numpy as np

    listed = isinstance(given, list | tuple) and bool(given)
    if _is_tensor(given) or isinstance(given, np.ndarray) or _is_picture(given) or (listed and _is_one(given[0])):
        yield given
    elif callable(given) and not hasattr(given, "__getitem__") and not hasattr(given, "__iter__"):
        yield from _asked(given, name, num_samples, batch_size)
    elif not isinstance(given, Mapping) and hasattr(given, "__getitem__") and hasattr(given, "__len__"):
        for start in range(0, min(len(given), num_samples or len(given)), batch_size):
            items = [given[i] for i in range(start, min(start + batch_size, len(given)))]
            if _is_batch(items[0], name):  # a list of batches
                yield from items
            else:
                parted = [_parted(item, name) for item in items]
                texts = [text for _, text in parted]
                yield {"image": [image for image, _ in parted], "prompt": texts if any(texts) else None}
    elif isinstance(given, Iterable) and not isinstance(given, str | bytes | Mapping):
        yield from given
    else:
        raise DataError(f"{name}: {type(given).__name__} is no images: give {KINDS}")


def _asked(function: Callable[[int], Any], name: str, num_samples: int | None, batch_size: int) -> Iterator[Any]:
    """Batches of a function, which may give fewer images than it is asked for."""
    if num_samples is None:
        raise ConfigError(f"{name}: a function n -> batch makes images without end: give num_samples")
    made = 0
    while made < num_samples:
        batch = function(min(batch_size, num_samples - made))
        images, _ = _parted(batch, name)
        count = 1 if _is_picture(images) else len(images)
        if count == 0:
            raise DataError(f"{name}: the function gave no images after {made} of {num_samples}")
        made += count
        yield batch


def _parted(item: Any, where: str) -> tuple[Any, Any]:
    """The images, and the prompts or none, of a batch or of a dataset's item."""
    if isinstance(item, Mapping):
        key = next((key for key in IMAGE_KEYS if key in item), None)
        if key is None:
            raise DataError(f"{where}: a mapping of {', '.join(map(str, item))}: one must be called 'image'")
        return item[key], next((item[key] for key in PROMPT_KEYS if key in item), None)
    if isinstance(item, tuple) and item and not _is_picture(item[0]) and hasattr(item[0], "shape") and len(item) > 1:
        same = all(hasattr(other, "shape") and other.shape == item[0].shape for other in item)
        return (item, None) if same and item[0].ndim == 3 else (item[0], None)  # else (image, label)
    if isinstance(item, tuple) and len(item) > 1 and _is_picture(item[0]) and not _is_picture(item[1]):
        return item[0], None
    if isinstance(item, list) and len(item) > 1 and getattr(item[0], "ndim", 0) == 4:  # of a DataLoader
        labelled = getattr(item[1], "ndim", 0) != 4
        return (item[0], None) if labelled else (item, None)
    return item, None


def _is_tensor(value: Any) -> bool:
    """Told without importing torch: who has a tensor has imported it."""
    return type(value).__module__.startswith("torch") and hasattr(value, "permute")


def _is_picture(value: Any) -> bool:
    return hasattr(value, "convert") and hasattr(value, "getbands")


def _is_one(value: Any) -> bool:
    """Whether it is a single image."""
    return _is_picture(value) or getattr(value, "ndim", 0) == 3


def _is_batch(value: Any, where: str) -> bool:
    images = value
    if isinstance(value, Mapping | tuple):
        images = _parted(value, where)[0]
    return getattr(images, "ndim", 0) == 4 or (isinstance(images, list) and bool(images) and _is_one(images[0]))


def _picture(image: Any) -> NDArray[np.uint8]:
    """A picture as u8 [H,W,3], as files of it are read: the same conversion."""
    import numpy as np

    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def _of_tensor(batch: Any, where: str, value_range: Range | None) -> NDArray[np.uint8]:
    import torch

    given = f"{where}: {batch.dtype} {list(batch.shape)}"
    hints = {1: ".expand(-1, 3, -1, -1)", 4: "[:, :3]"}
    batch = _checked(batch, f"{given}: a tensor of images is uint8 [N,3,H,W]", (1, 3), ".permute(0, 3, 1, 2)", hints)
    pixels = batch.detach()
    if pixels.dtype.is_floating_point:
        low, high = _declared(given, value_range, pixels)
        scaled = (pixels.to(torch.float32) - low) / (high - low)
        pixels = (scaled.clamp(0, 1) * 255).round().to(torch.uint8)
    elif pixels.dtype != torch.uint8:
        raise DataError(f"{given}: whole numbers must be uint8: give x.clamp(0, 255).to(torch.uint8)")
    array: NDArray[np.uint8] = pixels.permute(0, 2, 3, 1).contiguous().cpu().numpy()
    return array


def _of_array(batch: NDArray[Any], where: str, value_range: Range | None) -> NDArray[np.uint8]:
    import numpy as np

    given = f"{where}: {batch.dtype} {list(batch.shape)}"
    hints = {1: ".repeat(3, -1)", 4: "[..., :3]"}
    batch = _checked(batch, f"{given}: an array of images is uint8 [N,H,W,3]", (3, 1), ".transpose(0, 2, 3, 1)", hints)
    if batch.dtype.kind == "f":
        low, high = _declared(given, value_range, batch)
        scaled = np.clip((batch.astype(np.float32) - low) / (high - low), 0, 1)
        whole: NDArray[np.uint8] = np.rint(scaled * np.float32(255)).astype(np.uint8)
        return whole
    if batch.dtype != np.uint8:
        raise DataError(f'{given}: whole numbers must be uint8: give x.clip(0, 255).astype("uint8")')
    return batch


def _checked(batch: Any, what: str, axes: tuple[int, int], turn: str, hints: Mapping[int, str]) -> Any:
    """A batch of four axes with three channels, of an image a batch of one.

    Args:
        batch: a tensor or an array.
        what: it is, and what it should be, for the error.
        axes: of the channels, and where they are in the other layout.
        turn: what makes it of the other layout.
        hints: what makes three channels of so many.

    Raises:
        DataError: it has other axes; the conversion is named where there is one.
    """
    if batch.ndim == 3:
        batch = batch[None]
    if batch.ndim != 4 or 0 in batch.shape:
        raise DataError(what)
    here, other = (batch.shape[axis] for axis in axes)
    if here != 3:
        hint = turn if other == 3 else hints.get(here, "")
        raise DataError(what + (f": give x{hint}" if hint else ""))
    return batch


def _declared(given: str, value_range: Range | None, values: Any) -> Range:
    """The range of floats, which nearly all of the values must agree with."""
    low, high = float(values.min()), float(values.max())
    spread = f"{given}, values {low:.4g} to {high:.4g}"
    if value_range is None:
        likely = "(-1, 1)" if low < 0 else "(0, 1)" if high <= 1.001 else "(0, 255)"
        raise DataError(f"{spread}: floats need a declared range: value_range={likely}, or give uint8")
    start, stop = map(float, value_range)
    if not start < stop:
        raise ConfigError(f"value_range={value_range}: give (lowest, highest)")
    if not (low == low and high == high and abs(low) != float("inf") and abs(high) != float("inf")):
        raise DataError(f"{given}: NaN or infinite values: find out what made them")
    slack = 0.001 * (stop - start)
    wrong = (values < start - slack) | (values > stop + slack)
    outside = float(wrong.sum()) / max(len(wrong.reshape(-1)), 1)
    if outside > OUTSIDE:
        raise DataError(f"{spread}: {outside:.0%} of them lie outside value_range={value_range}: declare the true one")
    return start, stop
