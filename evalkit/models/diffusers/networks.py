"""Networks that lie in a folder of their own, as `save_pretrained` wrote them: VAEs, ControlNets, T2I-Adapters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evalkit.errors import ConfigError, DataError
from evalkit.models.diffusers.checkpoint import INDEX, Checkpoint, Component, read_header, read_json
from evalkit.models.diffusers.sampling import quiet
from evalkit.models.hub import WeightsLocation
from evalkit.utils.devices import is_out_of_memory
from evalkit.utils.files import sha256_file, sha256_json
from evalkit.utils.text import one_line

_CONFIG = "config.json"
_STEM = "diffusion_pytorch_model"
_KINDS = {"controlnet": "ControlNet", "t2i_adapter": "Adapter", "vae": "Autoencoder"}  # how their classes are called


@contextmanager
def loading(who: object) -> Iterator[None]:
    """Keeps diffusers quiet while it loads; what it raises, but for a full memory, becomes a DataError of one line."""
    with quiet():
        try:
            yield
        except (OSError, ValueError, TypeError, AttributeError, ImportError, KeyError, RuntimeError) as error:
            if is_out_of_memory(error):
                raise
            raise DataError(f"{who} cannot be loaded: {one_line(error)}") from error


@dataclass(frozen=True)
class Network:
    """One network.

    Attributes:
        option: that names it ("controlnet", "t2i_adapter", "vae"), or "model" where it is all that the model has.
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

    def __str__(self) -> str:
        return f"{self.option} '{self.location.path}{f'/{self.subfolder}' if self.subfolder else ''}'"

    def check(self, *, fetch: bool) -> None:
        """Looks for the files, as `Model.check`; of a repository as `WeightsLocation.check`."""
        if self.location.on_hub:
            self.location.check(self._inside(_CONFIG), fetch=fetch)
            return
        for file in self._files()[1:]:
            read_header(file)

    def identity(self) -> Any:
        """Digest of the local files, or hub id and revision."""
        if self.location.on_hub:
            return self.location.hub_identity(**({"subfolder": self.subfolder} if self.option == "model" else {}))
        # The cell's keys were made so: those of a pipeline's other VAE without the files' names.
        named = self.option != "vae"
        return sha256_json([[f.name, sha256_file(f)] if named else sha256_file(f) for f in self._files()])

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

    def load(self, options: Mapping[str, Any]) -> Any:
        """The network on the CPU, in evaluation mode; `options` (the dtype) go to diffusers' `from_pretrained`.

        Raises as `Model.load`.
        """
        root = self.fetched()
        cls, folder = self.diffusers_class(root), (root / self._inside(_CONFIG)).parent
        offline = {"use_safetensors": True, "local_files_only": True, "variant": self.variant}
        with loading(self):
            return cls.from_pretrained(str(folder), **offline, **options).eval()

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
    own, theirs = base.config_of("vae"), vae.config()
    if not own:
        raise ConfigError(f"{who} has no VAE to exchange: set vae: null")
    for key in ("latent_channels", "in_channels", "out_channels"):
        if key in own and key in theirs and own[key] != theirs[key]:
            raise ConfigError(f"vae: {vae.location.path} has {key}={theirs[key]}, that of {who} has {own[key]}")
    if len(own.get("block_out_channels", [])) != len(theirs.get("block_out_channels", [])):
        raise ConfigError(f"vae: {vae.location.path} shrinks images by another factor than that of {who}")
