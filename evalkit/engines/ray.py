"""Units on a Ray cluster: an actor per GPU, which serves all stages with the models that it has loaded.

Ray's tasks will not do: where they ask for a GPU each runs in a process of its own, which loads the model anew.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from evalkit.engines.base import Run, Work, missing
from evalkit.engines.queue import MACHINES, Queue
from evalkit.engines.ray_actor import GATHER, Actor, News
from evalkit.engines.ray_cluster import connect, places, reason
from evalkit.engines.voice import Shown, Voice, rebuild
from evalkit.errors import ConfigError, EvalkitError, whole_number

log = logging.getLogger(__name__)

LOOK = 5.0  # seconds between looks at the cluster's nodes, which come and go
PATIENCE = 60.0  # seconds between lines that say that there is no worker: others may have the whole cluster
FAREWELL = 2.0  # seconds in which units that are stopped put away what they had begun
STILLBORN = 10  # actors in a row that ended before they could do anything, while none is at work


@dataclass(eq=False)
class _Worker:
    """An actor; `calls` are what it was asked, by Ray's references."""

    name: str
    actor: Any
    calls: dict[Any, str] = field(default_factory=dict)
    host: str = ""
    node: str = ""
    state: str = "starting"  # ready, refuses
    heard: float = 0.0

    def __str__(self) -> str:
        return f"{self.name} on {self.host}" if self.host else self.name


