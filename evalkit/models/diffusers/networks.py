"""Networks of other origin than a pipeline's folder: VAEs, denoisers, ControlNets, T2I-Adapters.

They lie in a folder of their own, as `save_pretrained` and trainers write it; VAEs and denoisers also in one file,
whose shape the pipeline's part tells.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evalkit.errors import ConfigError, DataError
from evalkit.models.diffusers.checkpoint import INDEX, Checkpoint, Component, dtype_of, read_header, read_json
from evalkit.models.diffusers.sampling import DENOISERS, quiet
from evalkit.models.diffusers.single_file import is_single_file, whole
from evalkit.utils.devices import is_out_of_memory
from evalkit.utils.files import sha256_file, sha256_json
from evalkit.utils.hub import WeightsLocation
from evalkit.utils.text import one_line

log = logging.getLogger(__name__)

_CONFIG = "config.json"
_STEM = "diffusion_pytorch_model"
_KINDS = {"controlnet": "ControlNet", "t2i_adapter": "Adapter", "vae": "Autoencoder"}  # how their classes are called
_EMA = "_ema"  # what diffusers' trainers add to a folder's name


_FAILURES = (OSError, ValueError, TypeError, AttributeError, ImportError, KeyError, RuntimeError)


@contextmanager
def loading(who: object) -> Iterator[None]:
    """Keeps diffusers quiet while it loads; what it raises, but for a full memory, becomes a DataError of one line."""
    with quiet():
        try:
            yield
        except DataError:
            raise
        except _FAILURES as error:
            if is_out_of_memory(error):
                raise
            raise DataError(f"{who} cannot be loaded: {one_line(error)}") from error


@dataclass(frozen=True)
class Network:
    """One network.

    Attributes:
        option: that names it ("controlnet", "t2i_adapter", "vae", "denoiser"), or "model" where it is all that the
            model has.
        location: its folder, or its repository.
        subfolder: where it lies in there.
        variant: see Checkpoint.
    """

    option: str
    location: WeightsLocation
    subfolder: str | None = None
    variant: str | None = None  # ControlNets and the like have none: they are brought to the pipeline's dtype

    @classmethod
    def read(cls, option: str, entry: Any) -> Network:
        """From an option as `WeightsLocation.read` takes it; of a path to a whole pipeline, its VAE."""
        location = WeightsLocation.read(option, entry)
        whole = option == "vae" and not location.on_hub and (location.local / INDEX).is_file()
        return cls(option, location, "vae" if whole else None)

    @classmethod
    def read_denoiser(cls, entry: Any, ema: bool) -> Network:
        """From an option; of a trainer's checkpoint its `unet` or `transformer`, or with `ema` its `unet_ema`."""
        location = WeightsLocation.read("denoiser", entry)
        folder = location.local
        if location.on_hub or (folder / _CONFIG).is_file():
            return cls("denoiser", location)
        names = [name for name in DENOISERS for tail in ("", _EMA) if (folder / f"{name}{tail}").is_dir()]
        return cls("denoiser", location, f"{names[0]}{_EMA if ema else ''}" if names else None)

    @property
    def is_file(self) -> bool:
        """Whether it lies in one file, next to no configuration."""
        return self.option in ("vae", "denoiser") and is_single_file(self.location.path)

    def part_of(self, base: Checkpoint, who: str) -> Component:
        """The part of a pipeline that a VAE or denoiser takes the place of. ConfigError: there is none like it."""
        wanted = ("vae",) if self.option == "vae" else DENOISERS
        parts = [part for part in base.components() if part.name in wanted]
        if not parts:
            raise ConfigError(f"{self.option}: {who} has no {' or '.join(wanted[:2])} to exchange")
        if self.is_file or self.option == "vae" or self.location.on_hub:
            return parts[0]
        cls = str(self.config().get("_class_name"))
        fitting = [part for part in parts if part.class_name == cls]
        if not fitting:
            raise ConfigError(f"{self} is a {cls}, and {who} has a {parts[0].class_name}")
        return fitting[0]

    def __str__(self) -> str:
        return f"{self.option} '{self.location.path}{f'/{self.subfolder}' if self.subfolder else ''}'"

    def check(self, *, fetch: bool) -> None:
        """Looks for the files, as `Model.check`; of a repository as `WeightsLocation.check`."""
        if self.is_file:
            if not self.location.local.is_file():
                raise ConfigError(f"{self}: there is no such file")
            read_header(self.location.local)
            return
        if self.location.on_hub:
            self.location.check(self._inside(_CONFIG), fetch=fetch)
            return
        if self.subfolder in DENOISERS and (self.location.local / f"{self.subfolder}{_EMA}").is_dir():
            log.info("%s: %s%s is there too: ema: true takes it", self, self.subfolder, _EMA)
        for file in self._files()[1:]:
            read_header(file)

    def identity(self) -> Any:
        """Digest of the local files, or hub id and revision."""
        if self.is_file:
            return sha256_file(self.location.local)
        if self.location.on_hub:
            return self.location.hub_identity(**({"subfolder": self.subfolder} if self.option == "model" else {}))
        # The cell's keys were made so: those of a pipeline's other VAE without the files' names.
        named = self.option != "vae"
        return sha256_json([[f.name, sha256_file(f)] if named else sha256_file(f) for f in self._files()])

    def stored_dtype(self) -> str | None:
        """The dtype that its weights are stored in; none: they are on the hub."""
        if self.location.on_hub and not self.is_file:
            return None
        return dtype_of(read_header(self.location.local if self.is_file else self._files()[1]))

    def config(self, root: Path | None = None) -> dict[str, Any]:
        """Its config.json, of the local folder or of the one that `fetched` gave.

        Raises:
            ConfigError: there is none, or it is that of another kind of network.
        """
        file = (root or self.location.local) / self._inside(_CONFIG)
        if not file.is_file():
            within = self.option == "model" and (file.parent / "vae").is_dir()
            hint = " (of a pipeline the autoencoder is subfolder=vae)" if within else ""
            raise ConfigError(
                f"{self}: {file} is missing; give a folder that save_pretrained wrote{hint}, or a hub id (owner/name)"
            )
        config = read_json(file)
        kind = _KINDS.get(self.option, "")
        if kind not in str(config.get("_class_name")):
            raise ConfigError(f"{self} is a {config.get('_class_name')}, no {kind}: {file} says so")
        return config

    def fetched(self) -> Path:
        """Where its files are, fetched if need be. ConfigError: they cannot be had."""
        names = [_CONFIG]
        for tail in ("", f".{self.variant}") if self.variant else ("",):
            names += [f"{_STEM}{tail}{rest}" for rest in (".safetensors", "-*.safetensors")]
            names += [f"{_STEM}.safetensors.index{tail}.json"]
        return self.location.get([self._inside(name) for name in names])

    def diffusers_class(self, root: Path | None = None) -> Any:
        """Its class. ConfigError: this diffusers has none of that name."""
        import diffusers

        name = str(self.config(root).get("_class_name"))
        if not hasattr(diffusers, name):
            raise ConfigError(f"{self}: diffusers {diffusers.__version__} has no {name}: install a newer one")
        return getattr(diffusers, name)

    def load(self, options: Mapping[str, Any], like: Component | None = None) -> Any:
        """The network on the CPU, in evaluation mode. Raises as `Model.load`.

        Args:
            options: go to diffusers' `from_pretrained` (the dtype).
            like: the part that it takes the place of, whose configuration a single file needs.
        """
        if self.is_file:
            return self._load_file(options, like)
        root = self.fetched()
        cls, folder = self.diffusers_class(root), (root / self._inside(_CONFIG)).parent
        offline = {"use_safetensors": True, "local_files_only": True, "variant": self.variant}
        with loading(self):
            return cls.from_pretrained(str(folder), **offline, **options).eval()

    def _load_file(self, options: Mapping[str, Any], like: Component | None) -> Any:
        import diffusers

        assert like is not None, "a single file is loaded in place of a part"
        cls = getattr(diffusers, like.class_name)
        if not hasattr(cls, "from_single_file"):
            raise ConfigError(f"{self}: diffusers reads no {like.class_name} from a single file: give a folder")
        with loading(self), whole(f"{self} does not fit {like.folder}"):
            arguments = {"config": str(like.folder), "local_files_only": True, **options}
            return cls.from_single_file(str(self.location.local), **arguments).eval()

    def _inside(self, name: str) -> str:
        return f"{self.subfolder}/{name}" if self.subfolder else name

    def _files(self) -> list[Path]:
        """config.json and the weight files of the local folder."""
        name = str(self.config().get("_class_name"))
        folder = self.location.local / (self.subfolder or "")
        part = Component(self.option, "diffusers", name, folder)
        return [folder / _CONFIG, *Checkpoint(folder, self.variant).weight_files(part)]


