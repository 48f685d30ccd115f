"""ComfyUI: a workflow with placeholders, queued by POST /prompt, watched by GET /history and /queue, fetched by /view.

Source: server.py and execution.py of that project. A finished workflow moves from the queue to the history in one step,
so that what is in neither (asked in this order) is lost, and has to be queued again.
"""

from __future__ import annotations

import json
import re
import time
import urllib.parse
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.errors import ConfigError, nearest
from evalkit.models.base import Request
from evalkit.models.services.base import Service
from evalkit.models.services.client import Job, Stopped, Transient
from evalkit.utils.files import resolve_path, sha256_json

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_PLACEHOLDER = re.compile(r"\{\{\s*(\w+)\s*\}\}")
_SETTINGS = ("num_inference_steps", "guidance_scale", "height", "width", "sampler_name", "scheduler", "checkpoint")
_OWN = ("prompt", "negative_prompt", "seed")


class ComfyUI(Service):
    """Any workflow that makes one image.

    Args:
        workflow: a file in the API format (menu: Workflow, Export (API)). In its values stand {{prompt}} and {{seed}},
            and as you like {{negative_prompt}}, {{width}}, {{height}} and the other call settings' names. A value that
            is nothing but a placeholder takes the setting's type; within a longer text it becomes text.
        base_url: of ComfyUI.
        output_node: the id of the node whose image counts, where the workflow saves several.
        poll: seconds between two looks at the history: latencies are no finer than that.
        api_key_env, api_key_header, api_key_scheme, version, client: see `Service`. A request of `client.timeout` never
            waits for the image itself; `client.budget` does, the time in ComfyUI's queue included.

    Call settings: those above, negative_prompt (a prompt's own wins), and `extra`: placeholders of your own.
    """

    call_settings = frozenset({*_SETTINGS, "negative_prompt", "extra"})
    reserved = frozenset({*_SETTINGS, *_OWN})

    def __init__(
        self,
        workflow: str,
        base_url: str = "http://127.0.0.1:8188",
        api_key_env: str | None = None,
        api_key_header: str = "Authorization",
        api_key_scheme: str = "Bearer",
        version: str | None = None,
        output_node: str | int | None = None,
        poll: float = 0.5,
        client: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(base_url, api_key_env, api_key_header, api_key_scheme, version, client)
        if isinstance(poll, bool) or not isinstance(poll, int | float) or not 0 < poll < float("inf"):
            raise ConfigError(f"poll={poll!r}: give seconds, more than 0")
        self.workflow, self.output_node, self.poll = workflow, None if output_node is None else str(output_node), poll
        self._read: dict[str, Any] | None = None

    @property
    def graph(self) -> dict[str, Any]:
        """The workflow as it stands in its file: node id -> {class_type, inputs}."""
        if self._read is None:
            self._read = read_workflow(resolve_path(self.workflow))
        return self._read

    def check(self, *, fetch: bool = True) -> None:
        """Reads the workflow.

        Raises:
            ConfigError: it is missing, in the editor's format, or lacks {{prompt}} or {{seed}}.
        """
        names = set(placeholders(self.graph))
        for name in ("prompt", "seed"):
            if name not in names:
                raise ConfigError(
                    f"{self.workflow} has no {{{{{name}}}}}: put it where the workflow's own {name} stands"
                    + (' ("seed": "{{seed}}")' if name == "seed" else "")
                )
        if self.output_node is not None and self.output_node not in self.graph:
            known = nearest(self.output_node, self.graph)
            raise ConfigError(f"{self.workflow} has no node '{self.output_node}' (output_node). {known}")

    def identity(self) -> dict[str, Any]:
        """Address, version and the workflow's digest."""
        return {
            "kind": "comfyui",
            "url": self.base_url,
            "version": self.version,
            "workflow": sha256_json(self.graph),
            "output_node": self.output_node,
        }

    def check_call(self, sampler: Any, settings: Mapping[str, Any]) -> None:
        """As `Service`; and every placeholder has a value, every setting a placeholder.

        Raises:
            ConfigError: which one.
        """
        given = {name for name, value in self._values(settings).items() if value is not None} | set(_OWN)
        wanted = set(placeholders(self.graph))
        for name in sorted(wanted - given):
            raise ConfigError(f"{self.workflow}: {{{{{name}}}}} has no value. {nearest(name, given | set(_SETTINGS))}")
        asked = given - {"prompt", "seed"} - ({"negative_prompt"} if settings.get("negative_prompt") is None else set())
        for name in sorted(asked - wanted):
            raise ConfigError(f"{self.workflow} has no {{{{{name}}}}}: the setting {name} would change nothing")
        super().check_call(sampler, settings)

    def _values(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        own = {name: value for name, value in settings.items() if name != "extra"}
        return {**own, **(settings.get("extra") or {})}

    def ask(self, job: Job, request: Request, settings: Mapping[str, Any]) -> tuple[bytes, list[str]]:
        raise NotImplementedError("an image of ComfyUI takes several requests: see obtain")

    def obtain(
        self, job: Job, request: Request, settings: Mapping[str, Any]
    ) -> tuple[NDArray[np.uint8], float, list[str]]:
        """One image u8 [H,W,3], the seconds from queueing it to having it, and warnings."""
        negative = request.negative_prompt if request.negative_prompt is not None else settings.get("negative_prompt")
        values = {**self._values(settings), "prompt": request.prompt, "seed": request.seed32()}
        graph = fill(self.graph, {**values, "negative_prompt": negative or ""})
        ignored = bool(request.negative_prompt) and "negative_prompt" not in set(placeholders(self.graph))
        patient = job.patient()
        began = 0.0

        def made() -> dict[str, Any]:
            nonlocal began
            began = time.monotonic()
            return self._wait(job, patient, self._queue(job, graph))

        file = job.retrying(made)
        query = urllib.parse.urlencode({k: str(file.get(k) or "") for k in ("filename", "subfolder", "type")})
        address = f"{self.base_url}/view?{query}"
        pixels, notes = patient.retrying(lambda: self.decode(job.client.download(address, until=job.until), settings))
        job.retries += patient.retries
        return pixels, time.monotonic() - began, notes + (["negative_prompt_ignored"] if ignored else [])

    def _queue(self, job: Job, graph: Mapping[str, Any]) -> str:
        """Queues a workflow once, even where the answer is lost: it is looked for before it is sent again."""
        own = str(uuid.uuid4())
        sent = False

        def attempt() -> str:
            nonlocal sent
            if sent and self._there(job, own):
                return own
            sent = True
            body = {"prompt": graph, "prompt_id": own, "client_id": "evalkit"}
            answer = job.client.json("POST", "/prompt", body, until=job.until)
            given = answer.get("prompt_id")
            if not isinstance(given, str) or not given:
                raise Transient("the answer holds no prompt_id")
            return given  # older ones do not take ours

        return job.retrying(attempt)

    def _there(self, job: Job, prompt_id: str) -> bool:
        queue = job.client.json("GET", "/queue", until=job.until)
        waiting = [item for name in ("queue_running", "queue_pending") for item in queue.get(name) or []]
        queued = any(isinstance(item, list) and prompt_id in item[1:2] for item in waiting)
        return queued or self._history(job, prompt_id) is not None

    def _history(self, job: Job, prompt_id: str) -> Any:
        found = job.client.json("GET", f"/history/{urllib.parse.quote(prompt_id, safe='')}", until=job.until)
        return found.get(prompt_id)

    def _wait(self, job: Job, patient: Job, prompt_id: str) -> dict[str, Any]:
        """The image's {filename, subfolder, type}, once it is made.

        Raises:
            Transient: ComfyUI failed at it, forgot it, or made none or several.
            Stopped: the batch ended before ComfyUI began with it.
        """
        dropped = False
        while True:
            before = patient.retries
            entry = patient.retrying(lambda: self._history(job, prompt_id))
            if entry is not None:
                return self._output(job, entry)
            if job.stop.is_set() and not dropped:
                dropped = True
                patient.retrying(lambda: self._drop(job, prompt_id))
                if not patient.retrying(lambda: self._there(job, prompt_id)):
                    raise Stopped
            if patient.retries > before and not patient.retrying(lambda: self._there(job, prompt_id)):
                raise Transient("ComfyUI has forgotten what it was to make (started again?)")
            patient.wait(self.poll, "the image is not made yet")

    def _drop(self, job: Job, prompt_id: str) -> None:
        """Takes a workflow out of the queue, if it has not begun."""
        job.client.send("POST", "/queue", {"delete": [prompt_id]}, until=job.until)

    def _output(self, job: Job, entry: Any) -> dict[str, Any]:
        status = (entry.get("status") if isinstance(entry, dict) else None) or {}
        if status.get("status_str") == "error":
            raise Transient(f"ComfyUI failed: {job.client.quote(_message(status).encode())}")
        outputs = entry.get("outputs") if isinstance(entry, dict) else None
        files = [
            file
            for node, output in (outputs if isinstance(outputs, dict) else {}).items()
            if self.output_node in (None, node) and isinstance(output, dict)
            for file in output.get("images") or []
            if isinstance(file, dict) and file.get("filename")
        ]
        files = [file for file in files if file.get("type") == "output"] or files  # previews do not count beside them
        if len(files) != 1:
            raise Transient(f"the workflow made {len(files)} images, not 1 (output_node picks a node)")
        return files[0]


def _message(status: Mapping[str, Any]) -> str:
    """What an execution_error says."""
    for item in status.get("messages") or []:
        if isinstance(item, list) and len(item) == 2 and item[0] == "execution_error" and isinstance(item[1], dict):
            return f"{item[1].get('node_type')}: {item[1].get('exception_message')}"
    return "no reason given"


def read_workflow(file: Path) -> dict[str, Any]:
    """A workflow in the API format.

    Raises:
        ConfigError: it is missing, no JSON, or in the editor's format.
    """
    try:
        graph = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"workflow {file} cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        raise ConfigError(
            f'workflow {file} is no JSON: {error}. Placeholders stand in quotes: "{{{{seed}}}}"'
        ) from None
    if isinstance(graph, dict) and "nodes" in graph and "links" in graph:
        raise ConfigError(f"workflow {file} is in the editor's format: export it again with Export (API)")
    nodes = isinstance(graph, dict) and all(isinstance(n, dict) and "class_type" in n for n in graph.values())
    if not nodes or not graph:
        raise ConfigError(f"workflow {file} is no workflow in the API format: {{id: {{class_type, inputs}}}}")
    return dict(graph)


def placeholders(value: Any) -> Iterator[str]:
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
