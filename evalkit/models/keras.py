"""Keras 3: a generator saved as .keras, and text-to-image tasks of KerasHub; on torch, JAX or TensorFlow.

The backend is that of Keras' own environment variable KERAS_BACKEND, torch where it is not set (Keras' own default,
TensorFlow, is seldom there). Keras reads it once, when it is imported: it is imported by `load`.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from evalkit.config.build import locate
from evalkit.errors import ConfigError, DataError, nearest
from evalkit.models.base import Generated, Model, Request, Sampler, Settings
from evalkit.models.gan import source_digest
from evalkit.models.latent import GanModel, cannot_take
from evalkit.utils.files import resolve_path, sha256_file, sha256_json
from evalkit.utils.text import one_line

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

VARIABLE = "KERAS_BACKEND"
BACKENDS = ("torch", "jax", "tensorflow")
DATA_FORMATS = ("channels_last", "channels_first")  # Keras' own names
_MEMBERS = ("config.json", "model.weights.h5")
_LONGEST_CONFIG = 100_000_000  # bytes
_OWN = ("keras", "builtins")  # modules that a file may name without running code of others


def backend() -> str:
    """The backend that Keras will have. ConfigError: it is not known, or its package or Keras is not installed."""
    name = os.environ.get(VARIABLE) or "torch"
    if name not in BACKENDS:
        raise ConfigError(f"{VARIABLE}={name} is not known. {nearest(name, BACKENDS)}")
    for package in ("keras", name):
        if importlib.util.find_spec(package) is None:
            why = f" ({VARIABLE}={name})" if package == name else ""
            raise ConfigError(f"model keras needs the package {package}{why}: pip install {package}")
    return name


def import_keras() -> Any:
    """Keras, on the backend asked for. ConfigError: it was imported on another one before."""
    wanted = backend()
    if "keras" not in sys.modules:
        os.environ[VARIABLE] = wanted
    import keras

    if keras.backend.backend() != wanted:
        raise ConfigError(
            f"{VARIABLE}={wanted}, but Keras runs on {keras.backend.backend()} in this process: it was imported "
            f"before; set {VARIABLE} in the environment that evalkit is started in"
        )
    return keras


class KerasModel(GanModel):
    """A generator saved by `model.save("g.keras")`: latents, and class labels where there are classes, -> images.

    Latents are drawn on the CPU from each sample's own generator, as for all models: they depend on neither backend nor
    batch.

    Args:
        path: the .keras file.
        data_format: "channels_last", [B,H,W,3], or "channels_first", [B,3,H,W]; grey images have one channel.
        latent_dim, latent, num_classes, class_input, output_range: see GanModel in latent.py.
        safe_mode: false runs Python code that the file holds (Lambda layers): only for a file that you trust.
        custom_objects: classes of your own that the file names: {Name: package.module.Class}.

    Call setting `truncation`: see TorchModuleModel.
    """

    weights_option = "path"
    remakes = ("again", "batch_size")

    def __init__(
        self,
        path: str,
        data_format: str = "channels_last",
        latent_dim: int | Sequence[int] = 128,
        latent: Literal["normal", "uniform"] = "normal",
        num_classes: int | None = None,
        class_input: Literal["index", "one_hot"] = "index",
        output_range: Sequence[float] = (-1, 1),
        safe_mode: bool = True,
        custom_objects: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(latent_dim, latent, num_classes, class_input, output_range)
        if data_format not in DATA_FORMATS:
            raise ConfigError(f"data_format '{data_format}' is not known. {nearest(data_format, DATA_FORMATS)}")
        self.path, self.data_format, self.safe_mode = str(path), data_format, safe_mode
        self.custom_objects = dict(custom_objects or {})
        self._net: Any = None
        self._device = "cpu"

    @property
    def _file(self) -> Path:
        return resolve_path(self.path)

    def check(self, *, fetch: bool = True) -> None:
        """Looks for Keras and its backend, and at what the file holds, without importing either.

        Raises:
            ConfigError: they or the file are missing, or the file holds code that was not allowed.
            DataError: it is no .keras file.
        """
        backend()
        if not self._file.is_file():
            raise ConfigError(f"model keras: there is no file {self.path}")
        if self._file.suffix != ".keras":
            raise ConfigError(f"{self.path} is no .keras file: load it where it was made, and model.save('g.keras')")
        for name, target in self.custom_objects.items():
            if importlib.util.find_spec(target.partition(".")[0]) is None:
                raise ConfigError(f"custom_objects.{name}: there is no package '{target.partition('.')[0]}'")
        foreign = sorted(set(_foreign(read_config(self._file))) - self.custom_objects.keys())
        code = [name for name in foreign if name in ("Lambda", "__lambda__")]
        if code and self.safe_mode:
            raise ConfigError(
                f"{self.path} holds Python code (a Lambda layer), which is not run; if you trust it: safe_mode: false"
            )
        if others := [name for name in foreign if name not in code]:
            raise ConfigError(
                f"{self.path} has layers that are not Keras' own: give custom_objects="
                f"'{{{', '.join(f'{name}: package.module.{name}' for name in others)}}}'"
            )

    def identity(self) -> dict[str, Any]:
        """Digest of the file, and all that goes into a call; the backend too, since it rounds in its own way."""
        own = {name: [target, source_digest(target)] for name, target in self.custom_objects.items()}
        about = {"data_format": self.data_format, "custom_objects": own, "backend": backend()}
        return {"kind": "keras generator", "weights": sha256_file(self._file), **about, **self._about_latents()}

    def load(self, device: str) -> None:
        """Imports Keras and loads the model."""
        keras = import_keras()
        self._device = device
        objects = {name: locate(target) for name, target in self.custom_objects.items()}
        try:
            with self._on_device():
                self._net = keras.saving.load_model(
                    str(self._file), custom_objects=objects, compile=False, safe_mode=self.safe_mode
                )
        except (ValueError, TypeError, OSError, KeyError, ImportError, AttributeError) as error:
            raise DataError(f"{self.path} cannot be loaded: {one_line(error)}") from error

    def _on_device(self) -> AbstractContextManager[Any]:
        import keras

        kind = {"cpu": "cpu:0", "cuda": "gpu:0"}.get(self._device.partition(":")[0])
        scope: AbstractContextManager[Any] = keras.device(kind) if kind is not None else nullcontext()
        return scope

    def unload(self) -> None:
        self._net = None

    @property
    def _loaded(self) -> bool:
        return self._net is not None

    def _output(self, latents: Tensor, labels: Tensor | None, *, space: str, settings: Settings) -> Any:
        import keras
        import torch

        z = latents.numpy()
        given = z if labels is None else [z, labels.numpy()]
        try:
            with self._on_device(), torch.no_grad():
                made = self._net(given, training=False)
        except (ValueError, TypeError, RuntimeError) as error:
            raise cannot_take([x for x in (latents, labels) if x is not None], error) from error
        images = torch.from_numpy(keras.ops.convert_to_numpy(made).copy())  # [B,H,W,C] or [B,C,H,W]
        if self.data_format == "channels_last" and images.ndim == 4:
            images = images.permute(0, 3, 1, 2)
        return images


def read_config(file: Path) -> Any:
    """The model's configuration in a .keras file. DataError: it is no such file."""
    try:
        with zipfile.ZipFile(file) as archive:
            missing = [name for name in _MEMBERS if name not in archive.namelist()]
            if missing:
                raise DataError(f"{file} is no .keras file: it holds no {missing[0]}")
            with archive.open("config.json") as opened:
                text = opened.read(_LONGEST_CONFIG + 1)
        if len(text) > _LONGEST_CONFIG:
            raise DataError(f"{file}: its config.json is longer than {_LONGEST_CONFIG:,} bytes")
        return json.loads(text)
    except DataError:
        raise
    except Exception as error:  # zipfile raises anything on a damaged archive
        raise DataError(f"{file} is no .keras file, or its end is missing: {one_line(error)}") from error


