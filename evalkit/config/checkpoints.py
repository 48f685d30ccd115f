"""`{checkpoints: "runs/ckpt_*", step: "(\\d+)"}` in a model's option: a training's checkpoints as an axis by step."""

from __future__ import annotations

import glob
import json
import re
import time
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from evalkit.config.build import accepted_keys, locate
from evalkit.errors import ConfigError
from evalkit.utils.state_dict import KEY as WEIGHTS_KEY
from evalkit.utils.state_dict import choose_state
from evalkit.utils.text import one_line

CHECKPOINTS, STEP, LEAVE_OUT = "checkpoints", "step", "leave_out"
KEYS = (CHECKPOINTS, STEP, LEAVE_OUT)
SETTLE = 2.0  # seconds without a change until a checkpoint counts as written
_LONGEST_HEADER = 100_000_000  # bytes, of a safetensors file; the format's own limit
_TEMPORARY = (".tmp", ".part", ".partial", ".incomplete", ".lock")
_SHOWN = 3

Signature = tuple[tuple[str, int, int], ...]
"""Of a checkpoint's files their names, sizes and times: another one says that it was written to."""


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint: a file or folder, and the training step that it is of."""

    path: str
    step: int | float


@dataclass(frozen=True)
class Fault:
    """Why a checkpoint cannot be scored: its end is missing (it may still come), or it is damaged."""

    kind: Literal["half written", "damaged"]
    why: str


def is_series(node: Any) -> bool:
    """Whether a value of an option is a series of checkpoints."""
    return isinstance(node, Mapping) and CHECKPOINTS in node and set(node) <= set(KEYS)


def name_weights(option: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A model's option whose `checkpoints` (and `step`, `leave_out`) stand next to its other keys, with them where its
    weights go: `weights_option` of its class says which key that is.

    Raises:
        ConfigError: the class names none.
    """
    if option.get(CHECKPOINTS) is None or "_target_" not in option:
        return dict(option)
    target = str(option["_target_"])
    key = getattr(locate(target), "weights_option", None)
    if not isinstance(key, str):
        raise ConfigError(
            f"{where}.{CHECKPOINTS}: {target} does not say where its weights go: write {where}.KEY="
            f"'{{{CHECKPOINTS}: {option[CHECKPOINTS]}}}'"
        )
    series = {name: option[name] for name in KEYS if option.get(name) is not None}
    return {**{name: value for name, value in option.items() if name not in KEYS}, key: series}


def find(series: Mapping[str, Any], where: str) -> list[Checkpoint]:
    """The checkpoints that a series names, by step.

    Args:
        series: `checkpoints`, a pattern or a list of those; `step`, a regular expression whose first group is the step
            (none: the last number in the name); `leave_out`, names or paths of some that are passed over.
        where: what messages call it.

    Raises:
        ConfigError: none is there, one has no step, or two have the same.
    """
    given = series[CHECKPOINTS]
    patterns = given if isinstance(given, list | tuple) else [given]
    out = series.get(LEAVE_OUT) or []
    left_out = {str(Path(str(name)).expanduser()) for name in (out if isinstance(out, list | tuple) else [out])}
    found: dict[str, Checkpoint] = {}
    for pattern in map(str, patterns):
        if "://" in pattern:
            raise ConfigError(f"{where}.{CHECKPOINTS}={pattern}: give a pattern of local files or folders")
        for path in glob.glob(str(Path(pattern).expanduser()), recursive=True):  # noqa: PTH207 (a pattern of any root)
            name = Path(path).name
            if not name.endswith(_TEMPORARY) and not left_out & {name, path}:
                found.setdefault(path, Checkpoint(path, _step(path, pattern, series.get(STEP), where)))
    if not found:
        but = f" but those of {LEAVE_OUT}" if left_out else ""
        raise ConfigError(f"{where}.{CHECKPOINTS}={', '.join(map(str, patterns))}: no file or folder matches{but}")
    by_step: dict[float, Checkpoint] = {}
    for checkpoint in found.values():
        other = by_step.setdefault(checkpoint.step, checkpoint)
        if other is not checkpoint:
            raise ConfigError(
                f"{where}: {other.path} and {checkpoint.path} are both of step {checkpoint.step}: give a {STEP} that "
                f"tells them apart, or {LEAVE_OUT}=[{checkpoint.path}]"
            )
    return [by_step[step] for step in sorted(by_step)]


