"""A plan in the store, from which any process makes the same plan again: what a worker is told is (store, key) alone.

`plans/<key>.json` holds the configuration, the working folder, the cells' keys, and what the code and its libraries
are. Below `plans/<key>/left/` units leave word of what they could not give (`Leftovers`), and `tries/` there
holds a note per unit that a process of a gang is at, or ended in.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import platform
import socket
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from evalkit.config.schema import RunConfig
from evalkit.errors import ConfigError, StoreError
from evalkit.features.store import extractor_id
from evalkit.lint.parts import Parts
from evalkit.plan.plan import Plan, make_plan
from evalkit.scoring.cache import code_digest
from evalkit.utils.blobs import Blobs, open_blobs
from evalkit.utils.code import package_digest
from evalkit.utils.files import sha256_bytes, sha256_json, temporary_path

KEY_DIGITS = 20  # hex digits of a plan's digest
VERSIONS = ("evalkit", "torch", "diffusers", "transformers", "numpy", "scipy", "pillow", "open-clip-torch", "timm")
# What the driver alone does: a worker builds and checks none of it.
_DRIVERS: dict[str, Any] = {
    **{"engine": {}, "gate": {}, "tracker": {}, "export": {}, "add_results": [], "save_stats": None},
    **{"rescan": False, "report": False, "walk": RunConfig().walk, "votes": None},
}


def store_plan(plan: Plan) -> str:
    """Puts a plan into its store, once; returns its key.

    Raises:
        StoreError: the store cannot be written.
    """
    about = _about(plan)
    key = sha256_json(about)[:KEY_DIGITS]
    here = {"folder": str(Path.cwd()), "path": [folder for folder in sys.path if Path(folder or ".").is_dir()]}
    text = json.dumps(about | here, ensure_ascii=False, default=str)
    _plans(plan.store.address).put_new(f"{key}.json", text.encode("utf-8", "surrogatepass"))
    return key


def open_plan(store: str, key: str) -> Plan:
    """The plan that another process stored, made again here and found to be the same.

    This process goes to the folder that the plan was made in, where there is one.

    Args:
        store: the store's folder or URL.
        key: of the plan.

    Raises:
        StoreError: the store is not seen from here, or cannot be written.
        ConfigError: cells, code or libraries are other ones here; or whatever `make_plan` refuses.
    """
    stored = read_plan(store, key)
    _probe(store)
    if Path(stored["folder"]).is_dir():
        os.chdir(stored["folder"])
    sys.path += [folder for folder in stored["path"] if folder not in sys.path and Path(folder or ".").is_dir()]
    _compare("libraries", stored["versions"], _versions(), "install the same on all machines")
    if stored["code"] != package_digest("evalkit"):
        raise ConfigError(
            f"{socket.gethostname()}: evalkit's code is not the driver's: install the same on all machines"
        )
    logging.disable(logging.INFO)  # what planning has to say, the driver has said
    try:
        plan = make_plan(RunConfig(**stored["config"]))
    finally:
        logging.disable(logging.NOTSET)
    about = _about(plan)
    for part, fix in (
        ("cells", "weights, prompts or files are other ones here: give all machines the same"),
        ("metrics", "a metric's code is another one here: install the same on all machines"),
        ("extractors", "an extractor's code or weights are other ones here: give all machines the same"),
    ):
        _compare(part, stored[part], about[part], fix)
    return plan


def read_plan(store: str, key: str) -> dict[str, Any]:
    """A stored plan as JSON: its configuration is at "config". StoreError where it is not seen from here."""
    try:
        stored: dict[str, Any] = json.loads(_plans(store).get(f"{key}.json").decode("utf-8", "surrogatepass"))
    except (OSError, ValueError) as error:
        fix = "a store must be a folder that all machines share under one path, or a URL (store=s3://BUCKET/PREFIX)"
        raise StoreError(f"{_seen(store)} holds no plan {key} ({type(error).__name__}): {fix}") from error
    return stored


def _seen(store: str) -> str:
    return f"{store} as {socket.gethostname()} sees it"


def parts_of(plan: Plan, key: str) -> Parts | None:
    """What is measured of a plan's images for the lint, chunk by chunk; none where the plan has no lint."""
    return Parts(_plans(plan.store.address).below(f"{key}/lint")) if plan.config.lint else None


