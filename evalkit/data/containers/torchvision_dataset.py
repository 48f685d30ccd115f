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
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.data import codec
from evalkit.data.arrays import ArrayImages
from evalkit.data.containers.base import Table
from evalkit.data.open import Opener
from evalkit.data.remote import Place, Remote, Stamp
from evalkit.data.stored import ReadOptions, StoredImages, open_container
from evalkit.errors import ConfigError, DataError, nearest
from evalkit.utils.files import sha256_json
from evalkit.utils.text import one_line

if TYPE_CHECKING:
    from PIL.Image import Image

PICKLED = ("CIFAR10", "CIFAR100", "LSUN", "LSUNClass")
_PNG_MODES = ("1", "L", "LA", "P", "RGBA", "I;16")  # that a PNG keeps as they are


@dataclass(frozen=True)
class _Cifar:
    """Where the binary version lies, and its records."""

    folder: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    labels: int  # bytes before the pixels; the last is the class
    names: str


_CIFAR = {
    "CIFAR10": _Cifar(
        "cifar-10-batches-bin",
        tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
        ("test_batch.bin",),
        1,
        "batches.meta.txt",
    ),
    "CIFAR100": _Cifar("cifar-100-binary", ("train.bin",), ("test.bin",), 2, "fine_label_names.txt"),
}
_CIFAR_BYTES = 3 * 32 * 32


@dataclass(eq=False)
class TorchvisionOpener(Opener):
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

    def check(self) -> None:
        """Raises ConfigError where there is no such dataset, or it is not there, or it is a pickle."""
        self.count()

    def _count(self) -> int:
        return len(self.open() if self.name in _CIFAR else self._table)

    def _open(self, cache: Path | None) -> StoredImages | ArrayImages:
        if self.name in _CIFAR:
            return read_cifar(self.name, Path(self.root or ".").expanduser(), self.split or "train")
        return open_container(self._table, self.options, cache=cache)

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

    def version(self) -> Stamp:
        """Torchvision tells nothing of a set's content: each image is compared with its sha256 when it is read."""
        about = [self._opener.identity(), len(self), _version()]
        return len(self), int(sha256_json(about)[:12], 16) + 1

    def image(self, row: int) -> bytes:
        with self._lock:
            item = self._set[row]
        return _as_file(item[0] if isinstance(item, tuple) else item, f"{self.place}: row {row}")

    def strings(self, column: str) -> Sequence[str | None]:
        raise ConfigError(f"{self.place}: no column of texts '{column}'")

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
        import torchvision
    except ImportError:
        raise ConfigError("torchvision's datasets need the package 'torchvision': pip install torchvision") from None
    kinds = torchvision.datasets
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
    if opener.split is not None:
        given |= _split(opener, takes)
    if opener.download:
        given["download"] = True
    try:
        return kind(**given)
    except Exception as error:  # each class raises its own: not found, corrupted, an unknown split
        reason = one_line(error)[:300].replace("You can use download=True to download it", "download=true?")
        where = f"root={opener.root}, split={opener.split}"
        raise ConfigError(f"torchvision's {opener.name} ({where}): {reason}") from error


def _split(opener: TorchvisionOpener, takes: Mapping[str, Any]) -> dict[str, Any]:
    if "split" in takes:
        return {"split": opener.split}
    if "train" in takes:
        if opener.split not in ("train", "test"):
            raise ConfigError(f"torchvision's {opener.name}: split={opener.split}: give train or test")
        return {"train": opener.split == "train"}
    raise ConfigError(f"torchvision's {opener.name} has no splits: leave split=null")


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


def _version() -> str:
    from importlib.metadata import version

    return version("torchvision")


def read_cifar(name: str, root: Path, split: str) -> ArrayImages:
    """CIFAR's binary version below `root`, with its classes; 150 MB in memory for 50,000 images.

    Raises:
        ConfigError: it is not there, or has no such split.
        DataError: a file is damaged.
    """
    import numpy as np

    about = _CIFAR[name]
    if split not in ("train", "test"):
        raise ConfigError(f"torchvision's {name}: split={split}: give train or test")
    folder = root / about.folder
    paths = [folder / file for file in (about.train if split == "train" else about.test)]
    missing = next((path for path in paths if not path.is_file()), None)
    if missing is not None:
        archive = about.folder.replace("-batches-bin", "-binary") + ".tar.gz"
        raise ConfigError(
            f"{missing} is missing: torchvision's {name} is a pickle, which is never loaded; unpack its binary version "
            f"({archive}, from the same page) into {root}"
        )
    records = about.labels + _CIFAR_BYTES
    parts = [np.fromfile(path, np.uint8) for path in paths]
    for path, part in zip(paths, parts, strict=True):
        if not part.size or part.size % records:
            raise DataError(f"{path}: {part.size} bytes are no whole number of records of {records}: fetch it again")
    table = np.concatenate(parts).reshape(-1, records)
    pixels = table[:, about.labels :].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)  # NCHW -> NHWC
    names = (folder / about.names).read_text(encoding="utf-8").split() if (folder / about.names).is_file() else []
    labels = table[:, about.labels - 1].tolist()
    classes = tuple(names[i] if i < len(names) else str(i) for i in labels)
    return ArrayImages(f"{folder}/{split}", np.ascontiguousarray(pixels), classes=classes)
