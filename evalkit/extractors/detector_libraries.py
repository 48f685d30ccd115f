"""Where a detector comes from: transformers, torchvision, or a plain function. One class each, of one interface."""

from __future__ import annotations

import importlib.util
import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from evalkit.config.build import locate
from evalkit.errors import ConfigError, DataError, nearest
from evalkit.extractors.base import to_tensor
from evalkit.extractors.pretrained import PretrainedNetwork
from evalkit.utils.code import module_digest
from evalkit.utils.files import sha256_file
from evalkit.utils.text import one_line
from evalkit.utils.weights import TAG_LENGTH, Weights

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from evalkit.extractors.base import Images

MASK_SIZE = (384, 384)  # on which transformers looks at masks
BACKGROUND = ("__background__", "N/A")  # names of COCO's label ids that stand for no class


@dataclass(frozen=True)
class Seen:
    """What a detector sees in one image.

    Attributes:
        names: of the n objects' classes.
        scores: f32 [n], 0 to 1.
        boxes: f32 [n,4]: x0, y0, x1, y1 in pixels.
        masks: bool [n,H,W] where the model gives masks.
        colours: by object the name of its colour, of a function that tells it itself.
    """

    names: Sequence[str]
    scores: NDArray[np.float32]
    boxes: NDArray[np.float32]
    masks: NDArray[np.bool_] | None = None
    colours: Sequence[str] | None = None


class Library(ABC):
    """A detector's source."""

    tells_colours = False  # whether `Seen.colours` are there

    @abstractmethod
    def check(self, *, fetch: bool) -> None:
        """Raises ConfigError where a file, a class or a package is missing; imports no torch."""

    @abstractmethod
    def class_names(self) -> tuple[str, ...] | None:
        """By label id the class's name; none where it is not known beforehand."""

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """All that what it sees depends on: JSON."""

    @abstractmethod
    def tag(self) -> str:
        """For labels: the beginning of a digest."""

    @abstractmethod
    def load(self, device: str) -> None:
        """Brings the network to the device."""

    @abstractmethod
    def unload(self) -> None:
        """Frees it."""

    @abstractmethod
    def look(self, images: Images, lowest: float) -> list[Seen]:
        """What is in images of one size, each u8 [H,W,3]; objects of a score up to `lowest` may be left out."""


@dataclass(eq=False)
class TransformersDetector(Library):
    """A model of transformers: DETR, RT-DETR, YOLOS ... (boxes), Mask2Former, MaskFormer (masks and their boxes)."""

    network: PretrainedNetwork
    names: Sequence[str] | None = None
    _net: Any = field(init=False, default=None)
    _processor: Any = field(init=False, default=None)
    _device: str | None = field(init=False, default=None)

    @property
    def _masks(self) -> bool:
        return not self.network.architecture.endswith("ForObjectDetection")

    def check(self, *, fetch: bool) -> None:
        self.network.check(fetch=fetch)
        ends = ("ForObjectDetection", "ForUniversalSegmentation", "ForInstanceSegmentation")
        if not self.network.architecture.endswith(ends):
            raise ConfigError(
                f"{self.network.where}: {self.network.files.location.path} is a '{self.network.architecture}', which "
                f"detects no objects: give a model whose class ends in {', '.join(ends)}"
            )

    def class_names(self) -> tuple[str, ...]:
        return tuple(self.names) if self.names is not None else self.network.label_names()

    def identity(self) -> dict[str, Any]:
        boxes = "of the masks" if self._masks else "the model's"
        return self.network.identity() | {"boxes": boxes}

    def tag(self) -> str:
        return self.network.tag()

    def load(self, device: str) -> None:
        if self._net is None:
            kind = "AutoModelForUniversalSegmentation" if self._masks else "AutoModelForObjectDetection"
            self._net, self._processor = self.network.load(kind), self.network.processor()
        if self._device != device:
            self._net.to(device)
            self._device = device

    def unload(self) -> None:
        self._net = self._processor = self._device = None

    def look(self, images: Images, lowest: float) -> list[Seen]:
        inputs = self._processor(images=list(images), return_tensors="pt").to(self._device)
        outputs = self._net(**inputs)
        sizes = [image.shape[:2] for image in images]
        names = self.class_names()
        if self._masks:
            return [_of_masks(outputs, i, size, lowest, names) for i, size in enumerate(sizes)]
        found = self._processor.post_process_object_detection(outputs, threshold=lowest, target_sizes=sizes)
        return [
            Seen([names[i] for i in each["labels"].tolist()], _array(each["scores"]), _array(each["boxes"]))
            for each in found
        ]


