"""ComfyUI: a workflow with placeholders, queued by POST /prompt, watched by GET /history and /queue, fetched by /view.

Source: server.py and execution.py of that project. A finished workflow moves from the queue to the history in one step,
so that what is in neither (asked in this order) is lost, and has to be queued again.
"""

from __future__ import annotations

import re
import time
import urllib.parse
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.errors import ConfigError, DataError, nearest
from evalkit.http.client import Stopped, Transient
from evalkit.http.job import Job, seconds_of
from evalkit.models.base import Request, Sampler, Settings
from evalkit.models.services.base import Service
from evalkit.utils.files import resolve_path, sha256_json
from evalkit.utils.json_files import read_json

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_PLACEHOLDER = re.compile(r"\{\{\s*(\w+)\s*\}\}")
_SETTINGS = ("num_inference_steps", "guidance_scale", "height", "width", "sampler_name", "scheduler", "checkpoint")
_FILLED = ("prompt", "negative_prompt", "seed")  # placeholders whose values evalkit knows


@dataclass(eq=False, repr=False, kw_only=True)
class ComfyUI(Service):
    """Any workflow that makes one image.

    Args:
        workflow: a file in the API format (menu: Workflow, Export (API)). Its values hold {{prompt}} and {{seed}}, and
            if you like {{negative_prompt}}, {{width}}, {{height}} and the other call settings' names. A value that is
            nothing but a placeholder takes the setting's type; within a longer text it becomes text.
        base_url: of ComfyUI.
        output_node: the id of the node whose image counts, where the workflow saves several.
        poll: seconds between two requests for the history: latencies are no finer than that.
        api_key_env, api_key_header, api_key_scheme, version, client: see `Service`. A request of `client.timeout` never
            waits for the image itself; `client.budget` does, the time in ComfyUI's queue included.

    Call settings: those above, negative_prompt (a prompt's own wins), `extra` (placeholders of your own), `load`.
    """

    call_settings = frozenset({*_SETTINGS, "negative_prompt", "extra", "load"})
    reserved = frozenset({*_SETTINGS, *_FILLED})

    workflow: str
    base_url: str = "http://127.0.0.1:8188"
    output_node: str | int | None = None
    poll: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.poll, bool) or not isinstance(self.poll, int | float) or not 0 < self.poll < float("inf"):
            raise ConfigError(f"poll={self.poll!r}: give seconds, more than 0")
        if self.output_node is not None:
            self.output_node = str(self.output_node)

    @cached_property
    def graph(self) -> dict[str, Any]:
        """The workflow as it is in its file: node id -> {class_type, inputs}."""
        return read_workflow(resolve_path(self.workflow))

    def check(self, *, fetch: bool = True) -> None:
        """Reads the workflow, which must have the node and hold {{prompt}} and {{seed}}."""
        names = set(placeholders(self.graph))
        for name in ("prompt", "seed"):
            if name not in names:
                raise ConfigError(
                    f"{self.workflow} has no {{{{{name}}}}}: put it where the workflow has its {name}"
                    + (' ("seed": "{{seed}}")' if name == "seed" else "")
                )
        if self.output_node is not None and self.output_node not in self.graph:
            known = nearest(str(self.output_node), self.graph)
            raise ConfigError(f"{self.workflow} has no node '{self.output_node}' (output_node). {known}")

    def identity(self) -> dict[str, Any]:
        """Address, version and the workflow's digest."""
        service = {"kind": "comfyui", "url": self.base_url, "version": self.version}
        return {**service, "workflow": sha256_json(self.graph), "output_node": self.output_node}

    def check_call(self, sampler: Sampler | None, settings: Settings) -> None:
        """As `Service`; and every placeholder has a value, every setting a placeholder."""
        settings_given = {name for name, value in _values(settings).items() if value is not None}
        given = settings_given | set(_FILLED)
        in_workflow = set(placeholders(self.graph))
        for name in sorted(in_workflow - given):
            raise ConfigError(f"{self.workflow}: {{{{{name}}}}} has no value. {nearest(name, given | set(_SETTINGS))}")
        for name in sorted(settings_given - {"prompt", "seed"} - in_workflow):
            raise ConfigError(f"{self.workflow} has no {{{{{name}}}}}: the setting {name} would change nothing")
        super().check_call(sampler, settings)

    def ask(self, job: Job, request: Request, settings: Settings) -> tuple[bytes, list[str]]:
        raise NotImplementedError("an image of ComfyUI takes several requests: see obtain")

    def obtain(self, job: Job, request: Request, settings: Settings) -> tuple[NDArray[np.uint8], float, list[str]]:
        """One image u8 [H,W,3], the seconds from queueing it to having it, and warnings."""
        negative = request.negative_prompt if request.negative_prompt is not None else settings.get("negative_prompt")
        values = {"prompt": request.prompt, "negative_prompt": negative or "", "seed": request.seed32()}
        graph = fill(self.graph, {**_values(settings), **values})
        unstoppable = job.unstoppable()
        began = 0.0

        def make() -> dict[str, Any]:
            nonlocal began
            began = time.monotonic()
            entry = self._wait_for_image(job, unstoppable, self._queue(job, graph))
            took = _execution_seconds(entry)  # by ComfyUI's clock: the rest was waiting, for its turn and for the poll
            job.queued = None if took is None else max(time.monotonic() - began - took, 0.0)
            return self._output(job, entry)

        file = job.retrying(make)
        query = urllib.parse.urlencode({k: str(file.get(k) or "") for k in ("filename", "subfolder", "type")})
        address = f"{self.base_url}/view?{query}"
        pixels, warnings = unstoppable.retrying(
            lambda: self.decode(job.client.download(address, deadline=job.deadline), settings)
        )
        job.retries += unstoppable.retries
        if request.negative_prompt and "negative_prompt" not in set(placeholders(self.graph)):
            warnings.append("negative_prompt_ignored")
        return pixels, time.monotonic() - began, warnings

    def _queue(self, job: Job, graph: Mapping[str, Any]) -> str:
        """Queues a workflow once, even where the answer is lost: it is looked for before it is sent again."""
        own_id = str(uuid.uuid4())
        sent = False

        def attempt() -> str:
            nonlocal sent
            if sent and self._is_known(job, own_id):
                return own_id
            sent = True
            body = {"prompt": graph, "prompt_id": own_id, "client_id": "evalkit"}
            prompt_id = job.client.json("POST", "/prompt", body, deadline=job.deadline).get("prompt_id")
            if not isinstance(prompt_id, str) or not prompt_id:
                raise Transient("the answer holds no prompt_id")
            return prompt_id  # older ones do not take ours

        return job.retrying(attempt)

    def _is_known(self, job: Job, prompt_id: str) -> bool:
        """Whether a workflow is in the queue or in the history."""
        queue = job.client.json("GET", "/queue", deadline=job.deadline)
        items = [item for name in ("queue_running", "queue_pending") for item in _list(queue.get(name))]
        queued = any(isinstance(item, list) and prompt_id in item[1:2] for item in items)
        return queued or self._history(job, prompt_id) is not None

    def _history(self, job: Job, prompt_id: str) -> object:
        """What the history says of a workflow; none: it is not finished."""
        path = f"/history/{urllib.parse.quote(prompt_id, safe='')}"
        return job.client.json("GET", path, deadline=job.deadline).get(prompt_id)

    def _wait_for_image(self, job: Job, unstoppable: Job, prompt_id: str) -> object:
        """What the history says of a workflow, once it is finished.

        Raises:
            Transient: ComfyUI forgot it.
            Stopped: the batch ended before ComfyUI began with it.
        """
        dropped = False
        while True:
            retries = unstoppable.retries
            entry = unstoppable.retrying(lambda: self._history(job, prompt_id))
            if entry is not None:
                return entry
            if job.stop.is_set() and not dropped:
                dropped = True
                unstoppable.retrying(lambda: self._drop(job, prompt_id))
                if not unstoppable.retrying(lambda: self._is_known(job, prompt_id)):
                    raise Stopped
            if unstoppable.retries > retries and not unstoppable.retrying(lambda: self._is_known(job, prompt_id)):
                raise Transient("ComfyUI has forgotten what it was to make (started again?)")
            unstoppable.wait(self.poll, "the image is not made yet")

    def _drop(self, job: Job, prompt_id: str) -> None:
        """Takes a workflow out of the queue, if it has not begun."""
        job.client.send("POST", "/queue", {"delete": [prompt_id]}, deadline=job.deadline)

    def _output(self, job: Job, entry: object) -> dict[str, Any]:
        """The image's {filename, subfolder, type}. Transient: ComfyUI failed at it, or made none or several."""
        status = _mapping(_mapping(entry).get("status"))
        if status.get("status_str") == "error":
            raise Transient(f"ComfyUI failed: {job.client.shown(_message(status))}")
        files = [
            file
            for node, output in _mapping(_mapping(entry).get("outputs")).items()
            if self.output_node in (None, node)
            for file in _list(_mapping(output).get("images"))
            if _mapping(file).get("filename")
        ]
        files = [file for file in files if file.get("type") == "output"] or files  # previews do not count next to them
        if len(files) != 1:
            raise Transient(f"the workflow made {len(files)} images, not 1 (output_node picks a node)")
        return _mapping(files[0])


