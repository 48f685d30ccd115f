"""Keys and addresses of services: a key comes from the environment alone, and is in no result, log or error."""

from __future__ import annotations

import base64
import json
import os
import re
import urllib.parse

from evalkit.errors import ConfigError


class Key:
    """A service's key: read from the environment when it is used, stored nowhere, and cut out of every text.

    Args:
        env: the environment variable's name; none: the service wants no key.
        header: the HTTP header that carries it.
        scheme: "Bearer", "Basic" (the variable then holds user:password), or "" for the key alone.
    """

    def __init__(self, env: str | None, header: str = "Authorization", scheme: str | None = "Bearer") -> None:
        # The value is not repeated: people put the key itself here.
        if env is not None and not re.fullmatch(r"[A-Z_][A-Z0-9_]*", str(env)):
            raise ConfigError(
                "api_key_env takes the name of an environment variable that holds the key (capitals, digits and _), "
                "never the key itself"
            )
        scheme = scheme or ""
        if not re.fullmatch(r"[A-Za-z0-9-]+", header) or not re.fullmatch(r"[A-Za-z]*", scheme):
            raise ConfigError("api_key_header and api_key_scheme take names, such as Authorization and Bearer")
        self.env, self.header, self.scheme = env, header, scheme

    def check(self) -> None:
        """ConfigError where the variable is not set, or cannot go into a header."""
        if self.env is None:
            return
        value = os.environ.get(self.env, "").strip()
        if not value:
            raise ConfigError(f"the key is not set: export {self.env}=KEY (or api_key_env=null if there is none)")
        if not value.isascii() or not value.isprintable():
            raise ConfigError(f"the key in {self.env} holds characters that no HTTP header can carry: copy it again")

    def headers(self) -> dict[str, str]:
        value = os.environ.get(self.env, "").strip() if self.env else ""
        if not value:
            return {}
        if self.scheme.lower() == "basic":
            value = base64.b64encode(value.encode()).decode()
        return {self.header: f"{self.scheme} {value}".strip()}

    def redact(self, text: str) -> str:
        """The text with the key, in whatever form it is sent or quoted, replaced by ***."""
        value = os.environ.get(self.env, "").strip() if self.env else ""
        if not value:
            return text
        parts = {value, *(value.split(":", 1) if self.scheme.lower() == "basic" else ())}
        parts |= {base64.b64encode(part.encode()).decode() for part in set(parts)}
        parts |= {urllib.parse.quote(part, safe="") for part in set(parts)} | {json.dumps(p)[1:-1] for p in set(parts)}
        for part in sorted(parts - {""}, key=len, reverse=True):
            text = text.replace(part, "***")
        return text


def check_url(url: str, name: str = "base_url") -> str:
    """A service's address without its last slash.

    Raises:
        ConfigError: it is no http(s) address, or holds a password or a query (it is in every result).
    """
    url = str(url)
    if set(url) & set("@?#"):  # not repeated: a key may be in it
        raise ConfigError(f"{name} holds a user, a password or a query: keys come from the environment (api_key_env)")
    try:
        parts = urllib.parse.urlsplit(url)
        fits = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        fits = False
    if not fits:
        raise ConfigError(f"{name}={url}: give an address such as http://127.0.0.1:8000/v1")
    return url.rstrip("/")
