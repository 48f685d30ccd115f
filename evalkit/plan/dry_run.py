"""What a dry run finds missing: weights and images that a run would stop for, or fetch. All of it is told at once."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from evalkit.errors import ConfigError

_NO_FETCH = re.compile(r"extractor\.\w+\.download=false")  # set by the dry run, not by the user


class Missing:
    """Notes what is missing, where `dry`; else the first thing that is missing ends the run, as it should."""

    def __init__(self, dry: bool = False) -> None:
        self.dry = dry
        self.lines: list[str] = []

    def of(self, *whats: str) -> bool:
        """Whether any of these is missing."""
        return any(line.partition(":")[0] in whats for line in self.lines)

    @contextmanager
    def noted(self, what: str) -> Iterator[None]:
        """In a dry run a ConfigError inside is noted under `what`, and goes no further."""
        try:
            yield
        except ConfigError as error:
            if not self.dry:
                raise
            line = f"{what}: {_NO_FETCH.sub('a dry run fetches nothing', str(error))}"
            if line not in self.lines:  # a model's settings span several cells
                self.lines.append(line)
