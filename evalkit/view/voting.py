"""The voting page as an application: a page, a voter's state, images under names that say nothing, votes and undos.

For this machine alone, as the pages of `evalkit view`; a vote is taken from its own page only (JSON, same origin).
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.errors import DataError, EvalkitError, StoreError
from evalkit.history.html import digest, environment
from evalkit.report.page import palette
from evalkit.utils.json_files import parse_json
from evalkit.view.app import ALWAYS, HOSTS, is_foreign
from evalkit.view.ballot import Ballot

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

TEMPLATES = Path(__file__).parent / "templates"
MAX_BODY = 16_384  # bytes of a vote


def page(data: Any, connect: str, images: str) -> tuple[str, str]:
    """The page's HTML, and its Content-Security-Policy.

    Args:
        data: what an export has of its own instead of a server; none: it asks one.
        connect, images: where the page may ask for data and for images.
    """
    script = (TEMPLATES / "vote.js").read_text(encoding="utf-8")
    policy = (
        f"default-src 'none'; script-src {digest(script)}; style-src 'unsafe-inline'; img-src {images} data:; "
        f"connect-src {connect}; base-uri 'none'; form-action 'none'"
    )
    text = (
        environment(TEMPLATES)
        .get_template("vote.html")
        .render(
            css=palette() + (TEMPLATES / "vote.css").read_text(encoding="utf-8"),
            script=script,
            policy=policy,
            data=json.dumps(data, ensure_ascii=True).replace("<", "\\u003c"),
        )
    )
    return text, policy


def make_voting_app(ballot: Ballot) -> Starlette:
    """The page and what it asks for, as an ASGI application."""
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.routing import Route

    return Starlette(
        routes=[
            Route("/", _endpoint(ballot, _page), methods=["GET"]),
            Route("/state", _endpoint(ballot, _state), methods=["GET"]),
            Route("/image/{token}", _endpoint(ballot, _image), methods=["GET"]),
            Route("/vote", _endpoint(ballot, _vote), methods=["POST"]),
            Route("/undo", _endpoint(ballot, _undo), methods=["POST"]),
        ],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=HOSTS, www_redirect=False)],
    )


Answer = Callable[[Ballot, "Request", Any], "Response"]


def _endpoint(ballot: Ballot, answer: Answer) -> Callable[[Request], Awaitable[Response]]:
    from starlette.concurrency import run_in_threadpool

    async def respond(request: Request) -> Response:
        if is_foreign(request):
            return _error("This page is for itself alone.", 403)
        try:
            value = await _body(request) if request.method == "POST" else None
            return await run_in_threadpool(answer, ballot, request, value)
        except PermissionError as error:
            return _error(str(error), 403)
        except LookupError:
            return _error("There is no such image: load the page again.", 404)
        except StoreError as error:  # the disk is full, say: the page keeps the item, and says so
            return _error(str(error), 507)
        except (DataError, EvalkitError, ValueError) as error:
            return _error(str(error), 400)

    return respond


async def _body(request: Request) -> dict[str, Any]:
    """A POST's JSON object.

    Raises:
        PermissionError: another site's page may have sent it: a form cannot send JSON, a script not without asking.
        DataError: it is none, or is too long.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    origin, host = request.headers.get("origin"), request.headers.get("host")
    if kind != "application/json" or (origin is not None and origin != f"http://{host}"):
        raise PermissionError("Votes are taken from this page alone.")
    data = b""
    async for part in request.stream():
        data += part
        if len(data) > MAX_BODY:
            raise DataError(f"a vote of more than {MAX_BODY:,} bytes")
    value = parse_json(data, "vote", finite=True)
    if not isinstance(value, dict):
        raise DataError("a vote: give a JSON object")
    return value


def _field(value: Any, name: str, *kinds: type) -> Any:
    """A field of a POST, of one of these types."""
    item = value.get(name)
    if not isinstance(item, kinds) or isinstance(item, bool):
        raise DataError(f"a vote's '{name}' is missing, or of another type")
    return item


def _page(ballot: Ballot, request: Request, _: Any) -> Response:
    from starlette.responses import HTMLResponse

    text, policy = page(None, connect="'self'", images="'self'")
    headers = {**ALWAYS, "Content-Security-Policy": f"{policy}; frame-ancestors 'none'"}
    return HTMLResponse(text, headers=headers)


def _state(ballot: Ballot, request: Request, _: Any) -> Response:
    return _json(ballot.state(request.query_params.get("voter", "")))


def _vote(ballot: Ballot, request: Request, value: Any) -> Response:
    voter, item, outcome = (_field(value, name, str) for name in ("voter", "item", "outcome"))
    return _json(ballot.vote(voter, item, outcome, _field(value, "seconds", int, float)))


def _undo(ballot: Ballot, request: Request, value: Any) -> Response:
    return _json(ballot.undo(_field(value, "voter", str), _field(value, "done", int)))


def _image(ballot: Ballot, request: Request, _: Any) -> Response:
    from starlette.responses import Response

    data = ballot.image(request.path_params["token"])
    return Response(data, media_type="image/png", headers={**ALWAYS, "Content-Security-Policy": "default-src 'none'"})


def _json(value: Any, status: int = 200) -> Response:
    from starlette.responses import JSONResponse

    return JSONResponse(value, status, {**ALWAYS, "Content-Security-Policy": "default-src 'none'"})


def _error(text: str, status: int) -> Response:
    return _json({"error": text}, status)
