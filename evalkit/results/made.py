"""When, where and from what state of the caller's code a run's scores were made. Reads files alone, starts nothing."""

from __future__ import annotations

import contextlib
import platform
import re
import socket
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from evalkit.errors import DataError
from evalkit.results.table import ResultTable, read_results


def made_now(folder: Path | None = None) -> dict[str, Any]:
    """The `made` of results.json.

    Args:
        folder: of the caller, whose repository's commit is told; none: the working directory.

    Returns:
        date (UTC, of the scores' making), host, cpu, gpu (names, none known: empty), git (commit, or none).
    """
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "host": socket.gethostname(),
        "cpu": _cpu(),
        "gpu": _gpus(),
        "git": git_commit(folder or Path.cwd()),
    }


def made_before(table: ResultTable, path: Path) -> dict[str, Any] | None:
    """`made` and `seconds` of the results.json at `path` where it holds the very scores of `table`: made then, not now.

    So a run that finds all done writes what is there, which is not written again.
    """
    with contextlib.suppress(DataError):
        earlier = read_results(path)
        known, now = earlier["run"].get("made"), table.to_json()
        if isinstance(known, dict) and all(earlier[part] == now[part] for part in ("rows", "protocols")):
            return {"made": known, "seconds": earlier["run"].get("seconds", table.run.get("seconds"))}
    return None


def _cpu() -> str:
    with contextlib.suppress(OSError):
        match = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text("utf-8", "replace"), re.MULTILINE)
        if match:
            return match[1]
    return platform.processor() or platform.machine()


def _gpus() -> list[str]:
    """As torch names them, where it was needed anyway; else as NVIDIA's driver does."""
    torch = sys.modules.get("torch")
    if torch is not None:
        cuda = torch.cuda
        return [str(cuda.get_device_name(i)) for i in range(cuda.device_count())] if cuda.is_available() else []
    names = []
    with contextlib.suppress(OSError):
        for about in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
            names += re.findall(r"^Model:\s*(.+)$", about.read_text("utf-8", "replace"), re.MULTILINE)
    return names


def git_commit(folder: Path) -> str | None:
    """The commit that is checked out in the repository that holds `folder`; none where there is none."""
    with contextlib.suppress(OSError, UnicodeError):
        for parent in [folder.absolute(), *folder.absolute().parents]:
            if (parent / ".git").exists():
                return _head(parent / ".git")
    return None


def _head(git: Path) -> str | None:
    if git.is_file():  # of a worktree or a submodule: it names the folder
        git = git.parent / git.read_text("utf-8").removeprefix("gitdir:").strip()
    head = (git / "HEAD").read_text("utf-8").strip()
    if not head.startswith("ref:"):
        return head or None
    name = head.removeprefix("ref:").strip()
    folders = [git]
    if (git / "commondir").is_file():
        folders.append(git / (git / "commondir").read_text("utf-8").strip())
    for each in folders:
        if (each / name).is_file():
            return (each / name).read_text("utf-8").strip()
        if commit := dict(_packed(each / "packed-refs")).get(name):
            return commit
    return None  # no commit yet


def _packed(path: Path) -> Iterator[tuple[str, str]]:
    if path.is_file():
        for line in path.read_text("utf-8").splitlines():
            commit, _, name = line.partition(" ")
            if name and not line.startswith(("#", "^")):
                yield name, commit
