"""Where a store holds judges' answers: a folder on this machine, and the same one on the store's URL."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.errors import DataError
from evalkit.utils.files import writing
from evalkit.utils.json_files import read_checked, write_checked

if TYPE_CHECKING:
    from evalkit.utils.blobs import Blobs

ENDING = ".jsonl"
RECORD = "judge.json"


@dataclass(frozen=True)
class AnswerPlace:
    """A store's answers.

    Attributes:
        folder: on this machine.
        remote: where the store is on a URL: the same folder there.
    """

    folder: Path
    remote: Blobs | None = None

    def record(self, name: str) -> dict[str, Any] | None:
        """What was noted under a name; none where nothing was, or it is damaged."""
        if self.remote is not None:
            self._fetch(f"{name}/{RECORD}")
        try:
            return read_checked(self.folder / name / RECORD)
        except (OSError, DataError):
            return None

    def note(self, name: str, value: Mapping[str, Any]) -> None:
        """Notes an object under a name, over what was there. StoreError: it cannot be written."""
        file = self.folder / name / RECORD
        with writing(file):
            file.parent.mkdir(parents=True, exist_ok=True)
            write_checked(file, value)
        if self.remote is not None:
            self.remote.put(f"{name}/{RECORD}", file.read_bytes())

    def _fetch(self, key: str) -> None:
        assert self.remote is not None
        try:
            data = self.remote.get(key)
        except OSError:
            return
        file = self.folder / key
        with writing(file):
            file.parent.mkdir(parents=True, exist_ok=True)
            temporary = file.with_name(f".tmp-{secrets.token_hex(4)}")
            temporary.write_bytes(data)
            temporary.replace(file)

    def fetch_all(self, name: str) -> None:
        """Brings what other machines put below a name onto this one."""
        if self.remote is None:
            return
        for key, _ in self.remote.list(f"{name}/"):
            if key.endswith(ENDING) and not (self.folder / key).exists():
                self._fetch(key)
