"""One array of Slurm jobs by its name: submitted by submitit, seen by squeue, heard by its logs, ended by scancel."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import shlex
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from evalkit.engines.voice import Voice, how_it_ended
from evalkit.errors import EXIT_CONFIG, EXIT_ERROR, ConfigError, EvalkitError, printable

log = logging.getLogger(__name__)

NOTICE = 30  # seconds between SIGTERM and the time limit, in which a worker puts its work away
SHOWN = 4  # lines of the workers that one look at their logs shows
QUIET = 30.0  # seconds between two lines on who waits and who runs
_PENDING = "PENDING"
_BEGAN = re.compile(r"slurm: (worker \d+ of \d+ on \S+)")
_ENDED = re.compile(r"slurm: ended with (\d+)")
_ERROR = re.compile(r"evalkit: (.+)")  # as every command of evalkit says what it ends with
_NOISE = re.compile(r"submitit |srun: error: .* Exited with exit code")
# These run in the batch shell. SIGTERM before the time limit reaches the worker alone; scancel, preemption and
# `scontrol requeue` end the shell as well, so that what was cancelled never goes back into the queue. Ten times, since
# a unit that takes longer than the limit would go on for ever; the driver sees whether another array gets on.
_TEARDOWN = ("code=$?", 'echo "slurm: ended with $code"')
_REQUEUE = '[ $code != 143 ] || [ "${SLURM_RESTART_COUNT:-0}" -ge 10 ] || scontrol requeue "$SLURM_JOB_ID"'


@dataclass(frozen=True)
class Element:
    """What submitit pickles and calls on a node: it becomes the worker, which so gets Slurm's signals itself."""

    command: tuple[str, ...]

    def __call__(self) -> NoReturn:
        node = os.environ.get("SLURMD_NODENAME", socket.gethostname())
        rank, _, world = self.command[-1].partition("/")
        print(f"slurm: worker {int(rank) + 1} of {world} on {node}", flush=True)
        os.execvp(self.command[0], self.command)


