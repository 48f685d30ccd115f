"""Which files of prompts a path stands for, and the entries of one that is a table."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from evalkit.data.concat import expand, natural_key
from evalkit.errors import ConfigError, DataError
from evalkit.prompts.shapes import Captions, Entry, json_entries
from evalkit.utils.files import MAX_TEXT_BYTES, read_file, resolve_path
from evalkit.utils.json_files import parse_json
from evalkit.utils.tables import decode_text, lines_of, parse_table, table_kind

Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
_LINES_OF_ONE = 20  # of a prompt that is a file; what has more is a list of prompts
_TABLES = (".csv", ".tsv", ".tab", ".json", ".jsonl", ".ndjson")


def prompt_files(path: Paths, *, folders: bool) -> list[Path]:
    """The files that a path, a pattern or a list of these stands for, in this order; a pattern's in natural order.

    Args:
        path: as in the configuration.
        folders: whether a folder may be one of them.

    Raises:
        ConfigError: one is missing, or is a folder (or a folder without .txt files).
    """
    files: list[Path] = []
    for one in [path] if isinstance(path, str | os.PathLike) else path:
        place = resolve_path(one)
        for file in expand(place) or [place]:
            assert isinstance(file, Path)  # `expand` gives what it is given
            if file.is_dir() and folders:
                text_files(file)
            elif not file.is_file():
                what = "is a folder" if file.is_dir() else "is missing"
                hint = ""
                if file.is_dir():
                    hint = f" ({file}/*.jsonl for its tables; prompts=[text] reads a folder of .txt files)"
                raise ConfigError(f"prompts: the file {file} {what}: give the path of a file of prompts{hint}")
            files.append(file)
    if not files:
        raise ConfigError("prompts: path is an empty list: give a file of prompts")
    return files


def text_files(folder: Path) -> list[Path]:
    """A folder's .txt files in natural order. ConfigError: it has none; the message names what it has."""
    files = [file for file in folder.iterdir() if file.is_file() and not file.name.startswith(".")]
    texts = [file for file in files if file.suffix.lower() == ".txt"]
    if not texts:
        example = f", such as {min(file.name for file in files)}" if files else ""
        raise ConfigError(f"prompts: {folder}: no .txt files in it, but {len(files)} others{example}")
    return sorted(texts, key=lambda file: natural_key(file.name))


def table_entries(file: Path, text: str | None, delimiter: str, captions: Captions) -> Iterator[Entry]:
    """The prompts of a table or a JSON file, in its order; arguments as of `evalkit.prompts.sets.TablePrompts`."""
    data = read_file(file)
    content = decode_text(file, data)
    if table_kind(file, content, delimiter) == "json":
        yield from json_entries(file, parse_json(content, file), text, captions)
        return
    if captions.split is not None:
        raise ConfigError(f"{file}: split={captions.split}: only Karpathy's layout (.json) has splits")
    for line, row in parse_table(file, data, delimiter):
        yield Entry(f"{file}:{line}", row)


def text_prompts(file: Path) -> list[str]:
    """The prompts of a text file, one per line; or of a folder, one per .txt file."""
    if not file.is_dir():
        if file.suffix.lower() in _TABLES:
            raise ConfigError(
                f"{file}: a table, not a text of a prompt per line: prompts=[table] prompts.table.path=..."
            )
        lines = [line.strip() for line in lines_of(decode_text(file, read_file(file)))]
        if not any(lines):
            raise DataError(f"{file}: no prompts: the file is empty or all its lines are blank")
        return [line for line in lines if line]
    texts = []
    for inner in text_files(file):
        text = decode_text(inner, read_file(inner, MAX_TEXT_BYTES)).strip()
        if not text:
            raise DataError(f"{inner}: blank, and each file of a folder is one prompt: write it, or take it out")
        if len(lines_of(text)) > _LINES_OF_ONE:
            raise DataError(
                f"{inner}: {len(lines_of(text))} lines, and each file of a folder is one prompt: for files of a prompt "
                f"per line give the pattern {file}/*.txt"
            )
        texts.append(text)
    return texts