def _values(settings: Settings) -> dict[str, Any]:
    """Settings, and placeholders of the user's own."""
    return {
        **{name: value for name, value in settings.items() if name not in ("extra", "load")},
        **(settings.get("extra") or {}),
    }


def _execution_seconds(entry: object) -> float | None:
    """From the messages of a finished workflow how long it was executed; none: they do not tell (before 2024)."""
    at: dict[str, float] = {}
    for message in _list(_mapping(_mapping(entry).get("status")).get("messages")):
        if isinstance(message, list) and len(message) == 2:
            stamp = seconds_of(_mapping(message[1]).get("timestamp"))  # in milliseconds
            if isinstance(message[0], str) and stamp is not None:
                at[message[0]] = stamp / 1000
    if "execution_start" not in at or "execution_success" not in at:
        return None
    return max(at["execution_success"] - at["execution_start"], 0.0)


def _mapping(value: object) -> dict[str, Any]:
    """A JSON object; empty where it is something else."""
    return value if isinstance(value, dict) else {}


def _list(value: object) -> list[Any]:
    """A JSON array; empty where it is something else."""
    return value if isinstance(value, list) else []


def _message(status: Mapping[str, Any]) -> str:
    """What an execution_error says."""
    for item in _list(status.get("messages")):
        if isinstance(item, list) and len(item) == 2 and item[0] == "execution_error" and isinstance(item[1], dict):
            return f"{item[1].get('node_type')}: {item[1].get('exception_message')}"
    return "no reason given"


