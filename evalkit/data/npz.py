"""Files of numpy: an .npz array by array, and what to type where an array is no set of images."""

from __future__ import annotations

import contextlib
import json
import shlex
import zipfile
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from evalkit.data.containers.archive_index import MAX_RATIO, RATIO_FROM
from evalkit.data.remote import Place, open_place
from evalkit.errors import DataError, EvalkitError, nearest
from evalkit.utils.text import one_line

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LABELS = ("arr_1", "labels", "label", "y", "classes")  # of an .npz of images; the first that is there (ADM: arr_1)
MAX_LABEL_BYTES = 64 << 20
_LOOKED = 64  # images whose values tell the range of an array


@contextlib.contextmanager
def failures(path: Place, kind: str) -> Iterator[None]:
    """Turns what numpy, zipfile and zlib raise on a damaged file (anything) into a DataError of one line."""
    try:
        yield
    except EvalkitError:
        raise
    except FileNotFoundError:
        raise DataError(f"{path}: not a readable {kind}: there is no such file: check the path") from None
    except Exception as error:
        raise DataError(f"{path}: not a readable {kind}: {one_line(error)}") from error


class Npz:
    """An .npz, of which each array is read when it is asked for; never unpickled.

    Attributes:
        sizes: of the arrays, in bytes, by name.

    Raises:
        DataError: it is missing, or no .npz.
    """

    def __init__(self, path: Place) -> None:
        self.path = path
        with failures(path, ".npz"), open_place(path) as holder, zipfile.ZipFile(holder) as archive:
            self._infos = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        self.sizes = {name: info.file_size for name, info in self._infos.items()}

    def read(self, name: str) -> NDArray[Any]:
        """An array. Raises DataError where there is none of that name, or it is damaged, a pickle or a bomb."""
        import numpy as np

        if name not in self._infos:
            raise DataError(f"{self.path}: no array '{name}'. {nearest(name, self._infos)}")
        info = self._infos[name]
        if info.file_size > max(RATIO_FROM, MAX_RATIO * info.compress_size):
            raise DataError(
                f"{self.path}: '{name}' unpacks to {info.file_size:,} bytes from {info.compress_size:,} (limit "
                f"{MAX_RATIO} to 1): a bomb; if not, save it as .npy"
            )
        with failures(self.path, ".npz"), open_place(self.path) as holder:
            file = np.load(holder, allow_pickle=False)
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise DataError(f"{self.path}: not an .npz but an .npy: call it so")
            array = file[name]
            if not isinstance(array, np.ndarray):
                raise DataError(f"{self.path}: '{name}' is no array")
            return array

    def labels(self, count: int) -> tuple[str, ...]:
        """The class of each of `count` images as text; empty where the file tells none.

        Raises:
            DataError: there are labels, but not one for each image.
        """
        import numpy as np

        name = next((name for name in LABELS if self.sizes.get(name, MAX_LABEL_BYTES) < MAX_LABEL_BYTES), None)
        if name is None:
            return ()
        labels = self.read(name)
        if labels.ndim == 2 and labels.shape[1] > 1 and labels.dtype.kind in "iufb":  # one-hot
            hot = np.isclose(labels, 1)
            if (hot.sum(axis=1) == 1).all() and np.isclose(labels, hot).all():
                labels = hot.argmax(axis=1)
        labels = labels.reshape(-1) if labels.shape in ((count, 1), (1, count)) else labels
        whole = labels.dtype.kind in "iub" or (labels.dtype.kind == "f" and bool((labels == np.floor(labels)).all()))
        if labels.shape != (count,) or not (whole or labels.dtype.kind in "US"):
            raise DataError(
                f"{self.path}: '{name}' is {labels.dtype} {list(labels.shape)}, no class for each of the {count} "
                "images: save whole numbers or texts, or leave it out"
            )
        if whole:
            return tuple(str(int(label)) for label in labels)
        return tuple(label.decode("utf-8", "replace") if isinstance(label, bytes) else str(label) for label in labels)


def conversion(path: Place, array: str, pixels: NDArray[Any]) -> str:
    """Why an array is not images u8 [N,H,W,3], and the command that makes them of it, where that can be told.

    Args:
        path: the .npy or .npz.
        array: its name in an .npz.
        pixels: the array.
    """
    import numpy as np

    steps = _layout(pixels.shape)
    values, made, looked = "", "x", pixels[:_LOOKED]
    if pixels.dtype.kind in "iufb" and looked.size:
        finite = looked[np.isfinite(looked)] if pixels.dtype.kind == "f" else looked
        if finite.size < looked.size:
            count = f"{looked.size - finite.size:,} of {looked.size:,} values in the first {len(looked)}"
            return f", with {count} NaN or infinite: find out what made them"
        low, high = float(finite.min()), float(finite.max())
        made, values = _whole(pixels.dtype, low, high), f" of {low:.4g} to {high:.4g}"
    if steps is None or not made or made + steps == "x":
        return f"{values}: save it so"
    made += steps
    target = json.dumps(f"{path.name.removesuffix(path.suffix)}-uint8{path.suffix}", ensure_ascii=False)
    given = json.dumps(str(path), ensure_ascii=False)
    if path.suffix.lower() == ".npz":
        code = f'f = dict(np.load({given})); x = f["{array}"]; f["{array}"] = {made}; np.savez({target}, **f)'
    else:
        code = f"x = np.load({given}); np.save({target}, {made})"
    return f"{values}: convert it: python -c {shlex.quote(f'import numpy as np; {code}')}"


def _layout(shape: tuple[int, ...]) -> str | None:
    """What makes [N,H,W,3] of a shape, behind the array; none where that cannot be told."""
    if len(shape) == 3 and shape[2] == 3 and shape[0] > 4:  # one image
        return "[None]"
    if len(shape) == 3 and 0 not in shape:
        return "[..., None].repeat(3, -1)"
    if len(shape) != 4 or 0 in shape:
        return None
    channels_first = shape[3] not in (1, 3, 4) and shape[1] in (1, 3, 4)
    channels = shape[1] if channels_first else shape[3]
    if channels not in (1, 3, 4):
        return None
    tail = {1: ".repeat(3, -1)", 3: "", 4: "[..., :3]"}[channels]
    return f".transpose(0, 2, 3, 1){tail}" if channels_first else tail


def _whole(dtype: np.dtype[Any], low: float, high: float) -> str:
    """What makes u8 of an array x with such values; empty where that cannot be told."""
    if dtype == "uint8":
        return "x"
    if dtype.kind == "b":
        return '(x * 255).astype("uint8")'
    scaled = ""
    if dtype.kind == "f" and low >= 0 and high <= 1.001:
        scaled = "x * 255"
    elif dtype.kind == "f" and low >= -1.001 and high <= 1.001:
        scaled = "(x + 1) * 127.5"
    elif low >= 0 and high <= 255.5:
        scaled = "x * 1.0"
    elif dtype == "uint16":
        scaled = "x / 257"
    return f'({scaled}).round().clip(0, 255).astype("uint8")' if scaled else ""
