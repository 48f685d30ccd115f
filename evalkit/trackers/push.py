"""Pushes a finished run to experiment trackers, each in a process of its own.

What a tracker gets is read from the run's folder alone, so a run can be pushed again at any time:
`python -m evalkit.trackers RUN_FOLDER`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evalkit.config.build import build
from evalkit.config.environment import hide_environment, with_environment
from evalkit.errors import EXIT_DONE, EXIT_ERROR, ConfigError, EvalkitError
from evalkit.trackers.base import FinishedRun, Tracker
from evalkit.utils.files import write_json, write_text
from evalkit.utils.text import one_line

log = logging.getLogger(__name__)

_OWN = re.compile(r"evalkit\.trackers\.\w+\.\w+")  # the trackers that a results folder may name


def make_trackers(options: Mapping[str, Mapping[str, Any]]) -> dict[str, Tracker]:
    """Builds and checks the trackers of a configuration.

    Raises:
        ConfigError: one cannot be built, lacks its package, or has an option that cannot be right.
    """
    trackers = {}
    for name, option in options.items():
        tracker = _build(name, option)
        tracker.check(f"tracker.{name}")
        trackers[name] = tracker
    return trackers


def _build(name: str, option: Mapping[str, Any]) -> Tracker:
    """A tracker, with the values of the environment variables that its option names: here alone they are looked up."""
    where = f"tracker.{name}"
    tracker: Tracker = build(with_environment(option, where), where, Tracker)
    return tracker


def push(options: Mapping[str, Mapping[str, Any]], out: Path, *, command: str = "") -> list[str]:
    """Pushes the finished run in `out` to every tracker; whatever one does, the others get theirs and the run stands.

    Args:
        options: the trackers' options by name, as `RunConfig.tracker` holds them.
        out: the run's folder.
        command: what pushes again, for the warning.

    Returns:
        The names of those that failed. Each has a line in the log, and its output in `tracker-<name>.log`.
    """
    if options:
        log.info("pushing to %s", ", ".join(options))
    failed = []
    for name, option in options.items():
        try:
            place = _push_to(name, option, out)
        except Exception as error:  # of whatever kind: the results are safe, and the exit code is the run's
            again = command or shlex.join(["python", "-m", "evalkit.trackers", str(out), *_by_name(name, option)])
            log.warning(
                "Warning: tracker.%s failed (%s). The results in %s are whole; to push again: %s",
                *(name, _redact(one_line(error), option), out, again),
            )
            failed.append(name)
        else:
            log.info("tracker.%s: %s", name, _redact(place, option))
    return failed


def _by_name(name: str, option: Mapping[str, Any]) -> list[str]:
    """The overrides that name a tracker which a results folder cannot ask for: one of another package."""
    if _OWN.fullmatch(str(option.get("_target_"))):
        return []
    return [f"+tracker.{name}.{key}={value}" for key, value in option.items()]


class _PushError(Exception):
    """A tracker's process did not hand the run over."""


def _push_to(name: str, option: Mapping[str, Any], out: Path) -> str:
    """Hands a run to one tracker in a process of its own: what it imports, sets, prints or kills stays there."""
    FinishedRun.load(out)  # the run's id is on disk before anyone uses it
    timeout = _build(name, option).timeout
    record = out / f"tracker-{name}.log"
    with tempfile.TemporaryDirectory(prefix="evalkit-track-") as scratch:
        reply_file, output = Path(scratch) / "answer.json", Path(scratch) / "output.txt"
        job = {"name": name, "option": dict(option), "out": str(out.absolute()), "answer": str(reply_file)}
        in_time = _run_child(json.dumps(job), output, timeout)
        printed = output.read_text(encoding="utf-8", errors="replace")
        reply = json.loads(reply_file.read_text(encoding="utf-8")) if reply_file.exists() else {}
    if "place" in reply:
        record.unlink(missing_ok=True)
        return str(reply["place"])
    write_text(record, _redact(printed, option))
    if "error" in reply:
        raise _PushError(reply["error"])
    if not in_time:
        raise _PushError(f"not done after {timeout:g} s, tracker.{name}.timeout")
    raise _PushError(f"its process ended without an answer, see {record}")


