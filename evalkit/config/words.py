"""The words of a command line: folders of images, a reference, and overrides."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from evalkit.errors import ConfigError, nearest

_OVERRIDE = re.compile(r"(\+{0,2}|~)[A-Za-z_][\w@/.-]*=|~[A-Za-z_][\w@.]*$", re.DOTALL)
_SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".parquet", ".npy", ".npz")  # of files that hold many images


@dataclass(frozen=True)
class Words:
    """What the words of a command line ask for.

    Attributes:
        overrides: those with "=" (or "~").
        folders: by name the places of the images to score.
        reference: where the reference images are, or an option's name; none: as the overrides say.
    """

    overrides: Sequence[str] = ()
    folders: Mapping[str, str] = field(default_factory=dict)
    reference: str | None = None


def read_words(words: Iterable[str], reference: str | None, commands: Sequence[str], models: Sequence[str]) -> Words:
    """Tells overrides from places: `FOLDER`, `FOLDER REFERENCE`, or with `--reference` any number of folders.

    Args:
        words: the command line's, without options.
        reference: that of `--reference`.
        commands, models: names that a misspelt word may have meant.

    Raises:
        ConfigError: a word is neither an override nor a place, or there are too many places.
    """
    overrides, places = [], []
    for word in words:
        if _OVERRIDE.match(word) and not _exists(word):
            overrides.append(word)
        elif _is_place(word):
            places.append(word)
        else:
            raise ConfigError(_no_place(word, commands, models))
    if reference is not None and not _is_place(reference) and not re.fullmatch(r"\w+", reference):
        raise ConfigError(f"--reference {reference}: there is no such folder or file")
    given = any(re.match(r"[+~]*reference[.=]", text) for text in overrides)
    if reference is None and not given and len(places) == 2:
        reference = places.pop()
    elif reference is None and not given and len(places) > 2:
        raise ConfigError(f"{len(places)} folders: which is the reference? Name it: --reference {places[-1]}")
    return Words(overrides, _named(places), reference)


def is_statistics(place: str) -> bool:
    """Whether a file holds a mean and a covariance of features and no images: `reference=stats`."""
    if not place.lower().endswith(".npz") or not Path(place).is_file():
        return False
    try:
        with zipfile.ZipFile(place) as file:
            names = {name.removesuffix(".npy") for name in file.namelist()}
    except (OSError, zipfile.BadZipFile):
        return False  # the reader of images says what is wrong
    return "mu" in names and "arr_0" not in names


def place_name(place: str) -> str:
    """How a place of images is called: its last part, without the suffix of an archive."""
    text = place.partition("?")[0].rstrip("/") if "://" in place else str(Path(place).expanduser().absolute())
    name = re.split(r"[/\\]", text)[-1]
    suffix = next((suffix for suffix in sorted(_SUFFIXES, key=len, reverse=True) if name.lower().endswith(suffix)), "")
    name = name[: len(name) - len(suffix)] or name
    return re.sub(r"[^\w.+-]+", "_", name).strip("._") or "images"


def _is_place(word: str) -> bool:
    pattern = "/" in word and re.search(r"[*?]|\{[^{}]*\}", word)
    return bool("://" in word or pattern or _exists(word))


def _exists(word: str) -> bool:
    try:
        return Path(word).expanduser().exists()
    except (OSError, ValueError, RuntimeError):  # too long for a path, say: a long list of values
        return False


def _named(places: Sequence[str]) -> dict[str, str]:
    """Places by name; equal names get the folder that they lie in, then a number."""
    names = [place_name(place) for place in places]
    if len(set(names)) < len(names):
        names = [f"{place_name(str(Path(p).absolute().parent))}-{name}" for p, name in zip(places, names, strict=True)]
    return {_unused(name, names[:number]): places[number] for number, name in enumerate(names)}


def _unused(name: str, taken: Sequence[str]) -> str:
    return name if name not in taken else f"{name}-{taken.count(name) + 1}"


def _no_place(word: str, commands: Sequence[str], models: Sequence[str]) -> str:
    if word.lower() in (model.lower() for model in models):
        return f"'{word}' is a model's name, and no folder: write 'model=[{word}]'"
    return f"'{word}' is no folder or file that is here, no command, and no KEY=VALUE. {nearest(word, commands)}"
