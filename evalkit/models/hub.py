"""Pipelines on the Hugging Face hub: fetched once into its cache; every way it can fail is one line that helps."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from evalkit.errors import ConfigError
from evalkit.models.diffusers.checkpoint import INDEX

_DRY = False  # whether `check` looks in the cache though there may be a network
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def is_hub_id(path: str) -> bool:
    """Whether `path` has the form of a repository on the hub ("owner/name")."""
    return _HUB_ID.fullmatch(path) is not None


@contextmanager
def cache_alone(dry: bool = True) -> Iterator[None]:
    """Within it, `check` looks in the cache, network or none: a dry run tells what would be fetched."""
    global _DRY
    before, _DRY = _DRY, dry
    try:
        yield
    finally:
        _DRY = before


def check(repo: str, revision: str | None, file: str = INDEX) -> None:
    """Without a network (HF_HUB_OFFLINE), or in a dry run, looks for the pipeline (by one of its files) in the cache.

    Raises:
        ConfigError: it is not there.
    """
    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
    if not offline and not _DRY:
        return
    from huggingface_hub import try_to_load_from_cache

    if not isinstance(try_to_load_from_cache(repo, file, revision=revision), str):
        reason = ", and HF_HUB_OFFLINE is set" if offline else ": a run fetches it"
        raise ConfigError(f"{_name(repo, revision)} is not in the cache{reason}. {_by_hand(repo, revision)}")


def download(repo: str, revision: str | None, variant: str | None) -> Path:
    """The folder of a pipeline in the hub's cache; what is missing there is fetched. Safetensors alone.

    Raises:
        ConfigError: it cannot be had (offline, gated, no such repository or revision, pickled weights only).
    """
    from diffusers import DiffusionPipeline

    try:
        return Path(DiffusionPipeline.download(repo, revision=revision, variant=variant, use_safetensors=True))
    except Exception as error:  # requests, httpx, huggingface_hub and diffusers each raise their own
        raise ConfigError(f"{_name(repo, revision)} {_reason(error, repo, revision)}") from error


def files(repo: str, revision: str | None, patterns: Sequence[str]) -> Path:
    """A folder in the hub's cache that holds a repository's files that match `patterns`; what is missing is fetched.

    Raises:
        ConfigError: they cannot be had.
    """
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repo, revision=revision, allow_patterns=list(patterns)))
    except Exception as error:  # as in `download`
        raise ConfigError(f"{_name(repo, revision)} {_reason(error, repo, revision)}") from error


def _reason(error: Exception, repo: str, revision: str | None) -> str:
    kinds = {type(e).__name__ for e in _chain(error)}
    page = f"https://huggingface.co/{repo}"
    if "GatedRepoError" in kinds:
        return f"is gated: accept its licence at {page}, then `hf auth login`"
    if "RevisionNotFoundError" in kinds:
        return f"does not exist: see {page}/commits/main"
    if "RepositoryNotFoundError" in kinds:
        return f"is not on the hub, or is private: see {page}, or `hf auth login`"
    if "safetensors" in str(error):
        return (
            "has no safetensors weights, and pickled ones are never loaded; if you trust them, convert: "
            f"diffusers.DiffusionPipeline.from_pretrained('{repo}', use_safetensors=False).save_pretrained(FOLDER), "
            "then path=FOLDER"
        )
    from evalkit.utils.text import one_line

    return f"cannot be fetched from the hub ({one_line(error)}). {_by_hand(repo, revision)}"


def _name(repo: str, revision: str | None) -> str:
    return f"model '{repo}' (revision {revision or 'main'})"


def _by_hand(repo: str, revision: str | None) -> str:
    pin = f" --revision {revision}" if revision else ""
    return f"Where there is a network, `hf download {repo}{pin} --local-dir FOLDER`; here, path=FOLDER."


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and those that led to it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
