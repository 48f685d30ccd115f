"""Environments of Python packages that scorers run in: made once by uv, kept in the user's cache folder.

An environment is found by what was asked for (Python, packages, overrides), and is named in protocols by what came of
it: the exact versions, as `uv pip freeze` gives them. One that is there needs neither uv nor a network.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evalkit.errors import ConfigError, nearest
from evalkit.utils.files import sha256_json
from evalkit.utils.text import one_line

DIGITS = 16  # of an environment's digest, in its folder's name
KEYS = ("python", "packages", "overrides", "exclude_newer")
RECORD = "environment.json"  # written last: a folder without it is not whole


def cache_folder() -> Path:
    """Where environments are kept: EVALKIT_CACHE, else XDG_CACHE_HOME/evalkit, else ~/.cache/evalkit."""
    given = os.environ.get("EVALKIT_CACHE")
    if given:
        return Path(given).expanduser() / "environments"
    base = os.environ.get("XDG_CACHE_HOME") or (os.environ.get("LOCALAPPDATA") if os.name == "nt" else None)
    return (Path(base) if base else Path.home() / ".cache") / "evalkit" / "environments"


@dataclass(frozen=True)
class Environment:
    """An interpreter with packages.

    Attributes:
        where: how messages name the option ("extractor.x.env").
        python: a version ("3.10") that uv finds or fetches; or, without packages, the path of an interpreter of an
            environment that exists (conda's, say), which is taken as it is. None: this process's own interpreter.
        packages: requirements, as pip takes them (paths of local ones are absolute). numpy comes by itself.
        overrides: requirements that hold whatever a package asks for; `apex; sys_platform == "never"` leaves one out.
        exclude_newer: a date ("2024-06-01"): what was uploaded later is not taken.
    """

    where: str
    python: str | None = None
    packages: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()
    exclude_newer: str | None = None
    _record: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    @classmethod
    def of(cls, option: Mapping[str, Any] | None, where: str) -> Environment:
        """The environment of an option. ConfigError: a key or a value is wrong."""
        if option is not None and not isinstance(option, Mapping):
            raise ConfigError(f"{where}={option}: give {{python: '3.10', packages: [...]}}")
        given = {str(key): value for key, value in (option or {}).items() if value is not None}
        for key in given:
            if key not in KEYS:
                raise ConfigError(f"{where}.{key}: an environment has no '{key}'. {nearest(key, KEYS)}")
        lists = {}
        for key in ("packages", "overrides"):
            value = given.get(key, ())
            if isinstance(value, str) or not all(isinstance(each, str) for each in value):
                raise ConfigError(f"{where}.{key}={value}: give a list of requirements, such as [numpy==1.26.4]")
            lists[key] = tuple(value)
        python = str(given["python"]) if "python" in given else None
        newer = str(given["exclude_newer"]) if "exclude_newer" in given else None
        if newer is not None and not re.fullmatch(r"\d{4}-\d\d-\d\d\S*", newer):
            raise ConfigError(f"{where}.exclude_newer={newer}: give a date, such as 2024-06-01")
        if lists["packages"] and python is None:
            python = "{}.{}".format(*sys.version_info)
        return cls(where, python, lists["packages"], lists["overrides"], newer)

    @property
    def request(self) -> dict[str, Any]:
        """What it is found by (JSON)."""
        about: dict[str, Any] = {"python": self.python, "packages": list(self.packages)}
        about |= {"overrides": list(self.overrides)} if self.overrides else {}
        about |= {"exclude_newer": self.exclude_newer} if self.exclude_newer else {}
        return about

    @property
    def is_made(self) -> bool:
        """Whether uv makes it; else an interpreter is taken as it is."""
        return bool(self.packages)

    @property
    def folder(self) -> Path:
        """Where it is, or will be, where it is made."""
        about = {**self.request, "platform": [sys.platform, platform.machine()]}
        return cache_folder() / sha256_json(about)[:DIGITS]

    @property
    def interpreter(self) -> str:
        """The path of its Python."""
        if not self.is_made:
            return sys.executable if self.python is None else self.python
        inside = ("Scripts", "python.exe") if os.name == "nt" else ("bin", "python")
        return str(self.folder.joinpath(*inside))

    def check(self, *, fetch: bool = True) -> None:
        """Makes it where it is not there.

        Raises:
            ConfigError: it is not there and `fetch` is false, uv is missing or cannot resolve it; or there is no such
                interpreter.
        """
        if not self.is_made:
            if self.python is not None and not os.access(self.python, os.X_OK):
                fix = "give the path of an interpreter, or packages, for which an environment is made"
                raise ConfigError(f"{self.where}.python={self.python}: there is no such interpreter: {fix}")
        elif self._read() is None:
            if not fetch:
                raise ConfigError(f"{self.where}: its environment is not there yet: a run makes it, in {self.folder}")
            self._make()

    def identity(self) -> dict[str, Any]:
        """Its exact Python and packages, after `check` (JSON)."""
        if self.is_made:
            record = self._read() or {}
            return {"python": record.get("version"), "packages": record.get("resolved")}
        if "version" not in self._record:
            self._record.update(_installed(self.interpreter, self.where))
        return {"python": self._record["version"], "packages": self._record["resolved"]}

    def _read(self) -> dict[str, Any] | None:
        if not self._record:
            with contextlib.suppress(OSError, ValueError):
                record = json.loads((self.folder / RECORD).read_text(encoding="utf-8"))
                if isinstance(record, dict) and Path(self.interpreter).exists():
                    self._record.update(record)
        return self._record or None

    def _make(self) -> None:
        from filelock import FileLock

        folder = self.folder
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):  # several workers want it at once: one makes it
            if self._read() is not None:
                return
            uv = _find_uv(self.where)
            shutil.rmtree(folder, ignore_errors=True)
            names = [re.split(r"[^\w.-]", each.strip(), maxsplit=1)[0].lower() for each in self.packages]
            packages = [*self.packages, *([] if "numpy" in names else ["numpy"])]
            more = ["--exclude-newer", self.exclude_newer] if self.exclude_newer else []
            self._uv(uv, "venv", "--quiet", "--no-project", "--python", str(self.python), str(folder))
            if self.overrides:
                (folder / "overrides.txt").write_text("\n".join(self.overrides) + "\n", encoding="utf-8")
                more += ["--overrides", str(folder / "overrides.txt")]
            self._uv(uv, "pip", "install", "--quiet", "--python", self.interpreter, *more, "--", *packages)
            frozen = self._uv(uv, "pip", "freeze", "--python", self.interpreter)
            version = self._run(self.interpreter, "-c", "import platform; print(platform.python_version())").strip()
            record = {"request": self.request, "version": version, "resolved": frozen.split("\n")[:-1]}
            temporary = folder / f"{RECORD}.tmp"
            temporary.write_text(json.dumps(record, indent=1), encoding="utf-8")
            temporary.replace(folder / RECORD)
            self._record.update(record)

    def _uv(self, uv: str, *words: str) -> str:
        try:
            return self._run(uv, *words)
        except ConfigError:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise

    def _run(self, *command: str) -> str:
        environ = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "PYTHONPATH")}
        home = self.folder.parent  # not where we are: uv would read the constraints of a project there
        done = subprocess.run(command, capture_output=True, text=True, env=environ, stdin=subprocess.DEVNULL, cwd=home)
        if done.returncode:
            raise ConfigError(f"{self.where}: uv cannot make its environment: {_reason(done.stderr)}")
        return done.stdout


def _find_uv(where: str) -> str:
    """The program uv: on the path, or of the package uv."""
    found = shutil.which("uv")
    if found is None:
        with contextlib.suppress(ImportError, FileNotFoundError):
            import uv  # type: ignore[import-not-found, unused-ignore]

            found = str(uv.find_uv_bin())
    if found is None:
        fix = "pip install uv, or give the interpreter of an environment that has them as python=PATH without packages"
        raise ConfigError(f"{where}: uv, which makes environments, is not installed: {fix}")
    return found


def _reason(stderr: str) -> str:
    """What uv says of a failure, in one line: without warnings, boxes and bullets."""
    lines = [re.sub(r"^[\s×╰─▶├│·]+|^error: ", "", line) for line in stderr.splitlines()]
    start = next((i for i, line in enumerate(stderr.splitlines()) if re.match(r"\s*(×|error:)", line)), 0)
    return one_line(" ".join(line for line in lines[start:] if line), 500)


def _installed(python: str, where: str) -> dict[str, Any]:
    """The version and packages of an interpreter that exists."""
    code = (
        "import importlib.metadata as m, json, platform\n"
        "found = sorted({f\"{d.metadata['Name']}=={d.version}\" for d in m.distributions()}, key=str.lower)\n"
        "print(json.dumps({'version': platform.python_version(), 'resolved': found}))"
    )
    try:
        done = subprocess.run([python, "-s", "-c", code], capture_output=True, text=True, check=True)
        found: dict[str, Any] = json.loads(done.stdout)
    except (OSError, subprocess.CalledProcessError, ValueError) as error:
        raise ConfigError(f"{where}.python={python} cannot be asked what it has: {one_line(error)}") from error
    return found