def _foreign(config: Any) -> Iterator[str]:
    """Names of classes and functions in a configuration that are not Keras' own, or hold code (Lambda layers)."""
    todo = [config]
    while todo:
        node = todo.pop()
        if not isinstance(node, Mapping):
            todo += node if isinstance(node, list) else []
            continue
        todo += node.values()
        name, module, registered = (node.get(key) for key in ("class_name", "module", "registered_name"))
        if not isinstance(name, str):
            continue
        outside = isinstance(module, str) and module.partition(".")[0] not in _OWN
        own = module is None and isinstance(registered, str) and ">" in registered
        if name in ("Lambda", "__lambda__") or outside or own:
            yield name


class KerasHubModel(Model):
    """A text-to-image task of KerasHub: `keras_hub.models.TextToImage.from_preset(path).generate(prompt, ...)`.

    The task draws its noise itself, from the seed that it is given; of a batch all images share one, so each is made
    alone. The noise is of the backend's own generator: on another one the images are others.

    Args:
        path: a folder that `task.save_to_preset` wrote, or what KerasHub takes else ("stable_diffusion_3_medium").

    Call settings: num_steps, guidance_scale; negative prompts are handed on.
    """

    conditioning = "text"
    weights_option = "path"
    call_settings = frozenset({"num_steps", "guidance_scale", "negative_prompt"})

    def __init__(self, path: str) -> None:
        self.path = str(path)
        self._task: Any = None

    @property
    def _folder(self) -> Path | None:
        folder = resolve_path(self.path)
        return folder if folder.is_dir() else None

    def check(self, *, fetch: bool = True) -> None:
        """Raises ConfigError where KerasHub, its backend or the folder is missing."""
        backend()
        if importlib.util.find_spec("keras_hub") is None:
            raise ConfigError("model keras_hub needs the package keras-hub: pip install keras-hub")
        local = Path(self.path).is_absolute() or self.path.startswith((".", "~"))
        if self._folder is None and (local or not fetch):
            raise ConfigError(f"model keras_hub: there is no folder {self.path}; give one that save_to_preset wrote")

    def identity(self) -> dict[str, Any]:
        """Digest of the folder's files, or the preset's name; with the backend, which draws the noise."""
        folder = self._folder
        files = sorted(f for f in folder.rglob("*") if f.is_file()) if folder is not None else []
        digests = [[str(f.relative_to(folder or f)), sha256_file(f)] for f in files]
        return {"kind": "keras_hub", "weights": sha256_json(digests) if files else self.path, "backend": backend()}

    def load(self, device: str) -> None:
        """Imports KerasHub and loads the task; the device is the backend's own matter."""
        import_keras()
        import keras_hub

        try:
            self._task = keras_hub.models.TextToImage.from_preset(str(self._folder or self.path))
        except (ValueError, TypeError, OSError, KeyError, ImportError, AttributeError) as error:
            raise DataError(f"model keras_hub: {self.path} cannot be loaded: {one_line(error)}") from error

    def unload(self) -> None:
        self._task = None

    def generate(self, requests: Sequence[Request], *, sampler: Sampler | None, settings: Settings) -> Generated:
        """One call per request, with its own seed."""
        import numpy as np

        if self._task is None:
            raise RuntimeError("load() comes before generate()")
        options = {name: value for name, value in settings.items() if value is not None and name != "negative_prompt"}
        return Generated(np.concatenate([self._one(request, settings, options) for request in requests]), None)

    def _one(self, request: Request, settings: Settings, options: Mapping[str, Any]) -> NDArray[np.uint8]:
        """u8 [1,H,W,3]."""
        import numpy as np

        if request.prompt is None:
            raise DataError(f"model keras_hub wants a prompt, and sample {request.index} has none")
        negative = request.negative_prompt or settings.get("negative_prompt")
        asked: Any = request.prompt
        if negative:
            asked = {"prompts": [request.prompt], "negative_prompts": [negative]}
        try:
            made = np.asarray(self._task.generate(asked, seed=request.seed32(), **options))
        except (ValueError, TypeError) as error:
            raise ConfigError(f"model keras_hub: {one_line(error)}") from error
        images = made[None] if made.ndim == 3 else made
        if images.dtype != np.uint8 or images.shape[0] != 1 or images.shape[-1] != 3:
            raise DataError(f"model keras_hub: the task gave {images.dtype} {list(made.shape)}, not uint8 [H,W,3]")
        return images
