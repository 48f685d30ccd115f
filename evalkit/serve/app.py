"""The scorer server as an ASGI application: POST /score, GET /metrics, GET /health. Bad input is one line, with 4xx."""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import hmac
import json
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Any

from evalkit.data.codec import decode
from evalkit.errors import ConfigError, DataError, EvalkitError, nearest
from evalkit.serve.batcher import Asked, Batcher, Busy
from evalkit.utils.text import one_line

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

    from evalkit.serve.scores import ImageScores

MAX_BYTES = 256 << 20  # of a request
MAX_IMAGES = 256  # of a request
KEYS = ("images", "prompts", "metrics")


class Refusal(Exception):
    """A request that cannot be answered: status and line."""

    def __init__(self, status: int, line: str) -> None:
        super().__init__(line)
        self.status = status


def make_app(scores: ImageScores, batcher: Batcher, token: str | None = None) -> Starlette:
    """The application.

    Args:
        scores: which metrics there are.
        batcher: scores the requests.
        token: that every request but that for /health must bring as `Authorization: Bearer TOKEN`; none: all may ask.
    """
    from starlette.applications import Starlette
    from starlette.routing import Route

    about = scores.describe()

    async def score(request: Request) -> Response:
        asked = await _read(request, scores)
        values, together = await batcher.submit(asked)
        return _json({"scores": values, "batch": together})

    async def metrics(request: Request) -> Response:
        return _json({"metrics": about})

    async def health(request: Request) -> Response:
        counts = {"batches": batcher.batches, "images": batcher.images, "waiting": batcher.waiting}
        return _json({"status": "ok", "metrics": list(about), "device": scores.device, **counts})

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        running = asyncio.create_task(batcher.run())
        yield
        running.cancel()

    def answering(page: Any, *, open: bool = False) -> Any:
        async def answer(request: Request) -> Response:
            try:
                if token is not None and not open:
                    _check_token(request, token)
                return await page(request)  # type: ignore[no-any-return]
            except Refusal as refusal:
                return _error(refusal.status, str(refusal))
            except Busy as error:
                return _error(503, str(error), {"Retry-After": "1"})
            except EvalkitError as error:  # these images do not suit a metric
                return _error(422, str(error))
            except MemoryError:
                return _error(503, "memory ran out: ask for fewer images", {"Retry-After": "1"})

        return answer

    async def unknown(request: Request, error: Exception) -> Response:
        status = getattr(error, "status_code", 500)
        known = "POST /score, GET /metrics, GET /health"
        return _error(status, f"{request.method} {request.url.path}: there is no such thing here: {known}")

    return Starlette(
        routes=[
            Route("/score", answering(score), methods=["POST"]),
            Route("/metrics", answering(metrics), methods=["GET"]),
            Route("/health", answering(health, open=True), methods=["GET"]),
        ],
        exception_handlers={404: unknown, 405: unknown},
        lifespan=lifespan,
    )


def _json(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    from starlette.responses import JSONResponse

    return JSONResponse(content, status, {"Cache-Control": "no-store", **(headers or {})})


def _error(status: int, line: str, headers: dict[str, str] | None = None) -> Response:
    return _json({"error": one_line(line)}, status, headers)


def _check_token(request: Request, token: str) -> None:
    given = request.headers.get("authorization", "").removeprefix("Bearer ")
    if not hmac.compare_digest(given.encode(), token.encode()):
        raise Refusal(401, "this server wants its token: Authorization: Bearer TOKEN")


async def _read(request: Request, scores: ImageScores) -> Asked:
    """A request's images, prompts and metrics, all of them looked at. Refusal: what is wrong, and where."""
    from starlette.concurrency import run_in_threadpool

    kind = request.headers.get("content-type", "").partition(";")[0].strip()
    if kind != "application/json":  # another site's form cannot say so
        raise Refusal(415, f"content-type: {kind or 'none'}: send application/json")
    body = bytearray()
    async for block in request.stream():
        body += block
        if len(body) > MAX_BYTES:
            raise Refusal(413, f"more than {MAX_BYTES >> 20} MiB: send fewer images at a time")
    return await run_in_threadpool(_parse, bytes(body), scores)


def _parse(body: bytes, scores: ImageScores) -> Asked:
    try:
        given = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Refusal(400, f"this is no JSON: {error}") from error
    if not isinstance(given, dict):
        raise Refusal(400, 'give an object: {"images": [...], "prompts": [...]}')
    for key in given:
        if key not in KEYS:
            raise Refusal(400, f"there is no '{key}'. {nearest(str(key), KEYS)}")
    names = _names(given.get("metrics"), scores)
    images = given.get("images")
    if not isinstance(images, list) or not images:
        raise Refusal(400, "images: give a list of base64 texts of PNG files")
    if len(images) > MAX_IMAGES:
        raise Refusal(413, f"images: {len(images)} of them: send {MAX_IMAGES} at a time")
    prompts = _prompts(given.get("prompts"), len(images), [name for name in names if scores.needs_prompts(name)])
    return Asked(names, [_image(text, f"images[{i}]") for i, text in enumerate(images)], prompts)


def _names(given: Any, scores: ImageScores) -> tuple[str, ...]:
    if given is None:
        return tuple(scores.metrics)
    if not isinstance(given, list) or not given:
        raise Refusal(400, "metrics: give a list of names, or leave it out for all")
    for name in given:
        if not isinstance(name, str) or name not in scores.metrics:
            raise Refusal(400, f"metrics: '{name}' is not served. {nearest(str(name), scores.metrics)}")
    return tuple(dict.fromkeys(given))


def _prompts(given: Any, count: int, wanting: Sequence[str]) -> Sequence[str] | None:
    if given is None:
        if wanting:
            raise Refusal(400, f"prompts: {', '.join(wanting)} needs one per image")
        return None
    if not isinstance(given, list) or not all(isinstance(text, str) and text for text in given):
        raise Refusal(400, "prompts: give a list of texts, none of them empty")
    if len(given) != count:
        raise Refusal(400, f"prompts: {len(given)} of them for {count} images")
    return given


def _image(text: Any, where: str) -> Any:
    """u8 [H,W,3] of a base64 text, which may be a data URL."""
    if not isinstance(text, str):
        raise Refusal(400, f"{where}: a base64 text is wanted, not {type(text).__name__}")
    try:
        data = base64.b64decode(text.partition(",")[2] if text.startswith("data:") else text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Refusal(400, f"{where}: this is no base64: {error}") from error
    try:
        return decode(data, where)
    except (DataError, ConfigError) as error:
        raise Refusal(400, str(error)) from error