class Ray:
    """An engine over Ray's actors.

    Args:
        address: "local": a cluster of this machine, for this run; "auto": the one that this machine, or Ray's job, is
            in; or HOST:PORT of one.
        num_gpus: per actor; 0.5 lets two share one. Where the cluster has none, its CPUs alone count.
        num_cpus: per actor, or as many as a node has for each.
        actors: at most so many; "auto": as many as the cluster has room for, also on nodes that join later.
        losses: actors that one unit may end before it is set aside.
        silence: seconds without a sign of an actor (a cut link, a frozen node) after which another takes its unit.
        token_file: holds the cluster's token; none: Ray's own rule (RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH, ~/.ray).

    Raises:
        ConfigError: a setting is not as it should be.
    """

    in_process = False
    leads = True
    many = True

    def __init__(
        self,
        *,
        address: str = "local",
        num_gpus: float = 1,
        num_cpus: int = 4,
        actors: int | str = "auto",
        losses: int = 3,
        silence: float = 30,
        token_file: str | None = None,
    ) -> None:
        if num_gpus <= 0 or silence < 10:
            raise ConfigError(f"engine.ray: num_gpus={num_gpus}, silence={silence}: give > 0, and >= 10 (seconds)")
        self._address, self._token_file, self._silence = address, token_file, silence
        self._gpus, self._cpus = num_gpus, whole_number(num_cpus, "engine.ray.num_cpus")
        self._most = None if actors == "auto" else whole_number(actors, "engine.ray.actors")
        self._losses = whole_number(losses, "engine.ray.losses")
        self._ray: Any = None
        self._ours = False
        self._voice = Voice()
        self._open: Callable[[], Run] | None = None
        self._workers: list[_Worker] = []
        self._hired = self._stillborn = 0
        self._looked, self._spoke = 0.0, time.monotonic()

    def map(self, work: Work) -> None:
        self._open = self._open or work.open
        queue = Queue(replace(work, units=missing(work)), self._losses)
        if not queue.left:
            return
        try:
            if self._ray is None:
                self._ray, self._ours = connect(self._address, self._token_file)
            for worker in self._workers:
                worker.heard = time.monotonic()  # nobody listened between the stages
            with Shown(work.stage, work.totals, queue.left) as shown:
                while queue.left:
                    self._hire()
                    self._give_out(queue, work.alone)
                    shown.workers(queue.running, len(self._workers))
                    self._listen(queue, shown)
                time.sleep(2 * GATHER)  # the last words may still be under way
                self._listen(queue, shown, 0.0)
        except BaseException:
            self.close()
            raise
        queue.check()

    def close(self) -> None:
        """Ends the actors; those at work have 2 s to put away what they had begun."""
        if self._ray is None:
            return
        busy = [(worker, call) for worker in self._workers for call, kind in worker.calls.items() if kind == "run"]
        for worker, _ in busy:
            self._call(worker, "stop")
        if busy:
            self._ray.wait([call for _, call in busy], num_returns=len(busy), timeout=FAREWELL)
        for worker in self._workers:
            self._ray.kill(worker.actor)
        if self._ours:
            self._ray.shutdown()
        self._ray = None
        self._workers.clear()

    def _call(self, worker: _Worker, what: str, *arguments: Any) -> None:
        group = "unit" if what in ("open", "run") else "news"
        worker.calls[getattr(worker.actor, what).options(concurrency_group=group).remote(*arguments)] = what

    def _hire(self) -> None:
        """Actors for all that the cluster has room for now."""
        if time.monotonic() - self._looked < LOOK:
            return
        self._looked = time.monotonic()
        if all(worker.state == "starting" for worker in self._workers) and self._looked > self._spoke + PATIENCE:
            self._spoke = self._looked
            log.info("no worker is up yet; Ray has %d to start", len(self._workers))
        count, needs = places(list(self._nodes().values()), self._gpus, self._cpus)
        for _ in range(min(count, self._most or count) - len(self._workers)):
            self._hired += 1
            groups = {"unit": 1, "news": 2}  # threads: one for units, two for what is asked meanwhile
            actor = self._ray.remote(concurrency_groups=groups, max_restarts=0, **needs)(Actor).remote()
            self._workers.append(_Worker(f"w{self._hired}", actor))
            self._call(self._workers[-1], "open", self._open)

    def _nodes(self) -> dict[str, dict[str, float]]:
        """The resources of nodes that the cluster believes to be alive, by their ids."""
        return {node["NodeID"]: node["Resources"] for node in self._ray.nodes() if node["Alive"]}

    def _give_out(self, queue: Queue, alone: frozenset[str]) -> None:
        beside = Counter(worker.node for worker in self._workers if worker.state == "ready")
        for worker in self._workers:
            if worker.state == "ready" and queue.of(worker.name) is None:
                unit = queue.take(worker.name)
                if unit is not None:
                    self._call(worker, "run", unit, 1 if unit.key in alone else beside[worker.node])

    def _listen(self, queue: Queue, shown: Shown, patience: float = 1.0) -> None:
        """Takes what comes in, within so many seconds; then sees who has not been heard of."""
        calls = {call: worker for worker in self._workers for call in worker.calls}
        if not calls:
            time.sleep(min(LOOK, patience))
            return
        self._ray.wait(list(calls), timeout=patience)
        ready, _ = self._ray.wait(list(calls), num_returns=len(calls), timeout=0)
        for call in sorted(ready, key=lambda call: calls[call].calls[call] != "run"):  # before a worker's death
            worker = calls[call]
            if worker not in self._workers:
                continue
            kind = worker.calls.pop(call)
            try:
                self._take(worker, kind, self._ray.get(call), queue, shown)
            except self._ray.exceptions.RayTaskError as error:  # not what a unit raised: our own code was not to be had
                refusal = EvalkitError(f"evalkit does not work there: {error.cause or error}")
                if kind == "run":
                    raise EvalkitError(f"{worker}: {refusal}") from None
                self._refuse(worker, refusal)
            except self._ray.exceptions.RayError as error:
                self._lose(worker, queue, shown, reason(error))
        for worker in [w for w in self._workers if w.state == "ready"]:
            if time.monotonic() - worker.heard > self._silence:
                self._lose(worker, queue, shown, f"no sign of it for {self._silence:.0f} s")

    def _take(self, worker: _Worker, kind: str, answer: Any, queue: Queue, shown: Shown) -> None:
        worker.heard = time.monotonic()
        if kind == "open":
            worker.host, worker.node, refusal = answer
            worker.state, self._stillborn = "ready", 0
            if refusal is not None:
                self._refuse(worker, rebuild(refusal))
            self._call(worker, "news")
        elif kind == "run":
            failure, news = answer
            self._tell(worker, news, shown)
            queue.finish(worker.name)
            if failure is not None:
                raise rebuild(failure, str(worker))
            shown.done(worker.name)
        elif kind == "news":
            self._tell(worker, answer, shown)
            self._call(worker, "news")

    def _tell(self, worker: _Worker, news: News, shown: Shown) -> None:
        for name, images in news.told.items():
            shown.tell(worker.name, name, images)
        for record in news.logged:
            self._voice.say(str(worker), *record)

    def _refuse(self, worker: _Worker, refusal: BaseException) -> None:
        """A worker that refuses stays, so that no other takes its place; the run ends where all refuse."""
        worker.state = "refuses"
        if all(other.state == "refuses" for other in self._workers):
            refusal.args = (f"{worker}: {refusal}",)
            raise refusal
        log.warning("[%s] takes no part: %s", worker, refusal)

    def _lose(self, worker: _Worker, queue: Queue, shown: Shown, reason: str) -> None:
        self._workers.remove(worker)
        shown.lost(worker.name)
        self._ray.kill(worker.actor)
        unit = queue.lose(worker.name, blame=MACHINES if worker.node in self._nodes() else 1)
        log.warning("[%s] is lost%s: %s", worker, f" with {unit.label}" if unit else "", reason)
        self._stillborn += worker.state == "starting"
        if self._stillborn >= STILLBORN and all(other.state != "ready" for other in self._workers):
            raise EvalkitError(f"{STILLBORN} workers in a row ended as they started: {reason}")
