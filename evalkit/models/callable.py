"""Any Python callable as a model: (prompts, seeds) -> images."""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, get_args

from evalkit.config.build import build, locate
from evalkit.errors import ConfigError, DataError, nearest
from evalkit.models.base import Conditioning, Generated, Model, ModelPart, Request, Sampler, Settings, SideBySide
from evalkit.models.gan import source_digest
from evalkit.models.services.cache import FetchedImage, FetchedImages

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


_OFFERED = frozenset({"negative_prompts", "latents"})  # parameters that are filled where the function has them


class CallableModel(Model):
    """Calls `function(prompts, seeds)`: two lists of one entry per sample; seeds are unsigned 32-bit integers.

    It returns one image per seed: a list of PIL images or of arrays u8 [H,W,3], or one array u8 [B,H,W,3]. Each image
    may depend on its own prompt and seed alone. A function with a parameter `negative_prompts` is given those as well;
    one with a parameter `latents` a list of the samples' starting noise, f32 arrays without a batch axis, or none where
    the model's option `latents` names no file.

    Args:
        function: "package.module.name" of a function, or of a class that is built without arguments, once; or a mapping
            {_target_: package.module.Class, ...} with its arguments. It must be importable (PYTHONPATH).
        args: further keyword arguments of every call, such as {steps: 4}.
        conditioning: "text": prompts are texts; "class": class ids; "none": a list of None.
        version: changes the samples' identity when something changes that the function's own file does not show.
        keep: true where an image costs money: those of a batch are kept when a later one fails.
    """

    remakes = (*Model.remakes, "attention")
    takes_latents = True

    def __init__(
        self,
        function: str | Mapping[str, Any],
        args: Mapping[str, Any] | None = None,
        conditioning: Conditioning = "text",
        version: str | None = None,
        keep: bool = False,
    ) -> None:
        if conditioning not in get_args(Conditioning):
            near = nearest(conditioning, get_args(Conditioning))
            raise ConfigError(f"conditioning '{conditioning}' is not known. {near}")
        if isinstance(function, Mapping) and not function.get("_target_"):
            raise ConfigError("function has no _target_: give package.module.name, or {_target_: package.module.Class}")
        self.function = dict(function) if isinstance(function, Mapping) else str(function)
        self.args, self.version, self.keep = dict(args or {}), version, keep
        self.conditioning = conditioning
        self._call: Any = None
        self._takes: frozenset[str] = frozenset()  # of `_OFFERED`
        self._cache = FetchedImages()

    @property
    def _target(self) -> str:
        return str(self.function["_target_"]) if isinstance(self.function, dict) else self.function

    def check(self, *, fetch: bool = True) -> None:
        """Looks for the function's package; it is imported by `check_call`, where samples are to be made."""
        top, _, rest = self._target.partition(".")
        if not rest or not top.isidentifier():
            raise ConfigError(f"function '{self._target}' is not of the form package.module.name")
        if importlib.util.find_spec(top) is None:
            raise ConfigError(f"function '{self._target}': there is no package '{top}' (put its folder on PYTHONPATH)")

    def identity(self) -> dict[str, Any]:
        """The digest of the function's own file, with all that goes into a call."""
        function = {"function": self.function, "source": source_digest(self._target), "args": self.args}
        return {"kind": "callable", **function, "conditioning": self.conditioning, "version": self.version}

    def check_call(self, sampler: Sampler | None, settings: Settings) -> None:
        """Imports the function, and looks whether it takes what it will be given."""
        function = locate(self._target)
        if not callable(function):
            raise ConfigError(f"function '{self._target}' is a {type(function).__name__}, which cannot be called")
        if inspect.isclass(function) and "__call__" not in dir(function):
            raise ConfigError(f"function '{self._target}' is a class without __call__(prompts, seeds)")
        bound = [None] if inspect.isclass(function) else []  # what stands for `self`
        try:
            signature = inspect.signature(function.__call__ if bound else function)
        except (ValueError, TypeError):  # some builtins have none
            return
        self._takes = _OFFERED.intersection(signature.parameters) - self.args.keys()
        try:
            signature.bind(*bound, [], [], **{name: [] for name in self._takes}, **self.args)
        except TypeError as error:
            raise ConfigError(f"function '{self._target}' does not take (prompts, seeds, **args): {error}") from None

    def latent_shape(self, sampler: Sampler | None, settings: Settings) -> tuple[int, ...] | None:
        """None: shapes are the function's own matter. ConfigError: it has no parameter `latents`."""
        self.check_call(sampler, settings)
        if "latents" not in self._takes:
            raise ConfigError(f"function '{self._target}' has no parameter `latents` to take the starting noise")
        return None

    def load(self, device: str) -> None:
        """Imports the function, or builds the object; `device` is its own matter."""
        self.check_call(None, {})
        self._call = locate(self._target)
        if isinstance(self.function, dict) or inspect.isclass(self._call):
            option = self.function if isinstance(self.function, dict) else {"_target_": self._target}
            self._call = build(option, f"function '{self._target}'")

    def timed_parts(self) -> list[ModelPart]:
        """The function, as a whole."""
        return [ModelPart("function", self, "_call")]

    def unload(self) -> None:
        self._call = None

    def keep_in(self, fetched: FetchedImages) -> None:
        """Where finished images are kept until their shard is written, if `keep`."""
        self._cache = fetched if self.keep else FetchedImages()

    def generate(self, requests: Sequence[Request], *, sampler: Sampler | None, settings: Settings) -> Generated:
        """One call for all requests whose images are not kept."""
        import time

        import numpy as np

        if self._call is None:
            raise RuntimeError("load() comes before generate()")
        fetched = {request.index: self._cache.get(request.index) for request in requests}
        todo = [request for request in requests if fetched[request.index] is None]
        began = time.perf_counter()
        made = self._made(todo) if todo else []
        latency = round((time.perf_counter() - began) / max(len(todo), 1), 6)
        for request, pixels in zip(todo, made, strict=True):
            ignored = bool(request.negative_prompt) and "negative_prompts" not in self._takes
            fresh = FetchedImage(pixels, latency, ("negative_prompt_ignored",) if ignored else ())
            self._cache.put(request.index, fresh)
            fetched[request.index] = fresh
        images = [image for request in requests if (image := fetched[request.index]) is not None]
        if len({image.pixels.shape for image in images}) > 1:
            raise DataError(f"function '{self._target}' made images of several sizes: all of a cell have one size")
        timing = None
        if len(todo) < len(requests):
            timing = SideBySide([i.latency for i in images], [i.cached for i in images], max(len(todo), 1))
        return Generated(np.stack([i.pixels for i in images]), None, [list(i.warnings) for i in images], timing)

    def _made(self, requests: Sequence[Request]) -> list[NDArray[np.uint8]]:
        arguments = dict(self.args)
        if "negative_prompts" in self._takes:
            arguments["negative_prompts"] = [r.negative_prompt for r in requests]
        if "latents" in self._takes:
            given = [r.latent for r in requests]
            arguments["latents"] = given if any(latent is not None for latent in given) else None
        result = self._call(self._asked(requests), [r.seed32() for r in requests], **arguments)
        shape = getattr(result, "shape", None)
        if not isinstance(result, list | tuple) and (shape is None or len(shape) != 4):
            raise DataError(
                f"function '{self._target}' returned {_kind(result)}: a list of PIL images or uint8 [B,H,W,3] is wanted"
            )
        if len(result) != len(requests):
            raise DataError(f"function '{self._target}' returned {len(result)} images for {len(requests)} prompts")
        return [self._pixels(image) for image in result]

    def _asked(self, requests: Sequence[Request]) -> list[Any]:
        if self.conditioning == "none":
            return [None] * len(requests)
        field = "prompt" if self.conditioning == "text" else "class_id"
        asked = [getattr(request, field) for request in requests]
        for request, value in zip(requests, asked, strict=True):
            if value is None:
                raise DataError(f"function '{self._target}' wants a {field}, and sample {request.index} has none")
        return asked

    def _pixels(self, image: Any) -> NDArray[np.uint8]:
        import numpy as np
        from PIL import Image

        array = np.asarray(image.convert("RGB") if isinstance(image, Image.Image) else image)
        if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
            raise DataError(
                f"function '{self._target}' made {_kind(image)}: a PIL image or an array uint8 [H,W,3] is wanted"
            )
        return np.ascontiguousarray(array)


def _kind(value: Any) -> str:
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        return f"{value.dtype} {list(value.shape)}"
    return f"a {type(value).__name__}"
