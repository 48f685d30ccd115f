"""Any OpenAI-compatible chat endpoint that takes images: vLLM, SGLang, Ollama, llama.cpp, OpenAI, Azure, LiteLLM.

One call is one question: `POST /chat/completions` with the images as data: URLs in front of the text. What the answer
says of its model is what the identity says, too; an endpoint that answers in another name is refused.
"""

from __future__ import annotations

import base64
import io
import logging
import math
import re
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from evalkit.errors import ConfigError, ServiceError, nearest, whole_number
from evalkit.http.client import Client, ClientOptions, Transient
from evalkit.http.job import Job
from evalkit.http.keys import Key, check_url
from evalkit.judges.asker import Answer, Asker, Item
from evalkit.utils.files import sha256_json

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from evalkit.judges.place import AnswerPlace

log = logging.getLogger(__name__)

LISTED = 10.0  # seconds for the list of models
RESERVED = frozenset({"model", "messages", "temperature", "seed", "logprobs", "top_logprobs", "stream", "n"})
LIMITS = ("max_tokens", "max_completion_tokens")
_REFUSED = re.compile(r"content[ _-](?:management|filter|policy)|safety system|responsible ai", re.I)
_STRANGE = "the answer is no chat completion"


@dataclass(eq=False)
class Chat(Asker):
    """A chat endpoint.

    Args:
        base_url: where it is, without /chat/completions: http://127.0.0.1:8000/v1.
        model: its name there; none: the only one that the endpoint lists.
        revision: anything that names what is deployed under this name; change it when that changes. It is another judge
            then, and everything is asked again.
        api_key_env, api_key_header, api_key_scheme: as of the image services (`evalkit.models.services.base.Service`).
        system: a system message; none: none.
        temperature, seed: none: not sent, for models that take none. Repeat i is asked with seed + i.
        max_tokens: of an answer.
        limit_field: what the endpoint calls it: max_tokens, or max_completion_tokens (OpenAI's newer models).
        top_logprobs: alternatives of the first token that are asked for, 1 to 20.
        encoding: how images are sent: png, or jpeg:95 (its quality).
        detail: OpenAI's "low", "high" or "auto"; none: not sent.
        extra: further fields of the request.
        client: see `ClientOptions`.
    """

    base_url: str
    model: str | None = None
    revision: str | None = None
    api_key_env: str | None = None
    api_key_header: str = "Authorization"
    api_key_scheme: str = "Bearer"
    system: str | None = None
    temperature: float | None = 0.0
    seed: int | None = 0
    max_tokens: int = 512
    limit_field: str = "max_tokens"
    top_logprobs: int = 20
    encoding: str = "png"
    detail: str | None = None
    extra: Mapping[str, Any] | None = None
    client: Mapping[str, Any] | None = None
    where: str = "extractor.judge.asker"
    _place: AnswerPlace | None = field(default=None, init=False)
    _reported: Mapping[str, Any] | None = field(default=None, init=False)
    _client: Client | None = field(default=None, init=False)
    _stop: threading.Event = field(default_factory=threading.Event, init=False)

    def __post_init__(self) -> None:
        self.base_url = check_url(self.base_url, f"{self.where}.base_url").removesuffix("/chat/completions")
        self.key = Key(self.api_key_env, self.api_key_header, self.api_key_scheme)
        self.options = ClientOptions.of(self.client)
        self.threads = self.options.concurrency
        whole_number(self.max_tokens, f"{self.where}.max_tokens")
        if not 1 <= whole_number(self.top_logprobs, f"{self.where}.top_logprobs") <= 20:
            raise ConfigError(f"{self.where}.top_logprobs={self.top_logprobs}: give 1 to 20")
        if self.limit_field not in LIMITS:
            raise ConfigError(f"{self.where}.limit_field={self.limit_field}: {nearest(self.limit_field, LIMITS)}")
        if self.temperature is not None and not 0 <= self.temperature < math.inf:
            raise ConfigError(f"{self.where}.temperature={self.temperature}: give 0 or more, or null")
        self._kind, self._quality = encoding_of(self.encoding, f"{self.where}.encoding")
        for name in self.extra or {}:
            if name in RESERVED or name in LIMITS:
                raise ConfigError(f"{self.where}.extra.{name}: this field is set by evalkit: see the asker's options")

        # The name under which the store holds what this endpoint said of itself.
        self._note = f"reported-{sha256_json([self.base_url, self.model, self.revision])[:12]}"

    @property
    def place(self) -> str:
        return f"a chat endpoint at {self.base_url}"

    def keep_in(self, place: AnswerPlace) -> None:
        self._place = place

    def identity(self) -> dict[str, Any]:
        """Not the address: the same weights behind another port are the same judge."""
        return {
            "judge": "chat completions",
            "model": self.model,
            "revision": self.revision,
            "reported": dict(self._reported or {}),
            "system": self.system,
            "temperature": self.temperature,
            "seed": self.seed,
            "max_tokens": self.max_tokens,
            "encoding": self.encoding if self._kind == "png" else f"{self.encoding}, Pillow",
            "detail": self.detail,
            "extra": dict(self.extra or {}),
        }

    def label(self) -> str:
        name = str((self._reported or {}).get("model") or self.model or "unknown").rpartition("/")[2]
        return f"{name}@{self.revision}" if self.revision else name

    # what the endpoint says that it is

    def check(self, *, fetch: bool = True, first_token: bool = False) -> None:
        """Asks the endpoint what it is; one question with a small image, if no answer of it is stored.

        Where the endpoint is gone and its answers are stored, the store says what it was.
        """
        noted = self._place.record(self._note) if self._place is not None else None
        try:
            self.key.check()
            listed = self._listed()
        except ConfigError as error:
            if noted is None:
                raise
            log.warning("%s; answers that are stored will do, no other can be asked for", error)
            self.model, self._reported = noted["model"], dict(noted["reported"])
            return
        same = noted is not None and (noted["model"], noted["listed"]) == (self.model, listed)
        if noted is not None and same and (noted["logprobs"] or not first_token):
            self._reported = dict(noted["reported"])
            return
        if not fetch:
            self._reported = listed
            return
        answer = self._try(first_token)
        logprobs = answer.first is not None
        if first_token and not logprobs:
            raise ConfigError(
                f"{self.where}: {self.base_url} gives no logprobs, which the way yes_probability reads: take yes_no"
            )
        self._reported = {**listed, "model": answer.model}
        if self._place is not None:
            about = {"base_url": self.base_url, "model": self.model, "listed": listed, "logprobs": logprobs}
            self._place.note(self._note, {**about, "reported": self._reported})

    def _listed(self) -> dict[str, Any]:
        """What the endpoint lists of the model, as far as it stays the same from start to start; empty: it lists none.

        Raises:
            ConfigError: the endpoint is not there, refuses the key, or lists several models and none is named.
        """
        client = self._make_client()
        client.probe()
        entries = self._models(client, "/models", "data", "id")
        if self.model is None:
            if len(entries) != 1:
                raise ConfigError(f"{self.where}.model is not set: {self.base_url} lists {len(entries)} models")
            self.model = next(iter(entries))
        entry = dict(entries.get(self.model, {}))  # Azure's deployments and LiteLLM's wildcards are not listed
        if entry.get("owned_by") == "library":  # Ollama: its list of its own has the weights' digest
            tags = replace(client, base_url=self.base_url.removesuffix("/v1"))
            entry |= self._models(tags, "/api/tags", "models", "name").get(self.model, {})
        return {name: str(entry[name]) for name in ("root", "digest", "revision") if isinstance(entry.get(name), str)}

    def _models(self, client: Client, path: str, field: str, name: str) -> dict[str, Mapping[str, Any]]:
        """A list of models by name. ConfigError: the key is refused, or the endpoint fails."""
        try:
            value = client.json("GET", path, deadline=time.monotonic() + LISTED).get(field)
        except Transient as error:
            raise ConfigError(f"{self.where}: {client.base_url}{path}: {error}") from None
        except ServiceError as error:
            if " refuses " in str(error):  # a key that is wrong for this is wrong for questions
                raise ConfigError(f"{self.where}: {error}") from None
            return {}
        entries = value if isinstance(value, list) else []
        return {str(entry[name]): entry for entry in entries if isinstance(entry, Mapping) and name in entry}

    def _try(self, first_token: bool) -> Answer:
        """One question with a small image: whether key, model, images and logprobs do. ConfigError: they do not."""
        import numpy as np

        client, image = self._make_client(), np.full((32, 32, 3), 128, np.uint8)
        item = Item((image,), "Is this image grey? Please answer yes or no.", first_token)
        job = Job(client, "a first question", self._stop, time.monotonic() + self.options.budget)
        try:
            return job.retrying(lambda: self._once(job, item))
        except ServiceError as error:
            raise ConfigError(f"{self.where}: {self.base_url}: {self.key.redact(str(error))}") from None

    # questions

    def load(self, device: str) -> None:
        """Makes the client; `device` says nothing to an endpoint."""
        self._client, self._stop = self._make_client(), threading.Event()

    def unload(self) -> None:
        self._client = None

    def stop(self) -> None:
        self._stop.set()

    def _make_client(self) -> Client:
        return Client(self.base_url, self.key, self.options)

    def ask(self, items: Sequence[Item]) -> Sequence[Answer]:
        assert self._client is not None, "load() comes first"
        self.key.check()  # only now: stored answers need none
        answers = []
        for item in items:
            job = Job(self._client, f"a question on image {item.shown[0][:8]}", self._stop, self._deadline())
            try:
                answer = job.retrying(lambda job=job, item=item: self._once(job, item))  # type: ignore[misc]
            except ServiceError as error:
                raise ServiceError(
                    f"{self.base_url}: {self.key.redact(str(error))}. Answers so far are stored: the same command goes "
                    "on from there"
                ) from None
            self._check_model(answer)
            answers.append(answer)
        return answers

    def _deadline(self) -> float:
        return time.monotonic() + self.options.budget

    def _check_model(self, answer: Answer) -> None:
        known = (self._reported or {}).get("model")
        if known is not None and answer.model != known:
            raise ServiceError(
                f"{self.base_url} answers as '{answer.model}' now, and was '{known}': two judges make no one score. "
                f"Set {self.where}.model to a name that stays, or {self.where}.revision to begin with the new one"
            )

    def body(self, item: Item) -> dict[str, Any]:
        """The request."""
        detail = {"detail": self.detail} if self.detail else {}
        images = [{"type": "image_url", "image_url": {"url": self._encoded(one), **detail}} for one in item.images]
        system = [{"role": "system", "content": self.system}] if self.system else []
        limit = min(self.max_tokens, item.max_tokens or self.max_tokens)
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [*system, {"role": "user", "content": [*images, {"type": "text", "text": item.text}]}],
            self.limit_field: limit,
        }
        if self.temperature is not None:
            body["temperature"] = self.temperature
        if self.seed is not None:
            body["seed"] = self.seed + item.repeat
        if item.first_token:
            body |= {"logprobs": True, "top_logprobs": self.top_logprobs}
        return body | dict(self.extra or {})

    def _encoded(self, image: NDArray[np.uint8]) -> str:
        from PIL import Image

        file = io.BytesIO()
        options = {} if self._kind == "png" else {"quality": self._quality, "subsampling": 0}
        Image.fromarray(image).save(file, self._kind, **options)
        return f"data:image/{self._kind};base64,{base64.b64encode(file.getvalue()).decode()}"

    def _once(self, job: Job, item: Item) -> Answer:
        """One attempt. Transient or ServiceError as of the client; a refusal is an answer."""
        try:
            value = job.json("POST", "/chat/completions", self.body(item))
        except ServiceError as error:
            if _REFUSED.search(str(error)):  # a filter's status 400: another attempt would meet it again
                return Answer(str(error), finish="refusal", model=(self._reported or {}).get("model"))
            raise
        return parse_completion(value)