class Array:
    """All jobs of a name, of whatever start of this command.

    Args:
        name: the jobs' name; holds the plan's key.
        folder: for logs and submitit's files, there already; on a disk that all nodes see.
    """

    def __init__(self, name: str, folder: Path) -> None:
        self.folder = folder
        self._mine = [f"--user={os.getuid()}", f"--name={name}"]
        self._name = name
        self._read = {path: path.stat().st_size for path in self._logs()}  # bytes; what earlier arrays said is past
        self._who: dict[Path, str] = {}
        self._errors: dict[Path, str] = {}  # in the worker's own words
        self._codes: dict[Path, int] = {}
        self._voice = Voice()
        self._states, self._told = "", -QUIET

    def submit(
        self,
        command: Sequence[str],
        workers: int,
        asked: Mapping[str, Any],
        *,
        requeue: bool,
        options: Mapping[str, Any],
    ) -> None:
        """Puts an array of `command --stripe I/WORKERS` into the queue.

        Args:
            command: a worker's, without its stripe.
            workers: elements.
            asked: of submitit's parameters.
            requeue: whether an element goes back into the queue at its time limit, and after preemption.
            options: of sbatch, by their long names.

        Raises:
            ConfigError: there is no submitit; sbatch refuses (its own words).
        """
        try:
            import submitit
        except ImportError:
            raise ConfigError("engine=slurm needs submitit: pip install 'evalkit[slurm]'") from None
        executor = submitit.SlurmExecutor(folder=self.folder)
        elements = [Element((*command, "--stripe", f"{i}/{workers}")) for i in range(workers)]
        setup = [*_path_of_a_checkout(), *asked["setup"]]
        extra = {"signal": f"TERM@{NOTICE}", "requeue" if requeue else "no-requeue": True, **options}
        ends = [*_TEARDOWN, *([_REQUEUE] if requeue else []), "exit $code"]
        self._codes.clear()
        try:
            with _outside_of_jobs(), contextlib.redirect_stderr(io.StringIO()):  # sbatch's words are in the error
                executor.update_parameters(
                    **{"job_name": self._name, "stderr_to_stdout": True, "array_parallelism": workers, "wckey": None},
                    **{name: value for name, value in asked.items() if value is not None} | {"setup": setup},
                    additional_parameters=extra,
                    srun_args=["--open-mode=append"],  # an element that was requeued goes on in its log
                    teardown=ends,
                )
                with executor.batch():
                    jobs = [executor.submit(element) for element in elements]
        except (submitit.core.utils.FailedJobError, submitit.core.utils.FailedSubmissionError) as error:
            words = re.findall(r"sbatch: error: (.+)", str(error)) or [str(error)]
            raise ConfigError(f"engine=slurm: sbatch refuses: {'; '.join(words)}") from None
        number = str(jobs[0].job_id).partition("_")[0]
        log.info("Slurm job %s: %d workers; their logs: %s", number, workers, self.folder)

    def states(self, timeout: float = 60) -> Counter[str] | None:
        """How many of the jobs that have not ended are in which state ("PENDING (Priority)"); none: no answer."""
        command = ["squeue", "--noheader", "--array", *self._mine, "--format=%T|%r"]
        try:
            told = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
        except (OSError, subprocess.TimeoutExpired):
            return None
        if told.returncode:
            return None
        lines = (line.partition("|") for line in told.stdout.splitlines())
        return Counter(f"{state} ({why})" if state == _PENDING else state for state, _, why in lines)

    def show(self, states: Counter[str] | None) -> None:
        """Says what is new: the last line of each worker's log, of some of them; who waits or runs."""
        fresh = {path: lines[-1] for path in self._logs() if (lines := self._new_lines(path))}
        for path in list(fresh)[:SHOWN]:
            self._voice.say(self._who.get(path, path.name), __name__, logging.INFO, fresh[path])
        if len(fresh) > SHOWN:
            self._voice.say("slurm", __name__, logging.INFO, f"more workers say something: {self.folder}")
        text = (
            "squeue does not answer" if states is None else ", ".join(f"{n} {it}" for it, n in states.items()).lower()
        )
        if text != self._states and time.monotonic() - self._told > QUIET:
            self._states, self._told = text, time.monotonic()
            log.info("Slurm jobs: %s", text or "none")

    def raise_error(self) -> None:
        """Raises EvalkitError where a worker of the array that ended last ended with an error that it explained."""
        for path, code in self._codes.items():
            if code in (EXIT_ERROR, EXIT_CONFIG) and path in self._errors:
                kind = ConfigError if code == EXIT_CONFIG else EvalkitError
                raise kind(f"{self._who.get(path, 'a worker')}: {self._errors[path]} (its log: {path})")

    def cancel(self, word: str) -> None:
        """Ends what has not ended, at once, in one line, which calls it `word`."""
        states = self.states(timeout=2)
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            subprocess.run(["scancel", *self._mine], capture_output=True, timeout=2)
        if states:
            log.info("%d Slurm jobs named %s are %s", states.total(), self._name, word)

    def _logs(self) -> Iterator[Path]:
        return iter(sorted(self.folder.glob("*_log.out")))

    def _new_lines(self, path: Path) -> list[str]:
        """Whole lines since the last look, without submitit's; notes who wrote them and how it ended."""
        with path.open("rb") as file:
            file.seek(self._read.get(path, 0))
            whole = file.read().rpartition(b"\n")[0]
        self._read[path] = self._read.get(path, 0) + len(whole) + bool(whole)
        lines = []
        for line in map(printable, whole.decode(errors="replace").splitlines()):
            if began := _BEGAN.fullmatch(line):
                self._who[path] = began[1]
                self._errors.pop(path, None)
            elif ended := _ENDED.fullmatch(line):
                code = self._codes[path] = int(ended[1])
                if code and path not in self._errors:
                    lines.append(f"ended with {how_it_ended(128 - code if code > 128 else code)}")
            elif line.strip() and not _NOISE.match(line):
                lines.append(line)
                if error := _ERROR.fullmatch(line):
                    self._errors[path] = error[1]
        return lines


def _path_of_a_checkout() -> list[str]:
    """The shell line with which a node finds this very evalkit, where it is not installed."""
    root = Path(__file__).resolve().parents[2]
    if root.name in ("site-packages", "dist-packages"):
        return []
    return [f"export PYTHONPATH={shlex.quote(str(root))}${{PYTHONPATH:+:$PYTHONPATH}}"]


@contextlib.contextmanager
def _outside_of_jobs() -> Iterator[None]:
    """Without the variables of a job that this process may run in: sbatch would take its sizes from them."""
    inner = {name: os.environ.pop(name) for name in list(os.environ) if re.match("SLURM_(?!CONF)", name)}
    try:
        yield
    finally:
        os.environ.update(inner)
