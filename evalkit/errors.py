"""The errors that a user can mend. Each is one line: what is wrong, where, and how to mend it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

EXIT_DONE = 0
EXIT_ERROR = 1
EXIT_CONFIG = 2
EXIT_GATE_FAILED = 3
EXIT_GATE_INCONCLUSIVE = 4
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143  # by SIGTERM


# What a terminal obeys: CSI (colours, the cursor), OSC (titles, links, up to BEL or ST), and the short ones.
_ESCAPES = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]|(?:\x1b[\]PX^_]|\x9d)[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)?|\x1b[ -/]*[0-~]"
)


def printable(text: str) -> str:
    """A text on one line, without what a terminal obeys: names of files and others' messages may hold anything.

    Line breaks and other white space become spaces; terminal escapes, control characters, and characters that cannot be
    seen (of which some turn the direction of writing) are dropped.
    """
    if text.isprintable():
        return text
    words = re.sub(r"\s*[^\S ]\s*", " ", _ESCAPES.sub("", text))
    return "".join(letter for letter in words if letter.isprintable()).strip()


class EvalkitError(Exception):
    """Something went wrong that the user can mend; printed as one line, without a traceback."""

    exit_code = EXIT_ERROR

    def __str__(self) -> str:
        return printable(super().__str__())


class ConfigError(EvalkitError):
    """The configuration is wrong: nothing was started."""

    exit_code = EXIT_CONFIG


class DataError(EvalkitError):
    """An input file is missing, broken or not what it is said to be."""


class UnsuitedError(DataError):
    """One metric or extractor cannot take these images: what needs it has no score, and all else goes on.

    Attributes:
        extractor: the name of the extractor; none: the metrics of bare pixels.
    """

    def __init__(self, message: str, extractor: str | None = None) -> None:
        super().__init__(message)
        self.extractor = extractor


class StoreError(EvalkitError):
    """The store cannot be written or holds something that does not belong there."""


class ReadOnlyError(StoreError):
    """The store takes nothing: it is read-only, or these keys may only read."""


class ServiceError(EvalkitError):
    """A service refuses a request, or failed it as often as was allowed."""


def nearest(word: str, choices: Iterable[str]) -> str:
    """The tail of an error line: `Did you mean 'fid'?`, or the choices where nothing is near."""
    names = sorted(set(choices))
    close = difflib.get_close_matches(word, names, n=3, cutoff=0.6)
    if close:  # of equally near ones that of the same letters: "fdi" is fid, not fld
        swapped = [name for name in close if sorted(name) == sorted(word)]
        return f"Did you mean '{(swapped or close)[0]}'?"
    return f"Choices: {', '.join(names)}." if names else "There are no choices."


def whole_number(value: object, name: str, least: int = 1) -> int:
    """`value` as it is, where it is a whole number >= `least`.

    Raises:
        ConfigError: it is not; `name` says which setting.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigError(f"{name}={value}: give a whole number >= {least}")
    return value
