"""Where a model's weights are: a folder or file, or a repository on the Hugging Face hub, fetched once into its cache.

Every way in which the hub can fail is one line that helps.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evalkit.errors import ConfigError, nearest
from evalkit.utils.files import PKG_SCHEME, resolve_path
from evalkit.utils.text import one_line
from evalkit.utils.weights import DRY_RUN, HubFile

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")  # owner/name


def entries(given: Any) -> list[Any]:
    """What an option names, as a list: none of them, one, or several."""
    return list(given) if isinstance(given, list | tuple) else [] if given is None else [given]


def read_entry(option: str, entry: Any, keys: Collection[str] = ("path", "revision")) -> dict[str, Any]:
    """An option's entry in the YAML, a path or a mapping of `keys` with a `path`, as a mapping.

    Raises:
        ConfigError: it is neither, or has an unknown key (the nearest is offered).
    """
    mapping: Any = {"path": entry} if isinstance(entry, str | os.PathLike) else entry
    if not isinstance(mapping, Mapping) or not mapping.get("path"):
        raise ConfigError(f"{option}: {entry!r} is no path, hub id or mapping such as {{path: owner/name}}")
    for key in mapping:
        if key not in keys:
            raise ConfigError(f"{option}.{key}: no such key. {nearest(str(key), keys)}")
    return {**mapping, "path": os.fspath(mapping["path"])}


@dataclass(frozen=True)
class WeightsLocation:
    """Where weights are.

    Attributes:
        path: a folder or file, "pkg://package/folder", or a hub id ("owner/name") where no such path exists.
        revision: commit, tag or branch of a hub id; none: the main branch.
    """

    path: str
    revision: str | None = None

    @classmethod
    def read(cls, option: str, entry: Any) -> WeightsLocation:
        """From an option: a path, or a mapping such as {path: owner/name, revision: main}. ConfigError: neither."""
        return cls(**read_entry(option, entry))

    @property
    def on_hub(self) -> bool:
        """Whether it is a repository on the hub."""
        is_id = _HUB_ID.fullmatch(self.path) is not None and not self.path.startswith(PKG_SCHEME)
        return is_id and not Path(self.path).expanduser().exists()

    @property
    def local(self) -> Path:
        """The local path of one that is not on the hub."""
        return resolve_path(self.path)

    def hub_identity(self, **more: Any) -> dict[str, Any]:
        """What identifies weights on the hub: repository, revision, and what is read of it."""
        return {"hub": self.path, "revision": self.revision or "main", **more}

    def check(self, file: str, *, fetch: bool = True) -> None:
        """Of a repository: without a network (HF_HUB_OFFLINE), or in a dry run, looks for it in the cache.

        Args:
            file: one of its files.
            fetch: whether what is not in the cache may be fetched later; if not, its absence is a ConfigError.
        """
        offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
        if not self.on_hub or (fetch and not offline) or HubFile(self.path, file, self.revision).cached():
            return
        reason = ", and HF_HUB_OFFLINE is set" if offline else f" ({DRY_RUN})"
        raise ConfigError(f"{self._name} is not in the cache{reason}. {self._by_hand}")

    def get(self, patterns: Sequence[str]) -> Path:
        """The local path, or a folder in the hub's cache with the files that match `patterns`, fetched if need be.

        Raises:
            ConfigError: they cannot be had.
        """
        from huggingface_hub import snapshot_download

        options: dict[str, Any] = {"revision": self.revision, "allow_patterns": list(patterns)}
        return self._fetched(lambda: snapshot_download(self.path, **options))

    def get_pipeline(self, variant: str | None) -> Path:
        """The folder of a pipeline, local or in the hub's cache; what is missing there is fetched. Safetensors alone.

        Raises:
            ConfigError: it cannot be had (offline, gated, no such repository or revision, pickled weights only).
        """
        from diffusers import DiffusionPipeline

        options: dict[str, Any] = {"revision": self.revision, "variant": variant, "use_safetensors": True}
        return self._fetched(lambda: DiffusionPipeline.download(self.path, **options))

    def _fetched(self, download: Callable[[], Any]) -> Path:
        if not self.on_hub:
            return self.local
        try:
            return Path(download())
        except Exception as error:  # requests, httpx, huggingface_hub and diffusers each raise their own
            raise ConfigError(f"{self._name} {self._reason(error)}") from error

    def _reason(self, error: Exception) -> str:
        kinds = {type(e).__name__ for e in _chain(error)}
        page = f"https://huggingface.co/{self.path}"
        if "GatedRepoError" in kinds:
            return f"is gated: accept its licence at {page}, then `hf auth login`"
        if "RevisionNotFoundError" in kinds:
            return f"does not exist: see {page}/commits/main"
        if "RepositoryNotFoundError" in kinds:
            return f"is not on the hub, or is private: see {page}, or `hf auth login`"
        if "safetensors" in str(error):
            return (
                "has no safetensors weights, and pickled ones are never loaded; if you trust them, convert: "
                f"diffusers.DiffusionPipeline.from_pretrained('{self.path}', use_safetensors=False)"
                ".save_pretrained(FOLDER), then path=FOLDER"
            )
        return f"cannot be fetched from the hub ({one_line(error)}). {self._by_hand}"

    @property
    def _name(self) -> str:
        return f"model '{self.path}' (revision {self.revision or 'main'})"

    @property
    def _by_hand(self) -> str:
        pin = f" --revision {self.revision}" if self.revision else ""
        return f"Where there is a network, `hf download {self.path}{pin} --local-dir FOLDER`; here, path=FOLDER."


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and those that led to it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
