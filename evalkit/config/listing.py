"""What the configuration groups hold, read from the YAML files' names and first lines: no Hydra is imported for it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import fields
from importlib.metadata import entry_points
from pathlib import Path

from evalkit.config.schema import CONFIG_MODULE, FOLDERS, GROUPS, SINGLE, WHOLE, RunConfig
from evalkit.utils.files import PKG_SCHEME, resolve_path


def option_files(group: str, config_dir: str | None = None) -> dict[str, Path]:
    """A group's YAML files by option, those of installed packages and of `config_dir` included."""
    packages = [CONFIG_MODULE, *(entry.value for entry in entry_points(group=CONFIG_MODULE))]
    roots = [resolve_path(f"{PKG_SCHEME}{package.replace(':', '.')}") for package in packages]
    roots += [Path(config_dir)] if config_dir else []
    files = [file for root in roots for file in (root / FOLDERS.get(group, group)).glob("*.yaml")]
    return {file.stem: file for file in sorted(files, key=lambda file: file.stem)}


def headline(file: Path) -> str:
    """What an option is: the first sentence of the comment that its file begins with."""
    lines = []
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
        if not line.startswith("#"):
            break
        if not line.startswith("# @package"):
            lines.append(line.lstrip("# ").strip())
    text = re.split(r"(?<!al)\.(?: |$)|:? '?\w+=\[", " ".join(lines))[0]
    return text.rstrip(".: ")


def complete_word(incomplete: str, commands: Sequence[str]) -> list[str]:
    """How a word of a run's command line may go on: a group with its options, a setting, a subcommand."""
    return sorted(text for text in _words(incomplete, commands) if text.startswith(incomplete))


def _words(incomplete: str, commands: Sequence[str]) -> Iterator[str]:
    group, eq, value = incomplete.partition("=")
    if not eq:
        yield from commands
        yield from (f"{name}=" for name in dict.fromkeys([*WHOLE, *(field.name for field in fields(RunConfig))]))
    elif group in (*GROUPS, *WHOLE):
        before = value[: max(value.rfind("["), value.rfind(",")) + 1]  # of a list what is typed already
        start = before if before or group in SINGLE else "["
        yield from (f"{group}={start}{name}" for name in option_files(group))