def _of_masks(outputs: Any, place: int, size: tuple[int, ...], lowest: float, names: Sequence[str]) -> Seen:
    """The objects of one image by the way of transformers' `post_process_instance_segmentation`, on any device.

    As many pairs of a query and a class as there are queries, the most probable ones; a score is the class's
    probability times the mean probability of the mask's pixels, on 384 x 384. Only masks that are kept are brought to
    the image's size. A box holds its mask's pixels; x1 and y1 lie just behind them.
    """
    from torch.nn.functional import interpolate

    logits = interpolate(outputs.masks_queries_logits[place : place + 1], size=MASK_SIZE, mode="bilinear")[0]  # [Q,S,S]
    probabilities = outputs.class_queries_logits[place].softmax(-1)[:, :-1]  # [Q,C]: the last is "no object"
    best, pairs = probabilities.flatten().topk(len(probabilities))
    logits = logits[pairs // probabilities.shape[1]]
    inside = logits > 0
    sure = (logits.sigmoid() * inside).flatten(1).sum(1) / (inside.flatten(1).sum(1) + 1e-6)
    kept = (best * sure > lowest).nonzero()[:, 0]
    if not len(kept):
        return Seen([], np.zeros(0, np.float32), np.zeros((0, 4), np.float32))
    masks = interpolate(inside[kept].float()[None], size=tuple(size), mode="nearest")[0] > 0  # [n,H,W]
    there = masks.flatten(1).any(1)
    kept, masks = kept[there], _array(masks[there])
    boxes = []
    for mask in masks:
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        boxes.append((columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))
    labels = [names[i] for i in (pairs[kept] % probabilities.shape[1]).tolist()]
    return Seen(labels, _array((best * sure)[kept]), np.array(boxes, np.float32).reshape(-1, 4), masks)


@dataclass(eq=False)
class TorchvisionDetector(Library):
    """A builder of torchvision.models.detection ("fasterrcnn_resnet50_fpn_v2") and a file of its weights.

    Without `names` the classes are COCO's as torchvision's own weights have them.
    """

    where: str
    builder: str
    weights: Weights
    names: Sequence[str] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    _net: Any = field(init=False, default=None)
    _device: str | None = field(init=False, default=None)

    def check(self, *, fetch: bool) -> None:
        if importlib.util.find_spec("torchvision") is None:
            raise ConfigError(f"{self.where}: torchvision is not installed: pip install torchvision")
        self.weights.find()

    def class_names(self) -> tuple[str, ...]:
        if self.names is not None:
            return tuple(self.names)
        from torchvision.models._meta import _COCO_CATEGORIES

        return tuple(_COCO_CATEGORIES)

    def identity(self) -> dict[str, Any]:
        network = f"torchvision {version('torchvision').partition('+')[0]}"
        return {
            "network": network,
            "model": self.builder,
            "weights": self.weights.digest(),
            "options": {**self.options},
        }

    def tag(self) -> str:
        return self.weights.digest()[:TAG_LENGTH]

    def load(self, device: str) -> None:
        if self._net is None:
            self._net = self._built()
        if self._device != device:
            self._net.to(device)
            self._device = device

    def _built(self) -> Any:
        from torchvision.models import detection

        builders = [name for name, each in vars(detection).items() if callable(each) and name.islower()]
        if self.builder not in builders:
            raise ConfigError(
                f"{self.where}: torchvision has no detector '{self.builder}'. {nearest(self.builder, builders)}"
            )
        names = self.class_names()
        options = {"weights": None, "weights_backbone": None, "num_classes": len(names), **self.options}
        try:
            net = getattr(detection, self.builder)(**options)
            net.load_state_dict(self.weights.read())
        except (RuntimeError, TypeError, ValueError) as error:
            file = self.weights.find()
            raise ConfigError(f"{self.where}: {file} is not of {self.builder}: {one_line(error)}") from error
        return net.eval().requires_grad_(False)

    def unload(self) -> None:
        self._net = self._device = None

    def look(self, images: Images, lowest: float) -> list[Seen]:
        names = self.class_names()
        outputs = self._net(list(to_tensor(images).to(self._device).float() / 255))  # each f32 [3,H,W], 0 to 1
        found = []
        for each in outputs:
            masks = each["masks"][:, 0] >= 0.5 if "masks" in each else None  # [n,H,W]
            labels = [names[i] for i in each["labels"].tolist()]
            found.append(
                Seen(labels, _array(each["scores"]), _array(each["boxes"]), None if masks is None else _array(masks))
            )
        return found


@dataclass(eq=False)
class FunctionDetector(Library):
    """A function of your own: `detect(image) -> [{"class": NAME, "score": S, "box": (x0, y0, x1, y1)}, ...]`.

    An object may also have "mask" (bool [H,W]) and "colour" (a name of GenEval's ten; all or none have it). A class
    is built once, `Class(device=..., **options)`, and its object is called.
    """

    where: str
    function: str
    names: Sequence[str] | None = None
    tells_colours: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    _call: Any = field(init=False, default=None)

    def check(self, *, fetch: bool) -> None:
        top, _, rest = self.function.partition(".")
        if not rest or not top.isidentifier() or importlib.util.find_spec(top) is None:
            raise ConfigError(
                f"{self.where}: '{self.function}' is no package.module.name that can be imported (PYTHONPATH)"
            )

    def class_names(self) -> tuple[str, ...] | None:
        return None if self.names is None else tuple(self.names)

    def identity(self) -> dict[str, Any]:
        about = {"network": self.function, "code": module_digest(self.function.rpartition(".")[0])}
        if not self.options:
            return about
        files = {key: sha256_file(Path(value)) for key, value in self.options.items() if _is_file(value)}
        return about | {"options": {**self.options, **files}}

    def tag(self) -> str:
        return module_digest(self.function.rpartition(".")[0])[:TAG_LENGTH]

    def load(self, device: str) -> None:
        made = locate(self.function)
        if not inspect.isclass(made):
            if self.options:
                raise ConfigError(f"{self.where}: '{self.function}' is a function, which takes no options")
            self._call = made
        elif self._call is None:
            self._call = locate(self.function)(device=device, **self.options)

    def unload(self) -> None:
        self._call = None

    def look(self, images: Images, lowest: float) -> list[Seen]:
        return [self._one(self._call(image), image.shape[:2]) for image in images]

    def _one(self, objects: Sequence[Mapping[str, Any]], size: tuple[int, ...]) -> Seen:
        try:
            names = [str(each["class"]) for each in objects]
            scores = np.array([each["score"] for each in objects], np.float32)
            boxes = np.array([each["box"] for each in objects], np.float32).reshape(len(objects), 4)
            masked = [each["mask"] for each in objects if each.get("mask") is not None]
            masks = np.array(masked, bool).reshape(len(objects), *size) if masked else None
            colours = [str(each["colour"]) for each in objects] if self.tells_colours else None
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(
                f"{self.where}: {self.function} gave no objects of class, score, box: {one_line(error)}"
            ) from error
        return Seen(names, scores, boxes, masks, colours)


def _is_file(value: Any) -> bool:
    return isinstance(value, str) and bool(value) and Path(value).is_file()


def _array(tensor: Any) -> Any:
    return tensor.detach().cpu().numpy()
