"""A form with files (multipart/form-data, RFC 7578), as endpoints that take images want it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Form:
    """What a form holds.

    Attributes:
        fields: name -> value; numbers are sent as text, true and false as words.
        files: name -> (the file's name, its bytes, its media type).
    """

    fields: Mapping[str, Any]
    files: Mapping[str, tuple[str, bytes, str]]

    def encode(self) -> tuple[bytes, str]:
        """The body, and its Content-Type."""
        import httpx

        fields = {name: value if isinstance(value, str) else _text(value) for name, value in self.fields.items()}
        request = httpx.Request("POST", "http://form.invalid", data=fields, files=dict(self.files))
        return request.read(), request.headers["Content-Type"]


def _text(value: Any) -> str:
    """Numbers, booleans and mappings as JSON writes them."""
    import json

    return json.dumps(value)