def _step(path: str, pattern: str, expression: Any, where: str) -> int | float:
    """A checkpoint's step: by the expression, in its name or else its path; by default the last number in its name, or
    in the next part of its path that the pattern leaves open."""
    if expression is None:
        parts = Path(path).parts
        wild = [i for i, part in enumerate(Path(pattern).expanduser().parts) if glob.has_magic(part)]
        first = min(wild, default=len(parts) - 1)
        fixed = {i for i in range(first, len(parts)) if i not in wild} if wild and "**" not in pattern else set()
        for i in sorted(range(first, len(parts)), reverse=True):
            numbers = [] if i in fixed else re.findall(r"\d+", re.sub(r"(\.[A-Za-z]\w*)+$", "", parts[i]))
            if numbers:
                return int(numbers[-1])
        raise ConfigError(f"{where}: {path} has no number in its name: give {STEP}, such as '{STEP}: \"step(\\d+)\"'")
    text = str(expression).replace("\\\\", "\\")  # as YAML and JSON write it in double quotes
    try:
        match = re.search(text, Path(path).name) or re.search(text, path)
        value = match[1 if match.re.groups else 0] if match else None
    except re.error as error:
        raise ConfigError(f"{where}.{STEP}={expression}: this is no regular expression: {error}") from None
    try:
        number = float(value) if value is not None else None
    except ValueError:
        number = None
    if number is None or number != number or number in (float("inf"), float("-inf")):
        raise ConfigError(f"{where}.{STEP}={expression}: it finds no number in {path}")
    return int(number) if number == int(number) else number


def files_of(path: Path) -> list[Path]:
    """A checkpoint's files."""
    return sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]


def signature(path: Path) -> Signature:
    """What changes where a checkpoint is written to; of one that is gone it is empty."""
    marks = []
    for file in files_of(path):
        try:
            stat = file.stat()
        except OSError:  # renamed or removed while we look
            continue
        marks.append((str(file), stat.st_size, stat.st_mtime_ns))
    return tuple(marks)


def last_change(mark: Signature) -> float:
    """When a checkpoint's files were last written to, in seconds since 1970."""
    return max((time_ns for _, _, time_ns in mark), default=0) / 1e9


def fault_of(path: Path) -> Fault | None:
    """What is wrong with a checkpoint's files, as far as sizes and headers tell; none: they are whole."""
    if path.is_dir():
        return _fault_of_folder(path)
    try:
        with path.open("rb") as opened:
            head = opened.read(8)
            size = path.stat().st_size
            if not size:
                return Fault("half written", f"{path} is empty")
            if path.suffix == ".safetensors":
                return _fault_of_safetensors(path, head, size)
            if head.startswith(b"PK"):
                return _fault_of_zip(path)
    except OSError as error:
        return Fault("half written", f"{path} cannot be read: {one_line(error)}")
    return None


def _fault_of_safetensors(path: Path, head: bytes, size: int) -> Fault | None:
    """By the header, which says how long the file is."""
    length = int.from_bytes(head, "little")
    if len(head) == 8 and length > _LONGEST_HEADER:
        return Fault("damaged", f"{path} does not begin as a safetensors file")
    if size < 8 + length:
        return Fault("half written", f"{path} ends in its header")
    with path.open("rb") as opened:
        opened.seek(8)
        text = opened.read(length)
    try:
        header = json.loads(text)
        ends = [int(entry["data_offsets"][1]) for name, entry in header.items() if name != "__metadata__"]
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        return Fault("damaged", f"the header of {path} is no safetensors header")
    promised = 8 + length + max(ends, default=0)
    if size < promised:
        return Fault("half written", f"{path} has {size:,} bytes, its header promises {promised:,}")
    if size > promised:
        return Fault("damaged", f"{path} has {size:,} bytes, {size - promised:,} more than its header promises")
    return None


def _fault_of_zip(path: Path) -> Fault | None:
    """Of what torch.save wrote: its directory stands at its end."""
    try:
        with zipfile.ZipFile(path) as archive:
            archive.namelist()
    except Exception:  # zipfile raises anything on a damaged directory
        return Fault("half written", f"{path} lacks its end")
    return None


