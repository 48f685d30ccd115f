"""Harms one file of a finished store at random, runs again, and says what became of it."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from command import results, run_evalkit
from PIL import Image

from evalkit.results.verify import verify

TIMED = {"latency_p50", "latency_p95", "images_per_second", "peak_memory_mb"}
KINDS = {  # a pattern of the path in the store, by kind
    "samples": r"samples/.*\.png",
    "metadata": r"samples/.*metadata\.jsonl",
    "manifests": r"samples/[^/]*/manifest-.*",
    "cell.json": r"samples/[^/]*/cell\.json",
    "features": r"features/.*",
    "scores": r"scores/.*",
    "scan index": r"cache/.*",
    "lint cache": r"lint/.*",
    "exports": r"small/export/.*",
    "sheets": r"small/(sheets/.*|[^/]*\.png)",
    "thumbnails": r"small/thumbnails\.json",
    "report": r"small/report\.html",
    "results": r"small/[^/]*",
}
_LDM = ("sampler=[dpmpp_2m]", "sampler.dpmpp_2m.num_inference_steps=2", "model.digits_ldm.guidance_scale=4")
OUTCOMES = ("remade", "told", "unaffected", "wrong scores shown", "crashed", "told without a name")


@dataclass(frozen=True)
class Trial:
    """One mutation: what was harmed and how, what became of it, and what the run said last."""

    kind: str
    file: str
    harm: str
    outcome: str
    verified: bool | None  # whether `verify` found it; none: it does not look for it
    said: str


class Harmed:
    """A finished store of generated cells and a folder of images, to be harmed and run again.

    Args:
        root: an empty folder.
        seed: of the mutations.
        models: of the generated cells.
    """

    def __init__(self, root: Path, seed: int, models: str = "digits_dcgan,digits_ldm") -> None:
        self.root, self.store, self.backup = root, root / "runs", root / "backup"
        self.rng = random.Random(seed)
        images = root / "images"
        images.mkdir()
        noise = np.random.default_rng(0)
        for i in range(24):
            Image.fromarray(noise.integers(0, 256, (32, 32, 3), np.uint8)).save(images / f"{i:02d}.bmp")
        self.command = (
            *(f"model=[{models},folder]", f"model.folder.path={images}", "num_samples=24", "prompts=[digits]"),
            *(_LDM if "ldm" in models else ()),
            "reference=digits",
            *("metric=[kid_digits,is_digits,clip_score_digits,precision_digits]", "metric.kid_digits.subset_size=16"),
            *("export=[folder,npz]", "out=runs/small", "contact_sheet=4", "baseline={model: digits_dcgan}"),
        )
        with mock.patch("evalkit.samples.cells.SHARD_SAMPLES", 16), mock.patch("evalkit.data.scan._SETTLED_NS", 0):
            for _ in range(2):  # the second time the digests of all are stamped
                done = run_evalkit(*self.command, cwd=root)
                assert done.returncode == 0, done.stderr
        self.truth, self.timed = self._shown()
        shutil.copytree(self.store, self.backup)

    def _shown(self) -> tuple[Any, Any]:
        """All that the results say of scores and of single samples; and of times."""
        out = self.store / "small"
        rows = [[row[name] for name in ("cell", "metric", "value", "stderr", "n")] for row in results(out)["rows"]]
        samples = re.sub(r"^evalkit.*$", "", (out / "samples.csv").read_text("utf-8"))
        return ([row for row in rows if row[1] not in TIMED], samples), [row for row in rows if row[1] in TIMED]

    def files(self, kind: str) -> list[Path]:
        """The store's files of a kind, in order."""
        taken: set[Path] = set()
        everything = sorted(path for path in self.backup.rglob("*") if path.is_file())
        for name, pattern in KINDS.items():
            paths = [p for p in everything if re.fullmatch(pattern, p.relative_to(self.backup).as_posix())]
            if name == kind:
                return [self.store / path.relative_to(self.backup) for path in paths if path not in taken]
            taken |= set(paths)
        raise KeyError(kind)

    def trial(self, kind: str) -> Trial:
        """Harms a file of a kind, runs, and puts all back as it was."""
        file = self.rng.choice(self.files(kind))
        name, harm = file.relative_to(self.store).as_posix(), self._harm(file, kind)
        harmed = file.read_bytes() if file.exists() else None
        verified = any(part.wrong for part in verify(self.store))
        if kind == "features":  # so that they are read again
            shutil.rmtree(self.store / "scores")
        outcome, said = self._judge(file, harmed)
        self._restore()
        needed = kind in (
            "samples",
            "metadata",
            "cell.json",
            "exports",
        )  # of the others nothing tells that it was there
        seen = None if kind in ("results", "report") or (harm == "deleted" and not needed) else verified
        return Trial(kind, name, harm, outcome, seen, said)

    def _harm(self, file: Path, kind: str) -> str:
        data, rng = file.read_bytes(), self.rng
        harms: list[tuple[str, Callable[[], bytes | None]]] = [
            ("one bit", lambda: _flipped(data, rng)),
            ("one bit, same size and time", lambda: _flipped(data, rng)),
            ("cut short", lambda: data[: rng.randrange(len(data))]),
            ("deleted", lambda: None),
            ("another's content", lambda: rng.choice(self.files(kind)).read_bytes()),
            ("another's content, same time", lambda: rng.choice(self.files(kind)).read_bytes()),
        ]
        if file.suffix in (".json", ".jsonl"):
            harms += [("a value edited", lambda: _edited(data, rng))] * 3
        about = file.stat()
        while True:
            harm, make = rng.choice(harms)
            new = make()
            if new != data:
                break
        if new is None:
            file.unlink()
        else:
            file.write_bytes(new)
            if "same" in harm:
                os.utime(file, ns=(about.st_atime_ns, about.st_mtime_ns))
        return harm

    def _judge(self, file: Path, harmed: bytes | None) -> tuple[str, str]:
        try:
            with mock.patch("evalkit.data.scan._SETTLED_NS", 0):
                done = run_evalkit(*self.command, cwd=self.root)
        except Exception as error:
            return "crashed", f"{type(error).__name__}: {error}"
        said = done.stderr.strip().splitlines()
        if done.returncode:
            place = file.relative_to(self.store)
            named = any(str(part) in said[-1] for part in (place, place.parent) if len(part.parts) > 1)
            return ("told" if named and said[-1].startswith("evalkit: ") else "told without a name"), said[-1]
        shown, timed = self._shown()
        remade = any(self._is_changed(path) for path in self.files("metadata"))
        if shown != self.truth or (timed != self.timed and not remade):
            return "wrong scores shown", said[-1] if said else ""
        now = file.read_bytes() if file.exists() else None
        if now != harmed:
            return "remade", said[-1] if said else ""
        findings = [line for line in done.stderr.splitlines() if "sha256" in line or "anew" in line]
        return ("told", findings[0]) if findings else ("unaffected", "")

    def _is_changed(self, path: Path) -> bool:
        before = self.backup / path.relative_to(self.store)
        return not path.exists() or path.read_bytes() != before.read_bytes()

    def _restore(self) -> None:
        for path in self.store.rglob("*"):
            if path.is_file() and not (self.backup / path.relative_to(self.store)).exists():
                path.unlink()
        for before in self.backup.rglob("*"):
            path = self.store / before.relative_to(self.backup)
            if before.is_file() and self._is_changed(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(before.read_bytes())


def trials(root: Path, count: int, seed: int = 0, **options: str) -> Iterator[Trial]:
    """`count` mutations, of all kinds of files in turn."""
    harmed = Harmed(root, seed, **options)
    for number in range(count):
        yield harmed.trial(list(KINDS)[number % len(KINDS)])


def _flipped(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(8 * len(data))
    return data[: at // 8] + bytes([data[at // 8] ^ (1 << (at % 8))]) + data[at // 8 + 1 :]


def _edited(data: bytes, rng: random.Random) -> bytes:
    """A JSON file, or a line of one, with another value somewhere; as it is where that line holds none."""
    lines, head = data.decode().split("\n"), ""
    at = rng.randrange(len(lines))
    try:
        lines, at, value = [""], 0, json.loads(data)
    except ValueError:  # JSON Lines, each after its digest or not
        head, _, text = lines[at].partition(" ") if re.match(r"[0-9a-f]{16} ", lines[at]) else ("", "", lines[at])
        if not text:
            return data
        value = json.loads(text)
    places = list(_scalars(value))
    if not places:
        return data
    holder, key = rng.choice(places)
    choices: list[Any] = [0, 1.5, -3, 7, "x", None, True, [], {}, 1e300]
    if isinstance(holder[key], int | float) and not isinstance(holder[key], bool):
        choices += [holder[key] * 2 + 1, holder[key] + 1e-6] * 4
    holder[key] = rng.choice(choices)
    lines[at] = (f"{head} " if head else "") + json.dumps(value, ensure_ascii=False)
    return "\n".join(lines).encode()


def _scalars(value: Any) -> Iterator[tuple[Any, Any]]:
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        if isinstance(inner, dict | list):
            yield from _scalars(inner)
        else:
            yield value, key