def check_other_vae(vae: Network, base: Checkpoint, who: str) -> None:
    """Compares the latents of a local VAE with those of the one in the local pipeline `base` that it is to replace.

    Raises:
        ConfigError: they do not fit, or the pipeline has none.
    """
    own = base.config_of("vae")
    if not own:
        raise ConfigError(f"{who} has no VAE to exchange: set vae: null")
    if vae.is_file:
        return
    theirs = vae.config()
    for key in ("latent_channels", "in_channels", "out_channels"):
        if key in own and key in theirs and own[key] != theirs[key]:
            raise ConfigError(f"vae: {vae.location.path} has {key}={theirs[key]}, that of {who} has {own[key]}")
    if len(own.get("block_out_channels", [])) != len(theirs.get("block_out_channels", [])):
        raise ConfigError(f"vae: {vae.location.path} shrinks images by another factor than that of {who}")


def check_other_denoiser(denoiser: Network, base: Checkpoint, who: str) -> None:
    """Compares what a local denoiser takes with what that of the local pipeline `base` takes. ConfigError: other."""
    part = denoiser.part_of(base, who)
    own, theirs = base.config_of(part.name), {} if denoiser.is_file else denoiser.config()
    for key in ("in_channels", "out_channels", "cross_attention_dim", "joint_attention_dim"):
        if key in own and key in theirs and own[key] != theirs[key]:
            raise ConfigError(f"{denoiser} has {key}={theirs[key]}, that of {who} has {own[key]}")
