"""`evalkit init`: files to start from."""

from __future__ import annotations

import os
from pathlib import Path

from evalkit.errors import EXIT_DONE, ConfigError
from evalkit.utils.files import write_text

_TEMPLATES = Path(__file__).parent / "templates"
_PLACES = {  # by template, where it goes below the folder
    "eval/experiment/mine.yaml": "eval/experiment/mine.yaml",
    "eval/gate/mine.yaml": "eval/gate/mine.yaml",
    "eval/prompts.txt": "eval/prompts.txt",
    "workflows/evalkit.yml": ".github/workflows/evalkit.yml",
}


def write_starter(folder: Path) -> int:
    """Writes an experiment, a gate, prompts and a workflow below a folder; files that are there stay as they are.

    Returns:
        The exit code.

    Raises:
        ConfigError: the folder is a file, or cannot be written.
    """
    for template, place in _PLACES.items():
        path = folder.expanduser() / place
        if os.path.lexists(path):
            print(f"{path} is there: left as it is")
            continue
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, (_TEMPLATES / template).read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"{path} cannot be written ({error.strerror}): give another folder") from error
        print(f"{path} written")
    here = folder.expanduser().resolve() == Path.cwd()
    print(f"Next: {'' if here else f'cd {folder} && '}evalkit --config-dir eval experiment=mine dry_run=true")
    return EXIT_DONE