def _about(plan: Plan) -> dict[str, Any]:
    """What makes two plans the same plan, as JSON."""
    config = replace(plan.config, store=plan.store.address, **_DRIVERS)
    return {
        "config": json.loads(json.dumps(asdict(config), default=str)),
        "cells": {cell.name: cell.key for cell in plan.all_cells},
        "metrics": {name: code_digest(metric) for name, metric in plan.metrics.items()},
        "extractors": {name: extractor_id(extractor) for name, extractor in plan.extractors.items()},
        "versions": _versions(),
        "code": package_digest("evalkit"),
    }


def _plans(store: str) -> Blobs:
    return open_blobs(store).below("plans")


def _probe(store: str) -> None:
    """Raises StoreError where this process cannot write what it then reads."""
    plans = _plans(store)
    with temporary_path(Path("probe")) as free:  # a name that is swept where this process is killed meanwhile
        key = free.name
        plans.put(key, key.encode())
        try:
            same = plans.get(key) == key.encode()
        except OSError as error:
            raise StoreError(f"{_seen(store)} cannot be read ({type(error).__name__}): use another store") from error
        finally:
            with contextlib.suppress(StoreError):
                plans.delete(key)
    if not same:
        raise StoreError(f"{_seen(store)} does not give back what is written there: use another store")


def _compare(what: str, there: Mapping[str, Any], here: Mapping[str, Any], fix: str) -> None:
    for name in dict.fromkeys([*there, *here]):
        if there.get(name) != here.get(name):
            values = f"the driver has {str(there.get(name))[:20]}, {socket.gethostname()} {str(here.get(name))[:20]}"
            raise ConfigError(f"{what}: of {name} {values}: {fix}")


def _versions() -> dict[str, str]:
    """Of Python and the libraries that values come from; builds of one release for other devices are one."""
    versions = {"python": ".".join(platform.python_version_tuple()[:2])}
    for package in VERSIONS:
        with contextlib.suppress(PackageNotFoundError):
            versions[package] = version(package).partition("+")[0]
    return versions


def come(store: str, key: str, rank: int) -> None:
    """Notes that the process of a rank works on a plan."""
    _plans(store).put(f"{key}/ranks/{rank}", b"")


def ranks(store: str, key: str) -> set[int]:
    """The ranks whose processes have worked on a plan."""
    return {int(name) for name, _ in _plans(store).below(f"{key}/ranks").list() if name.isdecimal()}


def tries_of(store: str, key: str) -> Blobs:
    """Where the processes of a gang note which units of a plan they have begun."""
    return _plans(store).below(f"{key}/tries")


@dataclass(frozen=True)
class Leftovers:
    """What units of a plan could not give: scores without a value, images that an extractor cannot take.

    It is no result, and the next run tries again: the process that leads a run sweeps it first.
    """

    blobs: Blobs

    @classmethod
    def of(cls, plan: Plan, key: str) -> Leftovers:
        return cls(_plans(plan.store.address).below(f"{key}/left"))

    def leave(self, unit: str, word: Mapping[str, Any]) -> None:
        """Writes what a unit, by its key, has to say (JSON), unless another that ran it was first."""
        self.blobs.put_new(_name(unit), json.dumps({"unit": unit, **word}, ensure_ascii=False).encode())

    def of_units(self, units: Iterable[str]) -> set[str]:
        """The units, by their keys, that left word; by one listing."""
        there = {name for name, _ in self.blobs.list()}
        return {unit for unit in units if _name(unit) in there} if there else set()

    def read(self, unit: str) -> dict[str, Any]:
        """What a unit had to say; nothing where it left no word."""
        try:
            word: dict[str, Any] = json.loads(self.blobs.get(_name(unit)))
        except (OSError, ValueError):
            return {}
        return word

    def sweep(self) -> None:
        """Forgets it all."""
        for name, _ in list(self.blobs.list()):
            self.blobs.delete(name)


def _name(unit: str) -> str:
    return f"{sha256_bytes(unit.encode())[:KEY_DIGITS]}.json"
