"""Images of torchvision's datasets, by the class's name. Datasets that torchvision reads from pickles are refused.

CIFAR-10 and CIFAR-100 are read here from their binary version, which is no pickle: records of one or two label bytes
and 3,072 bytes of pixels (https://www.cs.toronto.edu/~kriz/cifar.html).
"""

from __future__ import annotations

import functools
import inspect
import io
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.data import codec
from evalkit.data.arrays import ArrayImages
from evalkit.data.containers.base import Table
from evalkit.data.open import Images, TableOpener
from evalkit.data.records import ReadOptions
from evalkit.data.remote import Place, Remote, made_stamp
from evalkit.errors import ConfigError, DataError, nearest
from evalkit.utils.files import Stamp
from evalkit.utils.text import one_line

if TYPE_CHECKING:
    from PIL.Image import Image

PICKLED = ("CIFAR10", "CIFAR100", "LSUN", "LSUNClass")
_PNG_MODES = ("1", "L", "LA", "P", "RGBA", "I;16")  # that a PNG keeps as they are


# Of a binary version: folder, files by split, bytes before the pixels (the last is the class), file of classes' names.
_CIFAR_10_FILES = {"train": [f"data_batch_{i}.bin" for i in range(1, 6)], "test": ["test_batch.bin"]}
_CIFAR_100_FILES = {"train": ["train.bin"], "test": ["test.bin"]}
_CIFAR = {
    "CIFAR10": ("cifar-10-batches-bin", _CIFAR_10_FILES, 1, "batches.meta.txt"),
    "CIFAR100": ("cifar-100-binary", _CIFAR_100_FILES, 2, "fine_label_names.txt"),
}


@dataclass(eq=False)
class TorchvisionOpener(TableOpener):
    """A torchvision dataset, and how its images are read.

    Attributes:
        name: the class's name in `torchvision.datasets`.
        root: the folder that it is given; none: it takes none (FakeData).
        split: given as `split=`, or as `train=` (split == "train") where the class takes that; none: its default.
        download: whether the class may fetch it.
        arguments: its other arguments.
        options: how its images are read; it has no prompts.
    """

    name: str
    root: str | None = None
    split: str | None = None
    download: bool = False
    arguments: Mapping[str, Any] = field(default_factory=dict)
    options: ReadOptions = field(default_factory=lambda: ReadOptions(prompts=None))

    def _count(self) -> int:
        return len(self.open()) if self.name in _CIFAR else super()._count()

    def _open(self, cache: Path | None) -> Images:
        if self.name in _CIFAR:
            return read_cifar(self.name, Path(self.root or ".").expanduser(), self.split or "train")
        return super()._open(cache)

    def identity(self) -> dict[str, Any]:
        about = {name: getattr(self, name) for name in ("name", "root", "split")}
        return {"torchvision": about | {"on_error": self.options.on_error, "options": dict(self.arguments)}}

    @functools.cached_property
    def _table(self) -> TorchvisionDataset:
        return TorchvisionDataset(self)


class TorchvisionDataset(Table):
    """The images of a torchvision dataset, as files without loss.

    Raises:
        ConfigError: there is no such dataset, or it is not there, or it is a pickle.
    """

    remedy = "repair the dataset and start again"

    def __init__(self, opener: TorchvisionOpener) -> None:
        self.place: Place = Remote(f"torchvision://{opener.name}/{opener.split or ''}")
        self._opener = opener
        self._lock = threading.Lock()  # FakeData draws from torch's global generator
        self._set = _build(opener)
        if not len(self._set):
            raise ConfigError(f"{self.place}: no images in it")

    def __len__(self) -> int:
        return len(self._set)

    @functools.cached_property
    def version(self) -> Stamp:
        """Torchvision tells nothing of a set's content: each image is compared with its sha256 when it is read."""
        return made_stamp(len(self), [self._opener.identity(), len(self), version("torchvision")])

    def image(self, row: int) -> bytes:
        with self._lock, codec.without_programs():
            item = self._set[row]
        return _as_file(item[0] if isinstance(item, tuple) else item, f"{self.place}: row {row}")

    def labels(self) -> Sequence[str | None]:
        """The names of the classes, where the set tells each image's class without reading it."""
        lists = (getattr(self._set, name, None) for name in ("targets", "labels", "_labels"))
        labels = next((v for v in lists if v is not None and len(v) == len(self)), None)
        if labels is None:
            return ()
        names = getattr(self._set, "classes", None) or ()
        return [str(names[i]) if 0 <= i < len(names) else str(i) for i in map(int, labels)]