def _fault_of_folder(path: Path) -> Fault | None:
    files = [file for file in files_of(path) if not file.name.startswith(".")]
    if not files:
        return Fault("half written", f"{path} holds no file")
    for file in files:
        if file.name.endswith(_TEMPORARY):
            return Fault("half written", f"{file} is a temporary file")
        fault = fault_of(file) if file.suffix in (".safetensors", ".bin", ".pt", ".pth") else None
        if fault is not None:
            return fault
        if file.name.endswith(".json") and (fault := _fault_of_json(file)) is not None:
            return fault
    return None


def _fault_of_json(file: Path) -> Fault | None:
    """Of an index of shards or of a pipeline's parts, whether what it names is there; of another file, whether it is
    whole."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return Fault("half written", f"{file} is no whole JSON")
    named: list[str] = []
    if isinstance(value, dict) and ".index." in file.name and isinstance(value.get("weight_map"), dict):
        named = sorted({str(name) for name in value["weight_map"].values()})
    for name in named:
        if not (file.parent / name).is_file():
            return Fault("half written", f"{file.parent / name} is missing ({file.name} names it)")
    return None


def check(found: list[Checkpoint], where: str) -> None:
    """Refuses checkpoints that are not whole; one that changed within the last seconds is looked at again after them.

    Raises:
        ConfigError: which, why, and what to do.
    """
    marks = {c.path: signature(Path(c.path)) for c in found}
    now = time.time()
    ages = [now - last_change(mark) for mark in marks.values()]
    recent = min((age for age in ages if age > -SETTLE), default=SETTLE)  # a clock far ahead says nothing
    if recent < SETTLE:
        time.sleep(SETTLE - max(recent, 0.0))
    lines = []
    for checkpoint in found:
        path = Path(checkpoint.path)
        fault = fault_of(path)
        if fault is None and signature(path) != marks[checkpoint.path]:
            fault = Fault("half written", f"{path} changed within the last {SETTLE:g} s")
        if fault is not None:
            lines.append((checkpoint.path, f"the checkpoint of step {checkpoint.step} is {fault.kind}: {fault.why}"))
    if lines:
        some = "; ".join(line for _, line in lines[:_SHOWN])
        more = f"; and {len(lines) - _SHOWN} more" if len(lines) > _SHOWN else ""
        names = ", ".join(name for name, _ in lines)
        raise ConfigError(f"{where}: {some}{more}. Wait for it, write it anew, or leave it out: {LEAVE_OUT}=[{names}]")


def with_state_key(option: Mapping[str, Any], path: tuple[str, ...], found: list[Checkpoint], where: str) -> Any:
    """The option with the key of the state dict that its series is read from, where the files hold several: that of
    the newest checkpoint that `choose_state` takes."""
    if path[-1:] != ("weights",) or option.get(WEIGHTS_KEY) is not None or not found:
        return option
    file = Path(found[-1].path)
    if file.suffix == ".safetensors" or not file.is_file():
        return option
    if WEIGHTS_KEY not in accepted_keys(str(option.get("_target_"))):
        return option
    key = choose_state(file, where)
    return option if key is None else {**option, WEIGHTS_KEY: key}


def series_in(option: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Mapping[str, Any]]]:
    """The series of checkpoints in an option, by place."""
    if is_series(option):
        yield path, option
    elif isinstance(option, Mapping):
        for key, value in option.items():
            yield from series_in(value, (*path, str(key)))


def passed_over(option: Mapping[str, Any], paths: Mapping[tuple[str, ...], list[str]]) -> dict[str, Any]:
    """An option whose series leave out more paths, by the series' places."""

    def change(node: Any, place: tuple[str, ...]) -> Any:
        if place in paths and is_series(node):
            given = node.get(LEAVE_OUT) or []
            more = [*(given if isinstance(given, list | tuple) else [given]), *paths[place]]
            return {**node, LEAVE_OUT: more} if more else dict(node)
        if not isinstance(node, Mapping):
            return node
        return {key: change(value, (*place, str(key))) for key, value in node.items()}

    changed: dict[str, Any] = change(option, ())
    return changed


def without_left_out(node: Any) -> Any:
    """A part of a configuration without the `leave_out` of its series: what is passed over may change from run to run
    of one configuration."""
    if isinstance(node, Mapping):
        dropped = (LEAVE_OUT,) if is_series(node) else ()
        return {key: without_left_out(value) for key, value in node.items() if key not in dropped}
    return [without_left_out(value) for value in node] if isinstance(node, list) else node
