"""Fuzzing of readers: seeded mutations of good inputs, and a watch over what a reader does besides reading.

A reader may return, or raise an `EvalkitError` of one line. It may not raise anything else, take ten seconds, start a
process, open a connection, unpickle, or write a file outside of the folder that it is given.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evalkit.errors import EvalkitError

SECONDS = 10  # for one example
_NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 2**63 - 1, 2**64 - 1)
_TOKENS = (
    *(
        "[" * 2000,
        "{" * 300,
        "]",
        '"',
        "'",
        ",",
        "\t",
        "\n",
        "\r",
        ";",
        "\\",
        "\0",
        "\x1b[31m",
        "\ufeff",
        "\u2028",
        "\x85",
    ),
    *("\\ud800", "NaN", "-Infinity", "1e999", "9" * 5000, "-1", "null", "true", "{}", "[]", '""', "=cmd|'/C calc'!A0"),
    *(
        "../../etc/passwd",
        "/dev/zero",
        "a" * 3000,
        "file_name",
        "prompt",
        "Steps: 20, ",
        "%s%n",
        "${oc.env:HOME}",
        "\U0001f9ea",
    ),
    *("_target_: os.system", "!!python/object/apply:os.system [x]", "&a [*a]", "<<: *a", "- - - -", "é", "\xff"),
)
_VALUES: tuple[Any, ...] = (
    *(
        None,
        True,
        -1,
        0,
        1,
        2**70,
        1e308,
        float("nan"),
        float("inf"),
        "",
        "x",
        "12",
        "../../x",
        "\x1b[31m",
        "a\nb",
        [],
        {},
    ),
    *([1, [2, [3]]], {"a": {"b": None}}, [[]] * 3, "é" * 400, {"_target_": "os.system"}, [None], "\ud800", {"": ""}),
)


@dataclass(frozen=True)
class Target:
    """A reader.

    Attributes:
        name: for the report.
        seeds: good inputs, by the name of the file that each is.
        read: reads the file at a path; what lies next to it belongs to the target.
        text: whether inputs are text, for which there are more mutations.
    """

    name: str
    seeds: Mapping[str, bytes]
    read: Callable[[Path], Any]
    text: bool = False


@dataclass
class Outcome:
    """What became of a target's examples: how many were read, refused in one line, and what else happened."""

    read: int = 0
    refused: int = 0
    failures: list[str] = field(default_factory=list)

    @property
    def examples(self) -> int:
        return self.read + self.refused + len(self.failures)


# Mutations -----------------------------------------------------------------------------------------------------------


def mutate(rng: random.Random, target: Target) -> tuple[str, bytes]:
    """A file's name, and one of the target's seeds after one to four mutations."""
    name = rng.choice(sorted(target.seeds))
    data = target.seeds[name]
    if target.text and rng.random() < 0.5 and (changed := _mutate_json(rng, data)) is not None:
        data = changed
    else:
        for _ in range(rng.choice((1, 1, 2, 4))):
            data = (_mutate_text if target.text and rng.random() < 0.7 else _mutate_bytes)(rng, data, target)
    return name, data


def _mutate_bytes(rng: random.Random, data: bytes, target: Target) -> bytes:
    changed = bytearray(data)
    at = rng.randrange(len(data) + 1)
    end = min(len(data), at + rng.choice((1, 2, 4, 8, 64, 1024)))
    kind = rng.randrange(8)
    if kind == 0 and data:
        for _ in range(rng.choice((1, 1, 3, 20))):
            changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif kind == 1:
        changed[at:end] = rng.randbytes(end - at)
    elif kind == 2:
        width = rng.choice((1, 2, 4, 8))
        value = rng.choice(_NUMBERS) % 256**width
        changed[at : at + width] = value.to_bytes(width, rng.choice(("little", "big")))
    elif kind == 3:
        del changed[at:end]
    elif kind == 4:
        changed[at:at] = changed[at:end] * rng.choice((1, 2, 50))
    elif kind == 5:
        del changed[at:]
    elif kind == 6:
        other = target.seeds[rng.choice(sorted(target.seeds))]
        cut = rng.randrange(len(other) + 1)
        changed[at:] = other[cut:]
    else:
        changed[at:at] = rng.randbytes(rng.choice((1, 5, 300)))
    return bytes(changed)


def _mutate_text(rng: random.Random, data: bytes, target: Target) -> bytes:
    at = rng.randrange(len(data) + 1)
    end = at if rng.random() < 0.6 else min(len(data), at + rng.choice((1, 3, 10)))
    return data[:at] + rng.choice(_TOKENS).encode("utf-8", "surrogatepass") + data[end:]


def _mutate_json(rng: random.Random, data: bytes) -> bytes | None:
    """Some values of a JSON, or of one line of JSON Lines, replaced; none where it is none."""
    lines = data.split(b"\n")
    number = rng.randrange(len(lines)) if len(lines) > 1 else 0
    for whole, text in ((True, data), (False, lines[number])):
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            continue
        for _ in range(rng.choice((1, 1, 1, 3))):
            value = _replaced(rng, value)
        new = json.dumps(value).encode()
        return new if whole else b"\n".join([*lines[:number], new, *lines[number + 1 :]])
    return None