def _build(opener: TorchvisionOpener) -> Any:
    try:
        from torchvision import datasets as kinds
    except ImportError:
        raise ConfigError("torchvision's datasets need the package 'torchvision': pip install torchvision") from None
    if opener.name not in kinds.__all__ or opener.name == "DatasetFolder":
        raise ConfigError(f"torchvision has no dataset '{opener.name}'. {nearest(opener.name, kinds.__all__)}")
    if opener.name in PICKLED:
        raise ConfigError(
            f"torchvision's {opener.name} is read from a pickle, which is never loaded: export its images"
        )
    kind = getattr(kinds, opener.name)
    takes = inspect.signature(kind).parameters
    given = dict(opener.arguments)
    for name in given:
        if name not in takes:
            raise ConfigError(f"torchvision's {opener.name} takes no '{name}'. {nearest(name, takes)}")
    if opener.root is not None:
        given["root"] = str(Path(opener.root).expanduser())
    if opener.split is not None and "split" in takes:
        given["split"] = opener.split
    elif opener.split is not None:
        if "train" not in takes:
            raise ConfigError(f"torchvision's {opener.name} has no splits: leave split=null")
        if opener.split not in ("train", "test"):
            raise ConfigError(f"torchvision's {opener.name}: split={opener.split}: give train or test")
        given["train"] = opener.split == "train"
    if opener.download and opener.fetch:
        given["download"] = True
    try:
        return kind(**given)
    except Exception as error:  # each class raises its own: not found, corrupted, an unknown split
        reason = one_line(error)[:300].replace("You can use download=True to download it", "download=true?")
        reason += " (a dry run fetches nothing)" if opener.download and not opener.fetch else ""
        where = f"root={opener.root}, split={opener.split}"
        raise ConfigError(f"torchvision's {opener.name} ({where}): {reason}") from error


def _as_file(image: Image, name: str) -> bytes:
    """An image as the bytes of a PNG."""
    import numpy as np

    if not hasattr(image, "convert"):
        raise DataError(f"{name}: {type(image).__name__}, not an image: only datasets of images can be read")
    if image.mode in _PNG_MODES:
        buffer = io.BytesIO()
        image.save(buffer, "PNG", compress_level=1)
        return buffer.getvalue()
    return codec.encode_png(np.asarray(image.convert("RGB")))


def read_cifar(name: str, root: Path, split: str) -> ArrayImages:
    """CIFAR's binary version below `root`, with its classes; 150 MB in memory for 50,000 images.

    Raises:
        ConfigError: it is not there, or has no such split.
        DataError: a file is damaged.
    """
    import numpy as np

    inner, files, labels, names_file = _CIFAR[name]
    if split not in files:
        raise ConfigError(f"torchvision's {name}: split={split}: give train or test")
    folder = root / inner
    record = np.dtype([("labels", "u1", (labels,)), ("pixels", "u1", (3, 32, 32))])
    parts = []
    for path in (folder / file for file in files[split]):
        if not path.is_file():
            archive = inner.replace("-batches-bin", "-binary") + ".tar.gz"
            raise ConfigError(
                f"{path} is missing: torchvision's {name} is a pickle, which is never loaded; unpack its binary "
                f"version ({archive}, from the same page) into {root}"
            )
        size = path.stat().st_size
        if not size or size % record.itemsize:
            raise DataError(f"{path}: {size} bytes are no whole number of records of {record.itemsize}: fetch it again")
        parts.append(np.fromfile(path, record))
    images = np.concatenate(parts)
    pixels = images["pixels"].transpose(0, 2, 3, 1)  # NCHW -> NHWC
    names = (folder / names_file).read_text(encoding="utf-8").split() if (folder / names_file).is_file() else []
    classes = tuple(names[i] if i < len(names) else str(i) for i in images["labels"][:, -1].tolist())
    return ArrayImages(f"{folder}/{split}", np.ascontiguousarray(pixels), classes=classes)