def _run_child(job: str, output: Path, timeout: float) -> bool:
    """Runs `answer` in a process, its output going to a file; afterwards nothing of it is left running."""
    path = os.pathsep.join(str(Path(entry).absolute()) for entry in sys.path)
    with output.open("wb") as sink:
        child = subprocess.Popen(
            [sys.executable, "-P", "-c", "from evalkit.trackers.push import answer; answer()"],
            stdin=subprocess.PIPE,
            stdout=sink,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,
        )
        try:
            child.communicate(job.encode(), timeout=timeout)
            return True
        except subprocess.TimeoutExpired:
            return False
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(child.pid, signal.SIGKILL)  # its helpers as well
            child.wait()


def answer() -> None:
    """In that process: logs the run as the job on standard input says; what goes wrong becomes the answer."""
    job = json.load(sys.stdin)
    try:
        run = FinishedRun.load(Path(job["out"]))
        reply = {"place": _build(job["name"], job["option"]).log(run)}
    except BaseException as error:  # a tracker may also exit
        traceback.print_exc()
        reply = {"error": f"{type(error).__name__}: {error}"}
    write_json(Path(job["answer"]), reply)


def _redact(text: str, option: Mapping[str, Any]) -> str:
    """A text without the passwords of URLs, and without the values of the environment variables of an option."""
    return re.sub(r"(?<=://)[^@/\s]*:[^@/\s]*@", "***@", hide_environment(text, option))


def main(arguments: Sequence[str] | None = None) -> int:
    """`python -m evalkit.trackers RUN_FOLDER [OVERRIDE ...]`: pushes a finished run, to its trackers or others."""
    parser = argparse.ArgumentParser(
        prog="python -m evalkit.trackers",
        description="Pushes a finished run to experiment trackers: those it was run with, or those given.",
        epilog="example: python -m evalkit.trackers runs/digits 'tracker=[mlflow]' tracker.mlflow.uri=sqlite:///mlflow.db",
    )
    parser.add_argument("folder", type=Path, help="the run's folder, with its results.json")
    parser.add_argument("overrides", nargs="*", help="tracker=[...] and tracker.<name>.<option>=<value>")
    parser.add_argument("--config-dir", "-cd", type=Path, help="a folder with a tracker/ of your own")
    given = parser.parse_args(arguments)
    logging.basicConfig(format="%(message)s")
    logging.getLogger("evalkit").setLevel(logging.INFO)
    try:
        options = _options(given.folder, given.overrides, given.config_dir)
        make_trackers(options)
    except EvalkitError as error:
        print(f"evalkit: {error}", file=sys.stderr)
        return error.exit_code
    command = shlex.join(["python", "-m", "evalkit.trackers", *(sys.argv[1:] if arguments is None else arguments)])
    return EXIT_ERROR if push(options, given.folder, command=command) else EXIT_DONE


def _of_the_run(folder: Path) -> dict[str, Any]:
    """The trackers that a run's results.json names: evalkit's own, as such a folder may be anybody's.

    Raises:
        ConfigError: one is of another package, or takes an environment variable: this is to be said anew.
    """
    options = FinishedRun.load(folder).config.get("tracker") or {}
    for name, option in options.items() if isinstance(options, Mapping) else [("", None)]:
        target = option.get("_target_") if isinstance(option, Mapping) else None
        if not _OWN.fullmatch(str(target)):
            raise ConfigError(
                f"{folder}: results.json names {target!r} as tracker.{name}; of a results folder evalkit's own "
                f"trackers alone are built: name it yourself, 'tracker=[{name or 'NAME'}]' --config-dir DIR"
            )
        if "${" in json.dumps(option):
            raise ConfigError(
                f"{folder}: tracker.{name} takes an environment variable, which a results folder cannot ask for: name "
                f"the tracker and its options yourself, 'tracker=[{name}]'"
            )
    return dict(options)


def _options(folder: Path, overrides: Sequence[str], config_dir: Path | None) -> dict[str, Any]:
    """The options of the trackers that are asked for; none asked for: those of the run itself."""
    for override in overrides:
        if not re.match(r"[+~]*tracker[.=]", override):
            raise ConfigError(f"{override}: the run is finished, so only tracker=... and tracker.*=... can be given")
    if overrides:
        from evalkit.config.compose import compose, resolve

        options = resolve(compose(overrides, str(config_dir.resolve()) if config_dir else None)).tracker
    else:
        options = _of_the_run(folder)
    if not options:
        raise ConfigError(f"{folder} was run without a tracker: give one, such as 'tracker=[tensorboard]'")
    return options
