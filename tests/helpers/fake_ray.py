"""As much of the module `ray` as the engine calls, on threads of this process; nodes and actors fail as tests like."""

from __future__ import annotations

import concurrent.futures
import threading
from types import SimpleNamespace
from typing import Any


class RayError(Exception):
    pass


class RayActorError(RayError):
    pass


class RayTaskError(RayError):
    def __init__(self, cause: Exception) -> None:
        super().__init__(str(cause))
        self.cause = cause


class FakeRay:
    """`resources` and `alive` of its nodes are lists to edit."""

    def __init__(self, nodes: list[dict[str, float]]) -> None:
        self.exceptions = SimpleNamespace(RayError=RayError, RayActorError=RayActorError, RayTaskError=RayTaskError)
        self.resources = nodes
        self.alive = [True for _ in nodes]
        self.actors: list[FakeActor] = []
        self.asked: list[dict[str, Any]] = []
        self.shut = 0
        self.changed = threading.Condition()

    def nodes(self) -> list[dict[str, Any]]:
        return [
            {"NodeID": str(i), "Alive": alive, "Resources": resources}
            for i, (resources, alive) in enumerate(zip(self.resources, self.alive, strict=True))
        ]

    def remote(self, **options: Any) -> Any:
        def make(kind: type) -> Any:
            def start() -> FakeActor:
                self.asked.append(options)
                self.actors.append(FakeActor(self, kind()))
                return self.actors[-1]

            return SimpleNamespace(remote=start)

        return make

    def wait(self, calls: list[Any], num_returns: int = 1, timeout: float | None = None) -> tuple[list[Any], list[Any]]:
        with self.changed:
            self.changed.wait_for(lambda: sum(call.done() for call in calls) >= num_returns, timeout)
        return [call for call in calls if call.done()], [call for call in calls if not call.done()]

    def get(self, call: Any) -> Any:
        return call.result()

    def kill(self, actor: FakeActor) -> None:
        actor.die("it was killed")

    def shutdown(self) -> None:
        self.shut += 1


class FakeActor:
    """Each call runs on a thread of its own, unless the actor is dead or frozen."""

    def __init__(self, ray: FakeRay, instance: Any) -> None:
        self.ray, self.instance = ray, instance
        self.dead = ""
        self.frozen = False
        self.calls: list[concurrent.futures.Future[Any]] = []

    def __getattr__(self, name: str) -> Any:
        return SimpleNamespace(
            options=lambda concurrency_group: SimpleNamespace(remote=lambda *given: self.call(name, *given))
        )

    def call(self, name: str, *given: Any) -> concurrent.futures.Future[Any]:
        call: concurrent.futures.Future[Any] = concurrent.futures.Future()
        self.calls.append(call)
        if self.dead:
            self.settle(call, error=RayActorError(self.dead))
        else:
            threading.Thread(target=self.work, args=(call, name, given), daemon=True).start()
        return call

    def work(self, call: concurrent.futures.Future[Any], name: str, given: tuple[Any, ...]) -> None:
        try:
            value = getattr(self.instance, name)(*given)
        except SystemExit as end:  # a unit that ends its worker
            self.die(f"The actor died because {end}. And more.")
        except BaseException as error:
            self.settle(call, error=RayTaskError(error))
        else:
            if not self.frozen:
                self.settle(call, value)

    def settle(self, call: concurrent.futures.Future[Any], value: Any = None, error: Exception | None = None) -> None:
        with self.ray.changed:
            if not call.done():
                call.set_exception(error) if error else call.set_result(value)
            self.ray.changed.notify_all()

    def die(self, why: str) -> None:
        self.dead = why
        for call in self.calls:
            self.settle(call, error=RayActorError(why))
