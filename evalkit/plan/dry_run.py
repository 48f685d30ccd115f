"""What a dry run finds missing: weights and images that a run would stop for, or fetch. All of it is listed at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from evalkit.errors import ConfigError


class Missing:
    """Notes what is missing, where `dry`; else the first thing that is missing ends the run, as it should."""

    def __init__(self, dry: bool = False) -> None:
        self.dry = dry
        self.lines: list[str] = []

    def any_of(self, *subjects: str) -> bool:
        """Whether any of these is missing."""
        return any(line.partition(":")[0] in subjects for line in self.lines)

    @contextmanager
    def noted(self, subject: str) -> Iterator[None]:
        """In a dry run a ConfigError inside is noted under `subject`, and goes no further."""
        try:
            yield
        except ConfigError as error:
            if not self.dry:
                raise
            line = f"{subject}: {error}"
            if line not in self.lines:  # several models of one option may lack the same file
                self.lines.append(line)