def parse_completion(value: Mapping[str, Any]) -> Answer:
    """The answer of a chat completion. Transient: it is none."""
    choices = value.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = choice.get("message") if isinstance(choice, Mapping) else None
    if not isinstance(choice, Mapping) or not isinstance(message, Mapping):
        raise Transient(_STRANGE)
    text, refusal = message.get("content"), message.get("refusal")
    finish = str(choice.get("finish_reason") or "stop")
    refused = (isinstance(refusal, str) and bool(refusal)) or finish == "content_filter"
    if refused:
        text = refusal if isinstance(refusal, str) else text
    elif not isinstance(text, str) and text is not None:
        raise Transient(_STRANGE)
    usage, model = value.get("usage"), value.get("model")
    counts = usage if isinstance(usage, Mapping) else {}
    fingerprint = value.get("system_fingerprint")
    return Answer(
        text if isinstance(text, str) else "",
        _first_token(choice.get("logprobs")),
        "refusal" if refused else finish,
        model if isinstance(model, str) else None,
        _count(counts.get("prompt_tokens")),
        _count(counts.get("completion_tokens")),
        {"system_fingerprint": fingerprint} if isinstance(fingerprint, str) else {},
    )


def _first_token(logprobs: object) -> dict[str, float] | None:
    """Token -> log probability of the first token's alternatives; none where there are none. Transient: no numbers."""
    content = logprobs.get("content") if isinstance(logprobs, Mapping) else None
    first = content[0] if isinstance(content, list) and content else None
    top = first.get("top_logprobs") if isinstance(first, Mapping) else None
    if not isinstance(first, Mapping) or not isinstance(top, list):
        return None
    found: dict[str, float] = {}
    for each in [*top, first]:
        token, logprob = (each.get("token"), each.get("logprob")) if isinstance(each, Mapping) else (None, None)
        if not isinstance(token, str) or isinstance(logprob, bool) or not isinstance(logprob, int | float):
            raise Transient("the answer's logprobs are no numbers by token")
        if math.isfinite(logprob) and logprob <= 0.01:
            found.setdefault(token, min(float(logprob), 0.0))
    return found or None


def _count(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31 else 0


def encoding_of(text: str, where: str) -> tuple[str, int]:
    """Kind and quality of "png", "jpeg" or "jpeg:95". ConfigError: it is none of them."""
    kind, _, quality = text.partition(":")
    if kind == "png" and not quality:
        return kind, 0
    if kind == "jpeg" and (not quality or (quality.isdecimal() and 1 <= int(quality) <= 100)):
        return kind, int(quality or 95)
    raise ConfigError(f"{where}={text}: give png, or jpeg:QUALITY (1 to 100)")
