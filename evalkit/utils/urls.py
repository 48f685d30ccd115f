"""URLs that fsspec opens: their file systems, tries again after failures that may pass, and errors of one line.

Keys come from the environment or fsspec's own configuration, never from a URL: URLs are written into results.
"""

from __future__ import annotations

import functools
import random
import re
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar
from urllib.parse import parse_qsl, urlsplit

from evalkit.errors import ConfigError, DataError, EvalkitError, ServiceError, nearest

WAITS = (0.5, 2.0)  # seconds before the second and the third try

URL = re.compile(r"([a-z][a-z0-9+.-]*)(?:://|::)")
LOCAL = ("file", "local")
_KEYS = re.compile(r"sig$|signature|token|key|secret|credential|passw|^auth", re.IGNORECASE)
_QUERY = re.compile(r"(https?://[^\s'\"?]+)\?[^\s'\"]*")  # a server may redirect to a URL that is signed
_PACKAGES = {
    **dict.fromkeys(("s3", "s3a"), "s3fs"),
    **dict.fromkeys(("gs", "gcs"), "gcsfs"),
    **dict.fromkeys(("abfs", "abfss", "az", "adl"), "adlfs"),
    **dict.fromkeys(("http", "https"), "aiohttp"),
    **dict.fromkeys(("sftp", "ssh"), "paramiko"),
    "hf": "huggingface-hub",
    "webdav": "webdav4",
    "smb": "smbprotocol",
    "oss": "ossfs",
}
_AGAIN = (408, 409, 425, 429)  # answers that say: later. 409: another writes the same key just now

T = TypeVar("T")


def refuse_keys(url: str) -> None:
    """Raises ConfigError where a URL holds a password or a key."""
    parts = urlsplit(url.rpartition("::")[2])
    if parts.password or any(_KEYS.search(name) for name, _ in parse_qsl(parts.query, keep_blank_values=True)):
        where = f"{parts.scheme}://{parts.hostname or ''}{parts.path}"
        raise ConfigError(
            f"{where}: the URL holds a key, which would be written into the results: give it in the environment, or in "
            "fsspec's configuration (docs/formats.md)"
        )


def scheme_of(url: str) -> str:
    """The last one of a chain such as simplecache::s3://...: what is asked over the network."""
    match = URL.match(url.rpartition("::")[2])
    return match[1] if match else url.partition("::")[0]


@functools.lru_cache(maxsize=64)
def filesystem(url: str) -> tuple[Any, str]:
    """fsspec's file system and the path in it."""
    return open_filesystem(url)


def open_filesystem(url: str, **options: Any) -> tuple[Any, str]:
    """fsspec's file system, made with options, and the path in it; fsspec itself keeps one per set of options.

    Raises:
        ConfigError: there is no such protocol, or its package is missing.
    """
    import fsspec

    try:
        fs, path = fsspec.core.url_to_fs(url, **options)
    except Exception as error:  # whatever building a client raises: no credentials, no package, no such protocol
        raise explain(url, error) from error
    return fs, str(path)


def persist(
    url: str, action: Callable[[], T], waits: Sequence[float] | None = None, passing: tuple[type[Exception], ...] = ()
) -> T:
    """What `action` returns; failures that may pass are tried again.

    Args:
        url: for messages.
        action: what is tried.
        waits: seconds before each further try, at most (half to all of it: many are not to come at once); none: WAITS.
        passing: errors that are answers, raised as they are.
    """
    for wait in (*(WAITS if waits is None else waits), None):
        try:
            return action()
        except Exception as error:  # file systems raise whatever their clients do
            if isinstance(error, (EvalkitError, *passing)):
                raise
            explained = explain(url, error)
            status = _status(error)
            # A server that refused gives the same answer again.
            final = status == 501 or (status is not None and 400 <= status < 500 and status not in _AGAIN)
            if wait is None or not isinstance(explained, ServiceError) or final:
                raise explained from error
            time.sleep(wait * random.uniform(0.5, 1))
    raise AssertionError


def _status(error: BaseException) -> int | None:
    """The HTTP status behind an error, where one is known: aiohttp's, or botocore's below s3fs' translation."""
    for each in (error, error.__cause__):
        response = getattr(each, "response", None)
        about = response.get("ResponseMetadata", {}) if isinstance(response, dict) else {}
        for status in (getattr(each, "status", None), about.get("HTTPStatusCode")):
            if isinstance(status, int):
                return status
    return None


def explain(url: str, error: Exception) -> EvalkitError:
    """One line about an error of a file system."""
    scheme, reason = scheme_of(url), _QUERY.sub(r"\1", " ".join(str(error).split()))[:200] or type(error).__name__
    if isinstance(error, EvalkitError):
        return error
    if isinstance(error, ImportError):
        package = _PACKAGES.get(scheme)
        how = f"pip install {package}" if package else reason
        return ConfigError(f"{url}: {scheme}:// needs a package that is not installed: {how}")
    if isinstance(error, ValueError) and "rotocol not known" in reason:
        from fsspec.registry import known_implementations

        return ConfigError(f"{url}: no such protocol. {nearest(scheme, known_implementations)}")
    hidden = error.__cause__  # fsspec says of a server that does not answer that the file is not there
    absent = isinstance(hidden, FileNotFoundError | KeyError) or _status(error) in (404, 410)
    if isinstance(error, FileNotFoundError) and isinstance(hidden, Exception) and not absent:
        return explain(url, hidden)
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return ConfigError(f"{url}: nothing is there (no such file, folder or bucket): check the URL")
    if isinstance(error, IsADirectoryError):
        return ConfigError(f"{url}: is a folder, not a file: check the URL")
    if isinstance(error, PermissionError) or "Credentials" in type(error).__name__:
        return ConfigError(f"{url}: access is refused: {reason}: check the keys in the environment")
    if isinstance(error, ValueError) and ("range requests" in reason or "streaming HTTP" in reason):
        return DataError(f"{url}: the server cannot give parts of a file: {whole_hint(url)}")
    return ServiceError(f"{url}: cannot be read or written: {reason}: run again when it can; what is finished is kept")


def whole_hint(url: str) -> str:
    """The tail of an error line: how a file is had that cannot be read in parts."""
    return f"download it, or give simplecache::{url.rpartition('::')[2]}, which does so"
