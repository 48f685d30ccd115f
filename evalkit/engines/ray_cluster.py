"""A Ray cluster: to be of it, and what it has room for."""

from __future__ import annotations

import logging
import os
import secrets
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from evalkit.errors import ConfigError, EvalkitError

log = logging.getLogger(__name__)

STARTS = 3  # of a local cluster, which on a busy machine may not come up in the 30 s that Ray allows
STORE = 80 * 2**20  # bytes of Ray's object store, which holds nothing of ours: about its least


def connect(address: str, token_file: str | None) -> tuple[Any, bool]:
    """Makes this process one of the cluster at `address`; "local" starts one for this process alone.

    Returns:
        The module `ray`, and whether it was this call that connected it.

    Raises:
        ConfigError: Ray is not installed, or there is no such token file.
        EvalkitError: the cluster cannot be reached, or none came up in three tries.
    """
    local = address == "local"
    spec = find_spec("ray")
    if spec is None or spec.origin is None:  # no origin: a folder of that name, such as Ray's own /tmp/ray
        raise ConfigError("engine=ray: Ray is not installed: pip install 'evalkit[ray]'")
    _set_token(local, token_file)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Under `uv run` Ray would send the whole working folder to each node, and start workers by `uv run` in that copy,
    # which installs all anew (without a network: never). Nodes have their own installation, as everywhere else.
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    import ray

    if ray.is_initialized():
        return ray, False
    options: dict[str, Any] = {"object_store_memory": STORE, "include_dashboard": False} if local else {}
    reason: Exception | None = None
    for trial in range(STARTS if local else 1):
        try:
            with _handlers_as_before():
                ray._private.worker.print_to_stdstream = _drop  # its words on lost workers, on stdout: we say so
                ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **options)
            return ray, True
        except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
            ray.shutdown()
            reason = error
            if local:
                log.info("Ray did not start (%d of %d)", trial + 1, STARTS)
    fix = "is it up, of this version of Ray and Python, and its token (engine.ray.token_file, RAY_AUTH_TOKEN) this one?"
    if local:
        fix = "on a busy machine start it once, by `ray start --head`, and give engine.ray.address=auto"
    raise EvalkitError(f"engine.ray.address={address}: {reason}; {fix}") from None


def _set_token(local: bool, token_file: str | None) -> None:
    """Sets the variables that Ray reads as it is imported. A local cluster's token is made up: nobody else needs it."""
    if token_file is not None:
        path = Path(token_file).expanduser().absolute()
        if not path.is_file():
            raise ConfigError(f"engine.ray.token_file={token_file}: there is no such file")
        os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=str(path))
    elif local and "RAY_AUTH_MODE" not in os.environ:
        os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))


@contextmanager
def _handlers_as_before() -> Iterator[None]:
    """Ray's own handler of SIGTERM would end the process where it stands."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def places(nodes: Sequence[Mapping[str, float]], gpus: float, cpus: int) -> tuple[int, dict[str, float]]:
    """How many actors there is room for, and what each asks for.

    Args:
        nodes: each node's resources.
        gpus: per actor. Where no node has so many, actors go by the CPUs alone.
        cpus: per actor; fewer, where a node has not so many for each of its GPUs, or no node has so many at all.
    """
    with_gpus = [(int(node["GPU"] / gpus), node.get("CPU", 0.0)) for node in nodes if node.get("GPU", 0.0) >= gpus]
    if with_gpus:
        share = min(cpu / count for count, cpu in with_gpus)
        return sum(count for count, _ in with_gpus), {"num_gpus": gpus, "num_cpus": min(cpus, round(share, 4))}
    most = max((node.get("CPU", 0.0) for node in nodes), default=0.0)
    each = min(cpus, int(most)) or 1
    return sum(int(node.get("CPU", 0.0) / each) for node in nodes), {"num_cpus": each}


def reason(error: Exception) -> str:
    """Why an actor is gone, out of Ray's many words."""
    text = " ".join(str(error).split())
    return (text.partition(" because ")[2] or text).partition(". ")[0]


def _drop(*_: object, **__: object) -> None:
    pass