def read_workflow(file: Path) -> dict[str, Any]:
    """A workflow in the API format. ConfigError: it is missing, no JSON, or in the editor's format."""
    try:
        graph = read_json(file, finite=True)
    except OSError as error:
        raise ConfigError(f"workflow {file} cannot be read: {error.strerror or error}") from None
    except DataError as error:
        raise ConfigError(f'workflow {error}. Placeholders are in quotes: "{{{{seed}}}}"') from None
    if isinstance(graph, dict) and "nodes" in graph and "links" in graph:
        raise ConfigError(f"workflow {file} is in the editor's format: export it again with Export (API)")
    nodes = isinstance(graph, dict) and all(isinstance(n, dict) and "class_type" in n for n in graph.values())
    if not nodes or not graph:
        raise ConfigError(f"workflow {file} is no workflow in the API format: {{id: {{class_type, inputs}}}}")
    return dict(graph)


def placeholders(value: object) -> Iterator[str]:
    """The names of all placeholders in a JSON value."""
    if isinstance(value, str):
        yield from _PLACEHOLDER.findall(value)
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from placeholders(item)


def fill(value: Any, values: Mapping[str, Any]) -> Any:
    """A JSON value with its placeholders filled, in one pass: what a prompt holds is never read as a placeholder."""
    if isinstance(value, dict):
        return {key: fill(item, values) for key, item in value.items()}
    if isinstance(value, list):
        return [fill(item, values) for item in value]
    if not isinstance(value, str):
        return value
    whole = _PLACEHOLDER.fullmatch(value)
    if whole:
        return values[whole[1]]
    return _PLACEHOLDER.sub(lambda match: str(values[match[1]]), value)
