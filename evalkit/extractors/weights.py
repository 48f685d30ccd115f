"""Published weights files: given by the user, in a cache, or fetched once; and read without unpickling code."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from evalkit.errors import ConfigError
from evalkit.extractors.base import check_sha256
from evalkit.utils.files import atomic_path, resolve_path, sha256_file

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Published:
    """A weights file on the web, kept in torch's hub cache.

    Attributes:
        what: for messages ("torchvision's AlexNet").
        url: where it is.
        file: its name in the cache.
        sha256: how its digest begins.
    """

    what: str
    url: str
    file: str
    sha256: str

    def find(self, where: str, key: str, given: str | None, sha256: str | None, download: bool) -> Path:
        """The file, there and with the right digest.

        Args:
            where: who asks, for messages ("extractor 'lpips_alex'").
            key: the option that names another file ("extractor.lpips_alex.weights", with its "sha256" beside it).
            given: that option's value: a local file; none: the published one.
            sha256: what the digest must begin with; none: of a given file anything, of the published one its own.
            download: whether the published file is fetched where it is not in the cache.

        Raises:
            ConfigError: the file is not there, or has another digest.
        """
        sha256_key = f"{key.removesuffix('.weights')}.sha256" if key.endswith(".weights") else f"{key}_sha256"
        if given is not None:
            file = resolve_path(given)
            if not file.is_file():
                raise ConfigError(f"{where}: there is no weights file {file} ({key})")
            check_sha256(where, file, sha256, sha256_key)
            return file
        file = hub_folder() / self.file
        if file.is_file():
            check_sha256(where, file, sha256 or self.sha256, sha256_key)
            return file
        reason = f"{key.rpartition('.')[0]}.download=false"
        if download:
            try:
                fetch(self.url, file, self.sha256)
                return file
            except OSError as error:
                reason = f"fetching them failed: {error}"
        raise ConfigError(
            f"{where}: {self.what} weights are not here ({' '.join(reason.split())}): put {self.url} at {file}, "
            f"or give {key}=FILE"
        )

    def is_file(self, file: Path) -> bool:
        """Whether a file is the published one, by its digest."""
        return sha256_file(file).startswith(self.sha256)


@dataclass(frozen=True)
class HubFile:
    """A file of a Hugging Face repository, at a pinned revision (a commit, tag or branch; none: the main branch)."""

    repo: str
    file: str
    revision: str | None = None

    def find(self, where: str, options: str, download: bool, mend: str) -> Path:
        """The file in the Hugging Face cache, fetched where it may be. Imports no torch.

        Args:
            where: who asks, for messages.
            options: the options' common key ("extractor.clip_vit_b32").
            download: whether it is fetched where it is not in the cache.
            mend: what to do without it ("give extractor.clip_vit_b32.pretrained=FILE").

        Raises:
            ConfigError: it is not in the cache and was not fetched.
        """
        from huggingface_hub import hf_hub_download, try_to_load_from_cache

        cached = try_to_load_from_cache(self.repo, self.file, revision=self.revision)
        if isinstance(cached, str):
            return Path(cached)
        reason = f"{options}.download=false"
        if download:
            try:
                return Path(hf_hub_download(self.repo, self.file, revision=self.revision))
            except Exception as error:  # many kinds: no connection, no such repository, a full disk
                reason = f"fetching it failed: {type(error).__name__}"
        raise ConfigError(
            f"{where}: the weights {self.file} of https://huggingface.co/{self.repo} are not in the Hugging Face "
            f"cache ({reason}): put the file anywhere and {mend}"
        )


def read_state(file: Path, where: str) -> dict[str, Tensor]:
    """The tensors by name of a .safetensors, .pth, .pt or .bin file, on the CPU; the latter with `weights_only=True`.

    Raises:
        ConfigError: the file cannot be read so, or is not a mapping from names to tensors.
    """
    import torch

    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            tensors: dict[str, Tensor] = load_file(str(file))
            return tensors
        state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises many kinds for a broken file
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(f"{where}: {file} cannot be read as a state dict: {reason}") from error
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ConfigError(f"{where}: {file} is not a state dict (a mapping from names to tensors)")
    return state


def hub_folder() -> Path:
    """Where torch.hub keeps checkpoints: `torch.hub.get_dir()`/checkpoints, without importing torch."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache"))
    home = Path(os.environ.get("TORCH_HOME", cache / "torch"))
    return home.expanduser() / "hub" / "checkpoints"


def fetch(url: str, target: Path, sha256: str) -> None:
    """Fetches a file, checks how its sha256 begins, and puts it in place whole or not at all.

    Raises:
        OSError: no connection, no such file, nowhere to write, or another sha256 than asked for.
    """
    import shutil
    import urllib.request

    log.warning("fetching %s", url)
    with atomic_path(target) as temporary:
        with urllib.request.urlopen(url, timeout=30) as source, temporary.open("wb") as file:
            shutil.copyfileobj(source, file)
        found = sha256_file(temporary)
        if not found.startswith(sha256):
            raise OSError(f"what came has sha256 {found[:8]}..., not {sha256}")