def _replaced(rng: random.Random, value: Any) -> Any:
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(sorted(value, key=str))
        kind = rng.randrange(8)
        rest = {k: v for k, v in value.items() if k != key}
        if kind == 0:
            return rest
        if kind == 1:
            return rest | {str(rng.choice(_VALUES)): value[key]}
        return value | {key: _replaced(rng, value[key])}
    if isinstance(value, list) and value and rng.random() < 0.9:
        at = rng.randrange(len(value))
        kind = rng.randrange(8)
        if kind == 0:
            return value[:at] + value[at + 1 :]
        if kind == 1:
            return [*value, *value]
        return [*value[:at], _replaced(rng, value[at]), *value[at + 1 :]]
    return rng.choice(_VALUES)


# The watch -----------------------------------------------------------------------------------------------------------

_STARTS = frozenset({"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty"})
_OTHERS = frozenset({"socket.connect", "socket.getaddrinfo", "pickle.find_class", "os.startfile", "webbrowser.open"})
_CHANGES = frozenset(
    {"os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.symlink", "os.link", "os.truncate", "os.chmod"}
)
_watching: list[tuple[Path, list[str]]] = []  # the folder that may be written, and what was seen; empty: nobody looks


def _hook(event: str, given: tuple[Any, ...]) -> None:
    if not _watching:
        return
    inside, seen = _watching[-1]
    if event in _STARTS or event in _OTHERS:
        seen.append(f"{event} {given!r}"[:300])
    elif event in _CHANGES:
        seen += [f"{event} {path}" for path in given if isinstance(path, str | bytes) and not _is_inside(path, inside)]
    elif event == "open" and isinstance(given[0], str | bytes):
        path, mode, flags = given
        writes = bool((flags or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)) or bool(set(str(mode or "")) & set("wax+"))
        if writes and os.fsdecode(path) != os.devnull and not _is_inside(path, inside):
            seen.append(f"wrote {os.fsdecode(path)}")


def _is_inside(path: str | bytes, folder: Path) -> bool:
    return Path(os.path.realpath(os.fsdecode(path))).is_relative_to(folder)


sys.addaudithook(_hook)  # it stays for good, and looks only within `watched`


@contextmanager
def watched(folder: Path) -> Iterator[list[str]]:
    """What happens meanwhile that a reader may not do."""
    seen: list[str] = []
    _watching.append((Path(os.path.realpath(folder)), seen))
    try:
        yield seen
    finally:
        _watching.pop()


class TooSlow(BaseException):
    """An example took longer than `SECONDS`."""


@contextmanager
def _limited() -> Iterator[None]:
    def ring(*_: Any) -> None:
        raise TooSlow

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


# The loop ------------------------------------------------------------------------------------------------------------


def run_one(target: Target, name: str, data: bytes, folder: Path) -> str | None:
    """Gives a target one input. Returns "" where it was read, none where it was refused rightly, else what happened."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    result: str | None = ""
    with watched(folder) as seen:
        try:
            with _limited():
                target.read(path)
        except EvalkitError as error:
            text = str(error)
            bad = [repr(mark) for mark in ("\n", "\r", "\x1b") if mark in text]
            result = f"a message with {', '.join(bad)}: {text!r}"[:600] if bad or not text else None
        except TooSlow:
            result = f"took more than {SECONDS} s"
        except Exception as error:
            result = "".join(traceback.format_exception(error)[-6:])
    if seen:
        result = f"{'; '.join(seen[:5])}\n{result or ''}"
    return result


def fuzz(target: Target, folder: Path, seed: int, examples: int) -> Outcome:
    """Gives a target so many mutated inputs; failures name the seed and number that make the input again."""
    outcome = Outcome()
    sys.dont_write_bytecode = True  # what a library compiles when it is first imported is no misdeed of a reader
    for name, data in target.seeds.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    for number in range(examples):
        rng = random.Random(f"{target.name} {seed} {number}")
        name, data = mutate(rng, target)
        result = run_one(target, name, data, folder)
        (folder / name).write_bytes(target.seeds[name])
        if result is None:
            outcome.refused += 1
        elif result == "":
            outcome.read += 1
        else:
            outcome.failures.append(
                f"{target.name}, seed {seed}, number {number}, {name} ({len(data)} bytes): {result}"
            )
    return outcome


def kinds(failures: Sequence[str]) -> list[str]:
    """One failure of each kind: by its last line, without numbers."""
    found: dict[str, str] = {}
    for failure in failures:
        last = failure.strip().splitlines()[-1]
        found.setdefault(f"{failure.partition(',')[0]} {''.join(c for c in last if not c.isdigit())[:80]}", failure)
    return list(found.values())
